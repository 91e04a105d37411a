"""The claim session: holds the slots, decides whose turn it is, claims, and hears what others have to say."""

from __future__ import annotations

import logging
import random
import select
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from time import monotonic

from asynch import db, metrics
from asynch.domain import turns
from asynch.errors import AsynchError, CutReason, SessionLost
from asynch.store import queue
from asynch.store.queue import Claim
from asynch.store.slots import (
    Lane,
    Slot,
    find_dead,
    lanes_in_mourning,
    lanes_named,
    mark_dead,
    own_slots,
    scan_lanes,
    swap_slots,
)
from asynch.worker.hot import Hot
from asynch.worker.marks import Marks
from asynch.worker.matching import Held, match
from asynch.worker.running import Running
from asynch.worker.tmpdir import TmpDir

logger = logging.getLogger(__name__)

#: A session that has not answered for this long is taken for lost, well before others take its slots.
SILENCE_S = 8.0
#: A session without a question is asked one after this: idle or busy, its loss must be noticed.
_PING_S = 2.0
#: What is known of a lane is asked again after this.
_LANE_LIFE_S = 1.0
#: A round looks at so many lanes at least, and at two for each call that it may start.
_LEAST_LOOK = 64
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
    tenant_most: int = 0  #: calls at once of a tenant that has no limit of its own; 0 any number


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
        hand_over: Callable[[Claim, Held], None],
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
        self._hot = Hot()
        self._waiting: dict[int, set[int]] = defaultdict(set)  # lanes that a permit keeps from running more
        self._dead: dict[int, bool] = {}  # workers noticed dead and not rescued yet; whether their mourning is over
        self._mourned: dict[int, int] = {}  # lanes where calls of theirs may be open, and how many
        self._marks = Marks()
        self._again: set[int] = set()  # lanes that may have tasks before their marks
        self._served: dict[tuple[str, int], int] = {}
        self._turn = count(1)
        self._cursor = 0
        self._next_sweep = 0.0
        self._sweep_began = 0.0
        self._draining = False
        self.answered_at = monotonic()  #: when the session last answered

    def give_back(self, held: Held) -> None:
        """The call that held these slots is over and its outcome committed. Any thread."""
        with self._freed_lock:
            self._freed += held
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
                    if not again:
                        self._hot.begin()
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
        self._unused = [s for s in own_slots(self._session) if s.slot not in self._held[s.lane_id]]
        return False

    def _round(self) -> bool:
        """One round; True when the next should follow at once."""
        freed = self._take_freed()
        budget = self._budget()
        sweeping = budget.calls > 0
        dealt = self._deal(budget, self._lanes_to_look_at(budget)) if sweeping else {}
        there_is_more = sweeping and (self._cursor > 0 or self._hot.is_unseen)
        if not freed and not dealt:
            return there_is_more
        asked, most = self._asked(dealt)
        wants = [(key, n + self._mourned.get(key, 0), self._tries(key, most[key])) for key, n in asked.items()]
        won = swap_slots(self._session, give_back=freed, wants=wants)
        if self._dead:
            won = self._respect_the_dead(won, asked)
        held = self._matched(won, dealt)
        claimed = self._claim(held)
        if held and not claimed and not self._dead and self._somebody_died():
            return True
        self._forget_exhausted(dealt, held, claimed)
        return bool(dealt) or bool(self._unused) or there_is_more

    def _take_freed(self) -> list[Slot]:
        with self._freed_lock:
            freed, self._freed = self._freed, []
        for slot in freed:
            for lane_id in (slot.lane_id, *self._waiting.pop(slot.lane_id, ())):  # and those whose permit it was
                self._heat(lane_id)
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

    def _heat(self, lane_id: int) -> None:
        if lane_id in self._lanes:
            self._hot.add(self._lanes[lane_id][0].tenant_id, lane_id)

    def _lanes_to_look_at(self, budget: _Budget) -> list[Lane]:
        now = monotonic()
        if self._cursor > 0 or now >= self._next_sweep:
            self._scan(budget, now)
        self._ask([lane_id for lane_id in self._named if lane_id not in self._lanes])
        for lane_id in self._named:
            self._heat(lane_id)
        self._named.clear()
        most = max(_LEAST_LOOK, 2 * budget.calls)
        turn = self._hot.turn(most, each=budget.calls, busy=budget.busy)
        self._ask([lane_id for lane_id in turn if self._lanes[lane_id][1] < now - _LANE_LIFE_S])
        return [self._lanes[lane_id][0] for lane_id in turn if lane_id in self._lanes]

    def _scan(self, budget: _Budget, now: float) -> None:
        """The next lanes of the sweep over all that have waiting tasks."""
        if self._cursor == 0:
            self._sweep_began = now
        found, cursor = scan_lanes(
            self._session,
            after=self._cursor,
            most=self._limits.batch_size,
            tenant_most=self._limits.tenant_most,
            tmp_host=self._tmp.host_id,
        )
        self.answered_at = monotonic()
        self._cursor = cursor or 0
        self._remember(found)
        for lane in found:
            if lane.tenant_id not in budget.busy:
                self._hot.add(lane.tenant_id, lane.lane_id)
        if self._cursor == 0:
            took = monotonic() - self._sweep_began
            pause = max(0.05, took / _SWEEP_SHARE) if found else self._limits.poll_interval_s
            self._next_sweep = monotonic() + min(pause, self._limits.poll_interval_s)

    def _ask(self, lanes: Sequence[int]) -> None:
        """What these lanes are now; those that are closed or gone are forgotten."""
        if not lanes:
            return
        asked_at = monotonic()
        most, host = self._limits.tenant_most, self._tmp.host_id
        self._remember(lanes_named(self._session, lanes, tenant_most=most, tmp_host=host))
        for lane_id in lanes:
            known = self._lanes.get(lane_id)
            if known is not None and known[1] < asked_at:
                self._hot.drop(known[0].tenant_id, lane_id)
                del self._lanes[lane_id]
                self._marks.forget(lane_id)

    def _remember(self, lanes: Sequence[Lane]) -> None:
        now = monotonic()
        for lane in lanes:
            self._lanes[lane.lane_id] = (lane, now)

    def _deal(self, budget: _Budget, lanes: Sequence[Lane]) -> dict[int, int]:
        seats: list[turns.Seat] = []
        permits: dict[int, int] = {}
        for lane in lanes:
            room = lane.max_concurrency - len(self._held[lane.lane_id])
            if room <= 0:  # until a slot of it is given back
                self._hot.drop(lane.tenant_id, lane.lane_id)
                continue
            for permit in lane.permits:
                permits[permit.id] = permit.most - len(self._held[permit.id])
            seats.append(turns.Seat(lane.lane_id, lane.tenant_id, room, tuple(p.id for p in lane.permits)))
        return turns.deal(seats, budget.calls, served=self._served, per_tenant=budget.per_tenant, permits=permits)

    def _asked(self, dealt: Mapping[int, int]) -> tuple[Counter[int], dict[int, int]]:
        """How many slots to win of each lane and permit for these calls, and how many there are of each."""
        asked, most = Counter(dealt), {}
        for lane_id, n in dealt.items():
            lane = self._lanes[lane_id][0]
            most[lane_id] = lane.max_concurrency
            for permit in lane.permits:
                asked[permit.id] += n
                most[permit.id] = permit.most
        return asked, most

    def _tries(self, key: int, most: int) -> Sequence[int]:
        """Every slot number this session does not hold, in random order: fewer tries would miss the last free one."""
        held = self._held[key]
        free = [n for n in range(most) if n not in held]
        return random.sample(free, min(len(free), _MOST_TRIES))

    def _matched(self, won: Sequence[Slot], dealt: Mapping[int, int]) -> dict[int, list[Held]]:
        """Sets of slots that a call may start with; what makes none is unused."""
        found = match(won, {self._lanes[lane_id][0]: n for lane_id, n in dealt.items()})
        self._unused += found.unused
        for key, lanes in found.waiting.items():
            self._waiting[key] |= lanes
        return found.held

    def _somebody_died(self) -> bool:
        """Whether that is why nothing was claimed; then all slots were won in vain, and the next round makes room."""
        self._dead = find_dead(self._session, worker_id=self._worker_id)
        return bool(self._dead)

    def _respect_the_dead(self, won: list[Slot], asked: Mapping[int, int]) -> list[Slot]:
        """The slots that may be used: where a worker has just died, only those beyond one for each of its calls.

        It may live and need a moment to cut them. Who holds so many free slots at this moment knows that all calls of
        the living and of the dead together are not more than the lane's.
        """
        self._mourned = {}
        if self._somebody_died():
            fresh = [worker for worker, over in self._dead.items() if not over]
            mark_dead(self._session, fresh)
            self._mourned = lanes_in_mourning(self._session, fresh, self._dead, tenant_most=self._limits.tenant_most)
        usable: list[Slot] = []
        spared, used = Counter(self._mourned), Counter(asked)
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

    def _claim(self, held: Mapping[int, list[Held]]) -> Counter[int]:
        """Claim as many tasks as calls may start; what a task was not found for goes back."""
        claimed: Counter[int] = Counter()
        if not held:
            return claimed
        counts = {lane: len(of_lane) for lane, of_lane in held.items()}
        starts = self._marks.starts(counts)
        began = monotonic()
        claims = queue.claim(
            self._session,
            counts=counts,
            starts=starts,
            worker_id=self._worker_id,
            timezone=self._limits.timezone,
            known_dead=self._dead,
        )
        self._again = self._marks.learn(counts, starts, claims, took_s=monotonic() - began)
        for slot in (slot for of_lane in held.values() for slots in of_lane for slot in slots):
            self._held[slot.lane_id].add(slot.slot)
        for claim in claims:
            claimed[claim.lane_id] += 1
            metrics.CLAIMS.labels("follow" if claim.poll_url else "call").inc()
            if not claim.poll_url:
                metrics.WAITED.observe(claim.waited_s)
            self._note_turn(claim)
            self._hand_over(claim, held[claim.lane_id].pop())
        for slots in (slots for of_lane in held.values() for slots in of_lane):
            self._unused += slots
        return claimed

    def _note_turn(self, claim: Claim) -> None:
        turn = next(self._turn)
        self._served["tenant", claim.tenant_id] = turn
        self._served["lane", claim.lane_id] = turn

    def _forget_exhausted(
        self, dealt: Mapping[int, int], held: Mapping[int, list[Held]], claimed: Mapping[int, int]
    ) -> None:
        """A lane without a free slot or without tasks is met again by a scan, a notification or a slot given back."""
        for lane, n in dealt.items():
            could = claimed.get(lane, 0) + len(held.get(lane, ()))
            if could < n or (claimed.get(lane, 0) < n and lane not in self._again):
                self._hot.drop(self._lanes[lane][0].tenant_id, lane)

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
            # In this order: a byte of who came in between would be taken, and nobody after him would send another. He
            # needs none, as what he did is looked at from here on.
            self._reader.recv(4096)
            self._woken = False
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
