"""The claim session: holds the slots, decides whose turn it is, claims, and hears what others have to say."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from time import monotonic

from asynch import db, metrics
from asynch.domain import turns
from asynch.errors import AsynchError, CutReason, SessionLost
from asynch.store import queue
from asynch.store.queue import Claim
from asynch.store.slots import SILENCE_S, Lane, Slot, own_slots, swap_slots, tries
from asynch.worker.bell import Bell
from asynch.worker.lookout import Lookout
from asynch.worker.marks import Marks
from asynch.worker.matching import Held, match
from asynch.worker.mourning import Mourning
from asynch.worker.running import Running
from asynch.worker.tmpdir import TmpDir

logger = logging.getLogger(__name__)

#: A session without a question is asked one after this: idle or busy, its loss must be noticed.
_PING_S = 2.0


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
        self._bell = Bell()
        self._freed_lock = threading.Lock()
        self._freed: list[Slot] = []
        self._unused: list[Slot] = []  # won, but without a task; no reason to look at their lanes again
        self._held: dict[int, set[int]] = defaultdict(set)
        self._waiting: dict[int, set[int]] = defaultdict(set)  # lanes that a permit keeps from running more
        self._mourning = Mourning(session, worker_id=worker_id, tenant_most=limits.tenant_most)
        self._marks = Marks()
        self._again: set[int] = set()  # lanes that may have tasks before their marks
        self._served: dict[tuple[str, int], int] = {}
        self._turn = count(1)
        self._lookout = Lookout(
            session,
            self._marks,
            batch_size=limits.batch_size,
            poll_interval_s=limits.poll_interval_s,
            tenant_most=limits.tenant_most,
            tmp_host=tmp.host_id,
        )
        self._draining = False
        self._pinged_at = monotonic()

    @property
    def answered_at(self) -> float:
        """When the session last answered. Any thread."""
        return max(self._pinged_at, self._lookout.answered_at)

    def give_back(self, held: Held) -> None:
        """The call that held these slots is over and its outcome committed. Any thread."""
        with self._freed_lock:
            self._freed += held
        self.wake()

    def wake(self) -> None:
        """Something changed: have a round now. Any thread."""
        self._bell.ring()

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
                        self._pinged_at = monotonic()
                    self._wait(0.0 if again else min(self._patience(), _PING_S))
                    if not again:
                        self._lookout.begin()
        except (AsynchError, db.Error) as exc:
            raise SessionLost(str(exc)) from exc
        finally:
            self._session.close()
            self._bell.close()

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
        dealt = self._deal(budget, self._lookout.look(calls=budget.calls, busy=budget.busy)) if sweeping else {}
        there_is_more = sweeping and self._lookout.has_more
        if not freed and not dealt:
            return there_is_more
        asked, most = self._asked(dealt)
        mourned = self._mourning.calls
        wants = [(key, n + mourned.get(key, 0), tries(most[key], self._held[key])) for key, n in asked.items()]
        won = swap_slots(self._session, give_back=freed, wants=wants)
        if self._mourning.dead:
            won, spared = self._mourning.usable(won, asked)
            self._unused += spared
        held = self._matched(won, dealt)
        claimed = self._claim(held)
        if held and not claimed and not self._mourning.dead and self._mourning.somebody_died():
            return True  # all slots were won in vain: the next round makes room
        self._forget_exhausted(dealt, held, claimed)
        return bool(dealt) or bool(self._unused) or there_is_more

    def _take_freed(self) -> list[Slot]:
        with self._freed_lock:
            freed, self._freed = self._freed, []
        for slot in freed:
            for lane_id in (slot.lane_id, *self._waiting.pop(slot.lane_id, ())):  # and those whose permit it was
                self._lookout.heat(lane_id)
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
        free = self._limits.threads - busy_threads
        # Short calls end before a claim is through: the next ones are claimed ahead, and those not one by one.
        ahead = self._running.soon()
        if free > 0 or 2 * (free + ahead) > ahead > 0:
            return _Budget(free + ahead)
        # The reserve is for tenants that have nothing running here: no tenant's long calls keep another out.
        return _Budget(free + self._limits.reserve, frozenset(tenants), per_tenant=1)

    def _deal(self, budget: _Budget, lanes: Sequence[Lane]) -> dict[int, int]:
        seats: list[turns.Seat] = []
        permits: dict[int, int] = {}
        for lane in lanes:
            room = lane.max_concurrency - len(self._held[lane.lane_id])
            if room <= 0:  # until a slot of it is given back
                self._lookout.cool(lane.lane_id)
                continue
            for permit in lane.permits:
                permits[permit.id] = permit.most - len(self._held[permit.id])
            seats.append(turns.Seat(lane.lane_id, lane.tenant_id, room, tuple(p.id for p in lane.permits)))
        return turns.deal(seats, budget.calls, served=self._served, per_tenant=budget.per_tenant, permits=permits)

    def _asked(self, dealt: Mapping[int, int]) -> tuple[Counter[int], dict[int, int]]:
        """How many slots to win of each lane and permit for these calls, and how many there are of each."""
        asked, most = Counter(dealt), {}
        for lane_id, n in dealt.items():
            lane = self._lookout.lane(lane_id)
            most[lane_id] = lane.max_concurrency
            for permit in lane.permits:
                asked[permit.id] += n
                most[permit.id] = permit.most
        return asked, most

    def _matched(self, won: Sequence[Slot], dealt: Mapping[int, int]) -> dict[int, list[Held]]:
        """Sets of slots that a call may start with; what makes none is unused."""
        found = match(won, {self._lookout.lane(lane_id): n for lane_id, n in dealt.items()})
        self._unused += found.unused
        for key, lanes in found.waiting.items():
            self._waiting[key] |= lanes
        return found.held

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
            known_dead=self._mourning.dead,
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
        """Lanes without a free slot or without tasks."""
        for lane, n in dealt.items():
            could = claimed.get(lane, 0) + len(held.get(lane, ()))
            if could < n or (claimed.get(lane, 0) < n and lane not in self._again):
                self._lookout.cool(lane)

    def _patience(self) -> float:
        # However seldom the queue is looked at, the session is: silence must mean that it does not answer.
        interval = min(self._limits.poll_interval_s * random.uniform(0.8, 1.2), SILENCE_S / 2)  # noqa: S311 jitter
        return max(0.0, min(interval, self._lookout.next_sweep - monotonic())) if self._budget().calls > 0 else interval

    def _wait(self, timeout_s: float) -> None:
        if self._listen():  # some came with the answers of the round
            return
        if self._bell.wait(self._session.fileno(), timeout_s):
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
            self._lookout.heard(numbers)
        else:  # too many to name
            self._lookout.heard_of_many()
