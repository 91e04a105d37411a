"""The lanes that a worker knows of: what they are, which may have work, and when all are looked through again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from time import monotonic

from asynch import db
from asynch.store.slots import Lane, lanes_named, scan_lanes
from asynch.worker.hot import Hot
from asynch.worker.marks import Marks

#: What is known of a lane is asked again after this.
_LANE_LIFE_S = 1.0
#: A round looks at so many lanes at least, and at two for each call that it may start.
_LEAST_LOOK = 64
#: A sweep over all lanes may take this part of the time,
_SWEEP_SHARE = 0.2
#: and those that look at lanes from their beginning this one, where that is dearer than to begin at the marks: a held
#: snapshot keeps all that was ever claimed before them. Without one it is cheaper: a probe a lane, not one a rank.
_WHOLE_SHARE = 0.05


class Lookout:
    """Lanes are met by sweeps over all that have waiting tasks, and by name. For the poller's thread alone."""

    def __init__(
        self,
        session: db.Connection,
        marks: Marks,
        *,
        batch_size: int,
        poll_interval_s: float,
        tenant_most: int,
        tmp_host: str,
    ) -> None:
        self._session = session
        self._marks = marks
        self._batch_size = batch_size
        self._poll_interval_s = poll_interval_s
        self._tenant_most = tenant_most
        self._tmp_host = tmp_host
        self._lanes: dict[int, tuple[Lane, float]] = {}  # with the time they were asked for
        self._named: set[int] = set()
        self._hot = Hot()
        self._cursor = 0
        self._sweep_began = 0.0
        self._spent = 0.0  # on the statements of this sweep, seconds
        self._whole = True  # it looks at all lanes from their beginning
        self._costs = {True: 0.0, False: 0.0}  # of the last sweep that did, and of the last that did not, seconds
        self._next_whole = 0.0  # when one may again, though it costs more
        self.next_sweep = 0.0  #: when all lanes are looked through again
        self.answered_at = monotonic()  #: when a sweep was last answered

    def lane(self, lane_id: int) -> Lane:
        """One that a look has found, as it was then."""
        return self._lanes[lane_id][0]

    def begin(self) -> None:
        """Something happened: all may be worth a look again."""
        self._hot.begin()

    def heard(self, lanes: Iterable[int]) -> None:
        """These have new tasks."""
        self._named.update(lanes)

    def heard_of_many(self) -> None:
        """Too many to name have new tasks."""
        self.next_sweep = 0.0

    def heat(self, lane_id: int) -> None:
        """May have work; nothing where nobody has met it."""
        if lane_id in self._lanes:
            self._hot.add(self.lane(lane_id).tenant_id, lane_id)

    def cool(self, lane_id: int) -> None:
        """Has none, or no slot for it: it is met again by a sweep, by name, or by a slot given back."""
        self._hot.drop(self.lane(lane_id).tenant_id, lane_id)

    @property
    def has_more(self) -> bool:
        """Whether there are lanes that were not looked at since something happened."""
        return self._cursor > 0 or self._hot.is_unseen

    def look(self, *, calls: int, busy: Collection[int]) -> list[Lane]:
        """Lanes whose turn it is, enough for so many calls; none of the `busy` tenants."""
        now = monotonic()
        if self._cursor > 0 or now >= self.next_sweep:
            self._sweep(busy, now)
        self._ask([lane_id for lane_id in self._named if lane_id not in self._lanes])
        for lane_id in self._named:
            self.heat(lane_id)
        self._named.clear()
        turn = self._hot.turn(max(_LEAST_LOOK, 2 * calls), each=calls, busy=busy)
        self._ask([lane_id for lane_id in turn if self._lanes[lane_id][1] < now - _LANE_LIFE_S])
        return [self.lane(lane_id) for lane_id in turn if lane_id in self._lanes]

    def _sweep(self, busy: Collection[int], now: float) -> None:
        """The next lanes of the sweep."""
        if self._cursor == 0:
            self._sweep_began, self._spent = now, 0.0
            self._whole = self._costs[True] <= self._costs[False] or now >= self._next_whole
        asked_at = monotonic()
        found, cursor = scan_lanes(
            self._session,
            after=self._cursor,
            most=self._batch_size,
            starts={} if self._whole else self._marks.after(self._cursor, self._batch_size),
            tenant_most=self._tenant_most,
            tmp_host=self._tmp_host,
        )
        self.answered_at = monotonic()
        self._spent += self.answered_at - asked_at
        self._cursor = cursor or 0
        self._remember(found)
        for lane in found:
            if lane.tenant_id not in busy:
                self._hot.add(lane.tenant_id, lane.lane_id)
        if self._cursor == 0:
            self._costs[self._whole] = self._spent
            if self._whole:
                self._next_whole = monotonic() + self._spent / _WHOLE_SHARE
            took = monotonic() - self._sweep_began
            pause = max(0.05, took / _SWEEP_SHARE) if found else self._poll_interval_s
            self.next_sweep = monotonic() + min(pause, self._poll_interval_s)

    def _ask(self, lanes: Sequence[int]) -> None:
        """What these lanes are now; those that are closed or gone are forgotten."""
        if not lanes:
            return
        asked_at = monotonic()
        self._remember(lanes_named(self._session, lanes, tenant_most=self._tenant_most, tmp_host=self._tmp_host))
        for lane_id in lanes:
            known = self._lanes.get(lane_id)
            if known is not None and known[1] < asked_at:
                self.cool(lane_id)
                del self._lanes[lane_id]
                self._marks.forget(lane_id)

    def _remember(self, lanes: Sequence[Lane]) -> None:
        now = monotonic()
        for lane in lanes:
            self._lanes[lane.lane_id] = (lane, now)
