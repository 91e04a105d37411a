"""The claim session: holds the slots, decides whose turn it is, claims, and hears what others have to say."""

from __future__ import annotations

import logging
import random
import select
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from time import monotonic

from asynch import db, metrics
from asynch.domain import turns
from asynch.errors import AsynchError, CutReason, SessionLost
from asynch.store import queue
from asynch.store.queue import MOURNING_S, Claim, Lane, Slot
from asynch.worker.marks import Marks
from asynch.worker.running import Running
from asynch.worker.tmpdir import TmpDir

logger = logging.getLogger(__name__)

#: A session that has not answered for this long is taken for lost, well before others take its slots.
SILENCE_S = 8.0
#: A session without a question is asked one after this: idle or busy, its loss must be noticed.
_PING_S = 2.0
#: What is known of a lane is asked again after this.
_LANE_LIFE_S = 1.0
#: A sweep over all lanes may take this part of the time.
_SWEEP_SHARE = 0.2
_MOST_TRIES = 2000


@dataclass(frozen=True, slots=True)
class Limits:
    """The worker's settings that matter to a round."""

    threads: int
    reserve: int
    batch_size: int
    poll_interval_s: float
    timezone: str


@dataclass(frozen=True, slots=True)
class _Budget:
    """How many calls may start now, and for whom not."""

    calls: int
    busy: frozenset[int] = frozenset()
    per_tenant: int | None = None


class Poller:
    """Runs rounds on the claim session until it is told to stop or the session is lost.

    A round gives back what is free, tries slots of the lanes whose turn it is, claims up to the slots won, and hands
    each claim over with its slot. All state here belongs to the poller's thread, but `give_back` and `wake`.
    """

    def __init__(
        self,
        session: db.Connection,
        *,
        worker_id: int,
        limits: Limits,
        running: Running,
        tmp: TmpDir,
        hand_over: Callable[[Claim, Slot], None],
    ) -> None:
        self._session = session
        self._worker_id = worker_id
        self._limits = limits
        self._running = running
        self._tmp = tmp
        self._hand_over = hand_over
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._woken = False
        self._freed_lock = threading.Lock()
        self._freed: list[Slot] = []
        self._unused: list[Slot] = []  # won, but without a task; no reason to look at their lanes again
        self._held: dict[int, set[int]] = defaultdict(set)
        self._lanes: dict[int, tuple[Lane, float]] = {}  # with the time they were asked for
        self._named: set[int] = set()
        self._hot: dict[int, None] = {}  # lanes that may have work and a slot, in the order they were met
        self._mourned: dict[int, int] = {}  # lanes where calls of workers that just died may be open, and how many
        self._marks = Marks()
        self._again: set[int] = set()  # lanes that may have tasks before their marks
        self._served: dict[tuple[str, int], int] = {}
        self._turn = count(1)
        self._cursor = 0
        self._next_sweep = 0.0
        self._sweep_began = 0.0
        self._draining = False
        self.answered_at = monotonic()  #: when the session last answered

    def give_back(self, slot: Slot) -> None:
        """The call that held this slot is over and its outcome committed. Any thread."""
        with self._freed_lock:
            self._freed.append(slot)
        self.wake()

    def wake(self) -> None:
        """Something changed: have a round now. Any thread."""
        if not self._woken:  # one byte for all who call before it is read: each costs a system call
            self._woken = True
            with suppress(BlockingIOError, OSError):
                self._writer.send(b"\0")

    def drain(self) -> None:
        """Claim no more; slots are still given back. Any thread."""
        self._draining = True
        self.wake()

    def run(self, stop: threading.Event) -> None:
        """Rounds until `stop`; raises SessionLost."""
        try:
            with db.wrapped():
                self._session.execute("LISTEN asynch_lane")
                self._session.execute("LISTEN asynch_cancel")
                while not stop.is_set():
                    again = self._round_if_there_are_locks()
                    if monotonic() - self.answered_at >= _PING_S:
                        self._session.execute("SELECT 1")
                        self.answered_at = monotonic()
                    self._wait(0.0 if again else min(self._patience(), _PING_S))
        except (AsynchError, db.Error) as exc:
            raise SessionLost(str(exc)) from exc
        finally:
            self._session.close()
            self._reader.close()
            self._writer.close()

    # -- one round ---------------------------------------------------------------------------------------------

    def _round_if_there_are_locks(self) -> bool:
        """A round; where the server has no memory for another lock, no slot is free, and nothing worse."""
        try:
            return self._round()
        except db.OutOfLocks as exc:
            logger.warning("no memory for another lock, see max_locks_per_transaction", extra={"error": str(exc)})
        self._unused = [s for s in queue.own_slots(self._session) if s.slot not in self._held[s.lane_id]]
        return False

    def _round(self) -> bool:
        """One round; True when the next should follow at once."""
        freed = self._take_freed()
        budget = self._budget()
        sweeping = budget.calls > 0
        if sweeping:
            self._look_for_lanes(budget)
        dealt = self._deal(budget)
        if not freed and not dealt:
            return sweeping and self._cursor > 0
        wants = [(lane, n + self._mourned.get(lane, 0), self._tries(lane)) for lane, n in dealt.items()]
        won, dead = queue.swap_slots(
            self._session, give_back=freed, wants=wants, worker_id=self._worker_id, grace_s=MOURNING_S
        )
        won = self._respect_the_dead(won, dealt, dead)
        claimed = self._claim(won)
        self._forget_exhausted(dealt, won, claimed)
        return bool(dealt) or bool(self._unused) or (sweeping and self._cursor > 0)

    def _take_freed(self) -> list[Slot]:
        with self._freed_lock:
            freed, self._freed = self._freed, []
        self._hot.update(dict.fromkeys(slot.lane_id for slot in freed))
        freed += self._unused
        self._unused = []
        for slot in freed:
            self._held[slot.lane_id].discard(slot.slot)
        return freed

    def _budget(self) -> _Budget:
        busy_threads, tenants = self._running.calls()
        if self._draining or not self._tmp.may_start(busy_threads):
            return _Budget(0)
        if self._tmp.careful:
            return _Budget(1)
        if (free := self._limits.threads - busy_threads) > 0:
            return _Budget(free)
        # The reserve is for tenants that have nothing running here: no tenant's long calls keep another out.
        return _Budget(free + self._limits.reserve, frozenset(tenants), per_tenant=1)

    def _look_for_lanes(self, budget: _Budget) -> None:
        now = monotonic()
        if self._cursor > 0 or now >= self._next_sweep:
            if self._cursor == 0:
                self._sweep_began = now
            found, cursor = queue.scan_lanes(self._session, after=self._cursor, most=self._limits.batch_size)
            self.answered_at = monotonic()
            self._cursor = cursor or 0
            self._remember(found)
            self._hot.update(dict.fromkeys(lane.lane_id for lane in found if lane.tenant_id not in budget.busy))
            if self._cursor == 0:
                took = monotonic() - self._sweep_began
                pause = max(0.05, took / _SWEEP_SHARE) if found else self._limits.poll_interval_s
                self._next_sweep = monotonic() + min(pause, self._limits.poll_interval_s)
        self._hot.update(dict.fromkeys(self._named))
        self._named.clear()
        stale = [lane for lane in self._hot if self._asked_at(lane) < now - _LANE_LIFE_S]
        if stale:
            self._remember(queue.lanes_named(self._session, stale))
            for lane in stale:
                if self._asked_at(lane) < now - _LANE_LIFE_S:  # closed or gone
                    self._hot.pop(lane, None)
                    self._lanes.pop(lane, None)
                    self._marks.forget(lane)

    def _asked_at(self, lane_id: int) -> float:
        known = self._lanes.get(lane_id)
        return known[1] if known else float("-inf")

    def _remember(self, lanes: Sequence[Lane]) -> None:
        now = monotonic()
        for lane in lanes:
            self._lanes[lane.lane_id] = (lane, now)

    def _deal(self, budget: _Budget) -> dict[int, int]:
        if budget.calls <= 0:
            return {}
        seats = [
            turns.Seat(lane.lane_id, lane.tenant_id, lane.max_concurrency - len(self._held[lane.lane_id]))
            for lane in (self._lanes[lane_id][0] for lane_id in self._hot)
            if lane.tenant_id not in budget.busy
        ]
        return turns.deal(seats, budget.calls, served=self._served, per_tenant=budget.per_tenant)

    def _tries(self, lane_id: int) -> Sequence[int]:
        """Every slot number this session does not hold, in random order: fewer tries would miss the last free one."""
        held = self._held[lane_id]
        free = [n for n in range(self._lanes[lane_id][0].max_concurrency) if n not in held]
        return random.sample(free, min(len(free), _MOST_TRIES))

    def _respect_the_dead(self, won: list[Slot], dealt: Mapping[int, int], dead: Mapping[int, bool]) -> list[Slot]:
        """The slots that may be used: where a worker has just died, only those beyond one for each of its calls.

        It may live and need a moment to cut them. Who holds so many free slots at this moment knows that all calls of
        the living and of the dead together are not more than the lane's.
        """
        fresh = [worker for worker, mourned in dead.items() if not mourned]
        self._mourned = {}
        if fresh:
            queue.mark_dead(self._session, fresh)
        if dead:
            self._mourned = queue.lanes_in_mourning(self._session, fresh, list(dead))
        usable: list[Slot] = []
        spared, used = Counter(self._mourned), Counter(dealt)
        for slot in won:
            if spared[slot.lane_id] > 0:
                spared[slot.lane_id] -= 1
                self._unused.append(slot)
            elif used[slot.lane_id] > 0:
                used[slot.lane_id] -= 1
                usable.append(slot)
            else:  # the mourning ended meanwhile
                self._unused.append(slot)
        return usable

    def _claim(self, won: list[Slot]) -> Counter[int]:
        """Claim as many tasks as slots were won; a slot without a task goes back."""
        claimed: Counter[int] = Counter()
        if not won:
            return claimed
        slots: dict[int, list[Slot]] = defaultdict(list)
        for slot in won:
            slots[slot.lane_id].append(slot)
        counts = {lane: len(of_lane) for lane, of_lane in slots.items()}
        starts = self._marks.starts(counts)
        began = monotonic()
        claims = queue.claim(
            self._session, counts=counts, starts=starts, worker_id=self._worker_id, timezone=self._limits.timezone
        )
        self._again = self._marks.learn(counts, starts, claims, took_s=monotonic() - began)
        for slot in won:
            self._held[slot.lane_id].add(slot.slot)
        for claim in claims:
            claimed[claim.lane_id] += 1
            metrics.CLAIMS.labels("follow" if claim.poll_url else "call").inc()
            if not claim.poll_url:
                metrics.WAITED.observe(claim.waited_s)
            self._note_turn(claim)
            self._hand_over(claim, slots[claim.lane_id].pop())
        for of_lane in slots.values():
            self._unused += of_lane
        return claimed

    def _note_turn(self, claim: Claim) -> None:
        turn = next(self._turn)
        self._served["tenant", claim.tenant_id] = turn
        self._served["lane", claim.lane_id] = turn

    def _forget_exhausted(self, dealt: Mapping[int, int], won: Collection[Slot], claimed: Mapping[int, int]) -> None:
        """A lane without a free slot or without tasks is met again by a scan, a notification or a slot given back."""
        slots = Counter(slot.lane_id for slot in won)
        for lane, n in dealt.items():
            if slots[lane] < n or (claimed.get(lane, 0) < n and lane not in self._again):
                self._hot.pop(lane, None)

    # -- between rounds ----------------------------------------------------------------------------------------

    def _patience(self) -> float:
        # However seldom the queue is looked at, the session is: silence must mean that it does not answer.
        interval = min(self._limits.poll_interval_s * random.uniform(0.8, 1.2), SILENCE_S / 2)  # noqa: S311 jitter
        return max(0.0, min(interval, self._next_sweep - monotonic())) if self._budget().calls > 0 else interval

    def _wait(self, timeout_s: float) -> None:
        if self._listen():  # some came with the answers of the round
            return
        readable, _, _ = select.select([self._session.fileno(), self._reader.fileno()], [], [], timeout_s)
        if self._reader.fileno() in readable:
            self._woken = False  # before anything is looked at: who comes from here on sends again
            self._reader.recv(4096)
        if self._session.fileno() in readable:
            self._listen()

    def _listen(self) -> bool:
        heard = list(self._session.notifies(timeout=0))
        for notify in heard:
            self._hear(notify)
        return bool(heard)

    def _hear(self, notify: db.Notify) -> None:
        numbers = [int(n) for n in notify.payload.split(",") if n.isdigit()]
        if notify.channel == "asynch_cancel":
            self._running.cut_tasks(set(numbers), CutReason.CANCEL)
        elif numbers:
            self._named.update(numbers)
        else:  # too many to name
            self._next_sweep = 0.0
