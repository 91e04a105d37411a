"""Creating tasks: all of a request in one transaction with its op log rows and its idempotency record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from asynch import db
from asynch.db import Connection, Pool
from asynch.domain.principal import Caller
from asynch.errors import Conflict, InvalidInput, Mistake, NotFound, QueueFull, Refused
from asynch.service.announcer import Announcer
from asynch.service.known_lanes import KnownLanes
from asynch.service.rooms import Rooms
from asynch.service.webhooks import Webhooks
from asynch.store import creation as store
from asynch.store import tasks
from asynch.store.creation import Before, Beyond, Entry, Item, Made, Once, Otherwise, Request
from asynch.store.tasks import NewTask, TaskLane


@dataclass(frozen=True, slots=True)
class Created:
    """What came of each item, in their order: its id, or why not."""

    results: Sequence[int | Refused]
    replayed: bool = False


#: What became of a go.
Answer: TypeAlias = Made | Otherwise | Beyond | Before


@dataclass(frozen=True, slots=True)
class Creation:
    """The use cases and what they need to know of this installation."""

    pool: Pool
    announcer: Announcer
    rooms: Rooms
    webhooks: Webhooks
    queue_timeout_s: float
    log_payloads: bool
    timezone: str  #: of the day a task counts under
    tenant_queue_limit: int  #: of a tenant that has none of its own; 0 is none
    lanes: KnownLanes = field(default_factory=KnownLanes)

    def create(self, caller: Caller, item: NewTask | Refused, once: Once | None) -> Created:
        """Create one task, or raise the Refused that says why not, which is noted in the op log.

        Conflict while the same key is in flight, InvalidInput when it stood for another body. DatabaseDown: nothing
        is known; the same key again tells.
        """
        created = self._created(caller, [item], None if isinstance(item, Refused) else once, keep_refusals=False)
        if isinstance(refusal := created.results[0], Refused):
            raise refusal
        return created

    def create_batch(self, caller: Caller, items: Sequence[NewTask | Refused], once: Once | None) -> Created:
        """Create what can be created; an item that cannot be keeps its place with its reason. Errors as `create`."""
        return self._created(caller, items, once, keep_refusals=True)

    def _created(
        self, caller: Caller, items: Sequence[NewTask | Refused], once: Once | None, *, keep_refusals: bool
    ) -> Created:
        """Try by the lanes and the room that are known, and again with what was found to be otherwise.

        Each further go has another reason: a lane that changed, a queue that others filled.
        """
        request = Request(
            caller, self.queue_timeout_s, self.timezone, self.log_payloads, self.tenant_queue_limit, once
        )  # fmt: skip
        tenant_id = caller.principal.tenant_id
        names = sorted({item.model_name for item in items if isinstance(item, NewTask)})
        count = False
        while True:
            lanes = self.lanes.of(tenant_id, names)
            going = _Going(request, names, lanes, [_placed(lanes, item) for item in items], keep_refusals)
            try:
                going, answer = self._alone(going) if count else self._beside_others(going)
            except db.LockTimeout as exc:
                raise _in_flight() from exc
            match answer:
                case Made(ids):
                    self.announcer.announce({lane.lane_id for lane, task in going.placed if task.is_due})
                    told = zip(going.items, ids, strict=True)
                    return Created([to if isinstance(to, Refused) else task_id for (to, _), task_id in told])
                case Before():
                    return _replayed(answer, once)
                case Otherwise(found):
                    self.lanes.seen(tenant_id, names, found)
                case Beyond():
                    count = True

    def _beside_others(self, going: _Going) -> tuple[_Going, Answer]:
        """Go in as far as is known to be room, whoever else does meanwhile."""
        low, high = 0, None
        for key, limit in going.ceilings.items():
            room = self.rooms.known(key, queue_limit=limit)
            if room is None:
                return going, Beyond()
            low, high = max(low, room.drawn), room.bound if high is None else min(high, room.bound)
        callback_lanes = self._callback_lanes(going)
        with db.connection(self.pool) as conn:
            return going, going.go(conn, callback_lanes, low=low, high=high)

    def _alone(self, going: _Going) -> tuple[_Going, Answer]:
        """Count lanes and tenant while no other creator is in them, fill each up to its limit, and go in."""
        callback_lanes, once, tenant_id = self._callback_lanes(going), going.request.once, going.tenant_id
        with db.transaction(self.pool) as conn:
            # before the locks: who has the key may be waiting for them
            if once is not None and (before := store.begin_once(conn, tenant_id, once)) is not None:
                return going, before
            tasks.enter_alone(conn, going.counted, beside=going.locks)
            limits = going.ceilings
            _, drawn = tasks.draw_ids(conn, 1)
            since = {key: self.rooms.since(key, queue_limit=limit, drawn=drawn) for key, limit in limits.items()}
            own = {lane.lane_id for lane, _ in going.placed}
            depths = {key: tasks.lane_depth(conn, key, since=since[key]) for key in own}
            depths |= {key: tasks.tenant_depth(conn, tenant_id, since=since[key]) for key in limits.keys() - own}
            going = going.filled({key: found.depth for key, found in depths.items()})
            answer = going.go(conn, callback_lanes, begun=True)
        if isinstance(answer, Made):  # so these were its lanes and their limits
            for key, found in depths.items():
                self.rooms.counted(key, queue_limit=limits[key], drawn=drawn, found=found)
        return going, answer

    def _callback_lanes(self, going: _Going) -> dict[str, int]:
        """Made in a transaction of their own: who waits for another one's must hold no lock."""
        urls = {task.callback_url for _, task in going.placed if task.callback_url}
        if not urls:
            return {}
        with db.transaction(self.pool) as conn:
            return self.webhooks.lanes(conn, going.tenant_id, urls)


@dataclass(frozen=True)
class _Going:
    """A request on its way into lanes as they are believed to be."""

    request: Request
    names: Sequence[str]
    lanes: Mapping[str, TaskLane]
    items: Sequence[Item]
    keep_refusals: bool

    @property
    def tenant_id(self) -> int:
        return self.request.caller.principal.tenant_id

    @cached_property
    def placed(self) -> list[tuple[TaskLane, NewTask]]:
        return [(to, task) for to, task in self.items if not isinstance(to, Refused)]

    @property
    def locks(self) -> set[int]:
        """The keys of all its lanes, also where a task is refused: held from the beginning, in one order."""
        return {key for lane in self.lanes.values() for key in lane.locks}

    @property
    def counted(self) -> set[int]:
        """Those of them that have a limit."""
        return {key for lane in self.lanes.values() for key in lane.ceilings}

    @cached_property
    def ceilings(self) -> dict[int, int]:
        """What its tasks must stay under: lock key -> limit."""
        lanes = {lane.lane_id: lane for lane, _ in self.placed}
        return {key: limit for lane in lanes.values() for key, limit in lane.ceilings.items()}

    def filled(self, depths: Mapping[int, int]) -> _Going:
        """With those refused for which there is no room: so many tasks are under each lock key."""
        taken: Counter[int] = Counter(depths)
        items: list[Item] = []
        for to, task in self.items:
            if isinstance(to, Refused):
                items.append((to, task))
            elif full := [key for key, limit in to.ceilings.items() if taken[key] >= limit]:
                items.append((_full(to, full[0], taken[full[0]]), task))
            else:
                taken.update(to.ceilings.keys())
                items.append((to, task))
        return replace(self, items=items)

    def go(
        self,
        conn: Connection,
        callback_lanes: Mapping[str, int],
        *,
        low: int = 0,
        high: int | None = None,
        begun: bool = False,
    ) -> Answer:
        """All of it, or nothing and why."""
        kept = self.keep_refusals or not any(isinstance(to, Refused) for to, _ in self.items)
        entry = Entry(self.names, self.lanes.values(), low, high, begun, kept)
        return store.create_tasks(conn, self.request, self.items, entry, callback_lanes=callback_lanes)


def _placed(lanes: Mapping[str, TaskLane], item: NewTask | Refused) -> Item:
    if isinstance(item, Refused):
        return item, NewTask("")
    lane = lanes.get(item.model_name)
    if lane is None:
        return NotFound(f"There is no model {item.model_name!r}.", code="model_not_found"), item
    if not lane.enabled:
        return Conflict(f"The model {item.model_name!r} is disabled.", code="model_disabled"), item
    if lane.method == "GET" and not item.payload_is_object:
        return InvalidInput([Mistake("#/requestPayload", "a model called by GET takes an object")]), item
    return lane, item


def _full(lane: TaskLane, key: int, depth: int) -> QueueFull:
    whose = f"The queue of {lane.model_name!r} is" if key == lane.lane_id else "The tenant's queues are together"
    return QueueFull(f"{whose} full.", queueLimit=lane.ceilings[key], queueDepth=depth)


def _replayed(before: Before, once: Once | None) -> Created:
    """What the key stood for before."""
    if once is None or before.body_hash is None:  # given up just now by the request that had it
        raise _in_flight()
    if before.body_hash != once.body_hash:
        raise InvalidInput([Mistake("#", "this Idempotency-Key was used with another body")], code="key_reused")
    return Created([to if isinstance(to, int) else store.recalled(to) for to in before.answer], replayed=True)


def _in_flight() -> Conflict:
    return Conflict("A request with this Idempotency-Key is still in flight.", code="key_in_flight")
