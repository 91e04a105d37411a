"""Creating tasks: all of a request in one transaction with its op log rows and its idempotency record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from asynch import db
from asynch.db import Connection, Pool
from asynch.domain.principal import Caller
from asynch.domain.redact import redacted
from asynch.errors import AsynchError, Conflict, InvalidInput, Mistake, NotFound, QueueFull, Refused
from asynch.service.announcer import Announcer
from asynch.service.gates import Gates
from asynch.service.rooms import Rooms
from asynch.service.webhooks import Webhooks
from asynch.store import tasks as store
from asynch.store.oplog import Operation, insert_op_logs
from asynch.store.tasks import NewTask, TaskLane


@dataclass(frozen=True, slots=True)
class Once:
    """An Idempotency-Key with what it stands for."""

    path: str
    key: str
    body_hash: str


@dataclass(frozen=True, slots=True)
class Created:
    """What came of each item, in their order: its id, or why not."""

    results: Sequence[int | Refused]
    replayed: bool = False


class _Uncounted(AsynchError):
    """The room of a lane is not known: count, alone in the lane."""


class _Outside(AsynchError):
    """Some lanes were read without being held: once more, with these locks too."""

    def __init__(self, locks: set[int]) -> None:
        super().__init__("the locks of some lanes are not held")
        self.locks = locks


@dataclass(frozen=True, slots=True)
class _Entry:
    """How a creator goes into lanes: by which locks, and whether to count, alone in them."""

    names: Sequence[str]
    locks: set[int]
    count: bool


#: A good item on its way: its lane, and the task.
Placed = tuple[TaskLane, NewTask]


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
    gates: Gates = field(default_factory=Gates)

    def create(self, caller: Caller, item: NewTask | Refused, once: Once | None) -> Created:
        """Create one task, or raise the Refused that says why not, which is noted in the op log.

        Conflict while the same key is in flight, InvalidInput when it stood for another body. DatabaseDown: nothing
        is known; the same key again tells.
        """
        try:
            if isinstance(item, Refused):
                raise item
            return self._until_inside(caller, [item], once, strict=True)
        except Refused as refusal:
            with db.transaction(self.pool) as conn:
                self._note_refused(conn, caller, [refusal], [item], [None])
            raise

    def create_batch(self, caller: Caller, items: Sequence[NewTask | Refused], once: Once | None) -> Created:
        """Create what can be created; an item that cannot be keeps its place with its reason. Errors as `create`."""
        return self._until_inside(caller, items, once, strict=False)

    def _until_inside(
        self, caller: Caller, items: Sequence[NewTask | Refused], once: Once | None, *, strict: bool
    ) -> Created:
        """Try by the locks that are remembered, then by those that were missing, and alone where room is not known.

        Each further go has another reason: another lane under a name, another limit, a queue that others filled.
        """
        names = sorted({item.model_name for item in items if isinstance(item, NewTask)})
        entry = _Entry(names, self.gates.of(caller.principal.tenant_id, names), count=False)
        try:
            while True:
                try:
                    return self._attempt(caller, items, once, entry, strict=strict)
                except _Uncounted:
                    entry = replace(entry, count=True)
                except _Outside as exc:
                    entry = replace(entry, locks=entry.locks | exc.locks)
        except db.LockTimeout as exc:
            raise Conflict("A request with this Idempotency-Key is still in flight.", code="key_in_flight") from exc

    def _attempt(
        self, caller: Caller, items: Sequence[NewTask | Refused], once: Once | None, entry: _Entry, *, strict: bool
    ) -> Created:
        tenant_id = caller.principal.tenant_id
        with db.transaction(self.pool) as conn:
            if once is not None and (replayed := _replay(conn, tenant_id, once)) is not None:
                return replayed
            results, placed, ids = self._admit(conn, tenant_id, items, entry)
            if strict and isinstance(refusal := results[0], Refused):
                raise refusal
            urls = {task.callback_url for _, _, task in placed if task.callback_url}
            store.insert_tasks(
                conn,
                caller,
                placed,
                callback_lanes=self.webhooks.lanes(conn, tenant_id, urls),
                queue_timeout_s=self.queue_timeout_s,
                timezone=self.timezone,
                log_payloads=self.log_payloads,
            )
            self._note_refused(conn, caller, results, items, ids)
            if once is not None:
                answer = [_remembered(result) for result in results]
                store.end_idempotent(conn, tenant_id=tenant_id, path=once.path, key=once.key, answer=answer)
        self.announcer.announce({lane_id for _, lane_id, task in placed if task.is_due})
        return Created(results)

    def _admit(
        self, conn: Connection, tenant_id: int, items: Sequence[NewTask | Refused], entry: _Entry
    ) -> tuple[list[int | Refused], list[tuple[int, int, NewTask]], list[int]]:
        """Place each item in its lane, as far as there is room: (id or refusal of each, rows to insert, ids drawn)."""
        lanes, ids, drawn = store.enter_lanes(
            conn,
            tenant_id=tenant_id,
            names=entry.names,
            locks=entry.locks,
            alone=entry.count,
            n=len(items),
            tenant_queue_limit=self.tenant_queue_limit,
        )
        if outside := {key for lane in lanes.values() for key in lane.ceilings} - entry.locks:
            self.gates.seen(tenant_id, lanes.values())
            raise _Outside(outside)
        checked = [item if isinstance(item, Refused) else _placed(lanes, item) for item in items]
        if entry.count:
            checked = self._fill(conn, tenant_id, checked, drawn - len(items))
        else:
            self._expect_room(checked, drawn)
        results = [item if isinstance(item, Refused) else ids[n] for n, item in enumerate(checked)]
        rows = [(ids[n], p[0].lane_id, p[1]) for n, p in enumerate(checked) if not isinstance(p, Refused)]
        return results, rows, ids

    def _expect_room(self, checked: Sequence[Placed | Refused], drawn: int) -> None:
        for lane in {item[0].lane_id: item[0] for item in checked if not isinstance(item, Refused)}.values():
            for key, limit in lane.ceilings.items():
                if not self.rooms.covers(key, queue_limit=limit, drawn=drawn):
                    raise _Uncounted(lane.model_name)

    def _fill(
        self, conn: Connection, tenant_id: int, checked: Sequence[Placed | Refused], drawn: int
    ) -> list[Placed | Refused]:
        """Count lanes and tenant, nobody else being in them, and fill each up to its limit.

        `drawn` is the last number that was drawn for a task that is counted here.
        """
        lanes = {item[0] for item in checked if not isinstance(item, Refused)}
        limits = {key: limit for lane in lanes for key, limit in lane.ceilings.items()}
        since = {key: self.rooms.since(key, queue_limit=limit, drawn=drawn) for key, limit in limits.items()}
        depths = {n: store.lane_depth(conn, n, since=since[n]) for n in {lane.lane_id for lane in lanes}}
        depths |= {key: store.tenant_depth(conn, tenant_id, since=since[key]) for key in limits.keys() - depths.keys()}
        taken: Counter[int] = Counter()
        filled: list[Placed | Refused] = []
        for item in checked:
            if not isinstance(item, Refused):
                lane = item[0]
                full = [key for key, limit in lane.ceilings.items() if depths[key].depth + taken[key] >= limit]
                if full:
                    key = full[0]
                    item = _full(lane, key, limits[key], depths[key].depth + taken[key])
                else:
                    taken.update(lane.ceilings.keys())
            filled.append(item)
        for key, found in depths.items():
            self.rooms.counted(key, queue_limit=limits[key], drawn=drawn, found=found)
        return filled

    def _note_refused(
        self,
        conn: Connection,
        caller: Caller,
        results: Sequence[int | Refused],
        items: Sequence[NewTask | Refused],
        ids: Sequence[int | None],
    ) -> None:
        """Tell the op log of those that became no task, among the others, whose rows were written with their tasks."""
        told = zip(results, items, ids, strict=True)
        refused = [self._operation(result, item, n) for result, item, n in told if isinstance(result, Refused)]
        insert_op_logs(conn, caller, "createTask", refused)

    def _operation(self, refusal: Refused, item: NewTask | Refused, row_id: int | None) -> Operation:
        task = item if isinstance(item, NewTask) else NewTask("")
        return Operation(
            model_name=task.model_name,
            biz_name=task.biz_name,
            success=False,
            error=str(refusal.code),
            request=redacted(task.payload) if self.log_payloads else "",
            id=row_id,
        )


def _placed(lanes: Mapping[str, TaskLane], task: NewTask) -> Placed | Refused:
    lane = lanes.get(task.model_name)
    if lane is None:
        return NotFound(f"There is no model {task.model_name!r}.", code="model_not_found")
    if not lane.enabled:
        return Conflict(f"The model {task.model_name!r} is disabled.", code="model_disabled")
    if lane.method == "GET" and not task.payload_is_object:
        return InvalidInput([Mistake("#/requestPayload", "a model called by GET takes an object")])
    return lane, task


def _full(lane: TaskLane, key: int, limit: int, depth: int) -> QueueFull:
    whose = f"The queue of {lane.model_name!r} is" if key == lane.lane_id else "The tenant's queues are together"
    return QueueFull(f"{whose} full.", queueLimit=limit, queueDepth=depth)


def _replay(conn: Connection, tenant_id: int, once: Once) -> Created | None:
    """What the key stood for before; None when it is this transaction's now."""
    if store.begin_idempotent(conn, tenant_id=tenant_id, path=once.path, key=once.key, body_hash=once.body_hash):
        return None
    found = store.find_idempotent(conn, tenant_id=tenant_id, path=once.path, key=once.key)
    if found is None:  # given up just now by the request that had it
        raise Conflict("A request with this Idempotency-Key is still in flight.", code="key_in_flight")
    body_hash, answer = found
    if body_hash != once.body_hash:
        raise InvalidInput([Mistake("#", "this Idempotency-Key was used with another body")], code="key_reused")
    return Created([_recalled(entry) for entry in answer], replayed=True)


def _remembered(result: int | Refused) -> Any:
    if isinstance(result, int):
        return result
    mistakes = [[m.pointer, m.detail] for m in result.mistakes] if isinstance(result, InvalidInput) else []
    return {"code": result.code, "detail": str(result), "extra": dict(result.extra), "errors": mistakes}


def _recalled(entry: Any) -> int | Refused:
    if isinstance(entry, int):
        return entry
    if entry["errors"]:
        return InvalidInput([Mistake(pointer, detail) for pointer, detail in entry["errors"]], code=entry["code"])
    return Refused(entry["detail"], code=entry["code"], **entry["extra"])
