"""Tasks as their creators and readers see them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from asynch import db
from asynch.db import Connection, Row
from asynch.domain.principal import Caller
from asynch.domain.redact import redacted
from asynch.domain.retry import rank_of
from asynch.store.oplog import request_of

#: where no task has a callback
_NONE: Mapping[str, int] = MappingProxyType({})


class NewTask(NamedTuple):
    """A task as its creator wants it; payload and metadata are JSON text as sent.

    A tuple, as ten thousand of them may be made for one request.
    """

    model_name: str
    payload: str | None = None
    payload_is_object: bool = True
    input_ref: str | None = None
    biz_name: str = ""
    client_ref: str = ""
    metadata: str | None = None
    priority: int = 0
    delay_s: float = 0.0
    not_before: datetime | None = None
    queue_timeout_s: int | None = None
    callback_url: str | None = None
    expire_notice_s: int | None = None

    @property
    def is_due(self) -> bool:
        """Whether it may run at once."""
        return self.delay_s <= 0 and self.not_before is None


@dataclass(frozen=True, slots=True)
class TaskLane:
    """What a creator must know of a lane."""

    model_name: str
    lane_id: int
    enabled: bool
    method: str
    queue_limit: int
    tenant_key: int | None = None
    tenant_queue_limit: int = 0  #: over all of the tenant's lanes; 0 is none

    @property
    def ceilings(self) -> dict[int, int]:
        """What a task in it must stay under: lock key -> how many tasks may wait and run under it."""
        own = {self.lane_id: self.queue_limit}
        if self.tenant_key is not None and self.tenant_queue_limit:
            own[self.tenant_key] = self.tenant_queue_limit
        return own


@dataclass(frozen=True, slots=True)
class Depth:
    """States 0 and 1 of a lane or tenant, and the failures that will come back into it."""

    depth: int
    returning: int
    first: int | None  #: entry of the first of these


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """What a list of tasks may be narrowed by; None narrows nothing."""

    id: int | None = None
    model_name: str | None = None
    biz_name: str | None = None
    state: int | None = None
    final: bool | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None

    def params(self) -> dict[str, Any]:
        """As the queries name them."""
        return {name: getattr(self, name) for name in TaskFilter.__slots__}


def enter_lanes(
    conn: Connection,
    *,
    tenant_id: int,
    names: Sequence[str],
    locks: Collection[int] = (),
    alone: bool = False,
    n: int = 0,
    tenant_queue_limit: int = 0,
) -> tuple[dict[str, TaskLane], list[int], int]:
    """Hold the locks of lanes and tenant until the end of the transaction, then read the lanes of these models by name.

    With `n` new ids in order, and the last number drawn. Unknown names are left out. Who is `alone` has waited until no
    other creator was there and keeps them out; else creators share them, and nobody counts or deletes meanwhile.
    `tenant_queue_limit` is that of a tenant that has none of its own; 0 is none.
    """
    db.rows(conn, "lock_lanes" if alone else "lock_lanes_shared", lanes=sorted(locks))
    asked = orjson.dumps(list(names)).decode()
    found = db.one(conn, "enter_lanes", tenant_id=tenant_id, names=asked, n=n, tenant_queue_limit=tenant_queue_limit)
    lanes = {
        r["model_name"]: TaskLane(
            r["model_name"],
            r["lane_id"],
            r["enabled"] == 1,
            r["http_method"],
            r["queue_limit"],
            r["tenant_key"],
            r["tenant_queue_limit"],
        )
        for r in found["lanes"]
    }
    return lanes, found["ids"], found["drawn"]


def lane_depth(conn: Connection, lane_id: int, *, since: int = 0) -> Depth:
    """How full a lane is with what entered it from an entry on."""
    found = db.one(conn, "lane_depth", lane_id=lane_id, since=since)
    return Depth(found["depth"], found["returning"], found["first"])


def tenant_depth(conn: Connection, tenant_id: int, *, since: int = 0) -> Depth:
    """How full all lanes of a tenant's models are together with what entered them from an entry on."""
    found = db.one(conn, "tenant_depth", tenant_id=tenant_id, since=since)
    return Depth(found["depth"], found["returning"], found["first"])


def tenant_key(conn: Connection, tenant_id: int) -> int | None:
    """The lock key of what a tenant has over all of its lanes."""
    found = db.row(conn, "tenant_key", tenant_id=tenant_id)
    return found["permit_id"] if found else None


def draw_ids(conn: Connection, n: int) -> tuple[list[int], int]:
    """`n` new ids in order, and the last number drawn."""
    found = db.one(conn, "draw_ids", n=n)
    return found["ids"], found["drawn"]


def share_lanes(conn: Connection, lanes: Collection[int]) -> None:
    """Keep counters and deleters out of the lanes until the end of the transaction."""
    db.rows(conn, "lock_lanes_shared", lanes=sorted(lanes))


def insert_tasks(
    conn: Connection,
    caller: Caller,
    tasks: Sequence[tuple[int, int, NewTask]],
    *,
    queue_timeout_s: float,
    timezone: str,
    log_payloads: bool,
    callback_lanes: Mapping[str, int] = _NONE,
) -> None:
    """Insert (id, lane id, task) rows of models, all of one request, with their op log rows and statistics.

    They count under the day in `timezone`. `callback_lanes` has the lane of each callback URL.
    """
    if not tasks:
        return
    db.run(
        conn,
        "insert_tasks",
        **request_of(caller),
        queue_timeout_s=queue_timeout_s,
        timezone=timezone,
        trace_context=caller.trace_context,
        upload_headers=caller.upload_headers,
        tasks=orjson.dumps([_record(*task, callback_lanes, log_payloads) for task in tasks]).decode(),
    )


def _record(
    task_id: int, lane_id: int, task: NewTask, callback_lanes: Mapping[str, int], log_payloads: bool
) -> dict[str, Any]:
    """A row to insert, without what is not given."""
    logged = redacted(task.payload) if log_payloads else ""
    told = {
        "model_name": task.model_name,
        "delay_s": task.delay_s or None,
        "not_before": task.not_before,
        "queue_timeout_s": task.queue_timeout_s,
        "biz_name": task.biz_name or None,
        "client_ref": task.client_ref or None,
        "metadata": task.metadata,
        "input_ref": task.input_ref,
        "request_payload": task.payload,
        "callback_url": task.callback_url,
        "callback_lane": callback_lanes[task.callback_url] if task.callback_url else None,
        "expire_notice_s": task.expire_notice_s,
        "logged": None if logged == task.payload else logged,
    }
    given = {name: value for name, value in told.items() if value is not None}
    return {"id": task_id, "lane_id": lane_id, "rank": rank_of(task.priority), **given}


def begin_idempotent(conn: Connection, *, tenant_id: int, path: str, key: str, body_hash: str) -> bool:
    """Take a key for this transaction; False when it is taken. Waits for one in flight, at most lock_timeout."""
    where = {"tenant_id": tenant_id, "path": path, "key": key}
    conn.execute("SET LOCAL lock_timeout = '2s'")
    db.run(conn, "forget_stale_key", **where)
    taken = db.row(conn, "begin_idempotent", **where, body_hash=body_hash) is not None
    conn.execute("SET LOCAL lock_timeout = 0")
    return taken


def find_idempotent(conn: Connection, *, tenant_id: int, path: str, key: str) -> tuple[str, list[Any]] | None:
    """Hash of the first body and what came of its items."""
    found = db.row(conn, "find_idempotent", tenant_id=tenant_id, path=path, key=key)
    return (found["body_hash"], found["answer"]) if found else None


def end_idempotent(conn: Connection, *, tenant_id: int, path: str, key: str, answer: Sequence[Any]) -> None:
    """Remember what came of each item."""
    told = orjson.dumps(list(answer)).decode()
    db.run(conn, "end_idempotent", tenant_id=tenant_id, path=path, key=key, answer=told)


def fetch(conn: Connection, *, tenant_id: int, ids: Sequence[int], mark: bool) -> dict[int, Row]:
    """Items by id as they were; with `mark`, successes are fetched from now on."""
    return {r["id"]: r for r in db.rows(conn, "fetch", tenant_id=tenant_id, ids=list(ids), mark=mark)}


def versions(conn: Connection, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """The version of each task (tenant, id) that is there for its readers."""
    tenants, ids = [tenant for tenant, _ in keys], [task_id for _, task_id in keys]
    return {(r["tenant_id"], r["id"]): r["version"] for r in db.rows(conn, "versions", tenants=tenants, ids=ids)}


def unfinished(conn: Connection, *, tenant_id: int, ids: Sequence[int]) -> set[int]:
    """Which of these tasks are there and not final."""
    return {r["id"] for r in db.rows(conn, "unfinished", tenant_id=tenant_id, ids=list(ids))}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task stands in its lane, and the lane's pace."""

    ahead: int  #: due tasks before it
    capped: bool  #: whether there may be more
    call_s: float | None  #: what a call takes lately; None while nothing is known
    max_concurrency: int
    open: bool
    called_s: float | None  #: since its last call began


def find_place(conn: Connection, *, tenant_id: int, task_id: int, most: int) -> Place | None:
    """The place of a waiting task, counted up to `most`, or the pace that a running one goes at."""
    found = db.row(conn, "place", tenant_id=tenant_id, id=task_id, most=most)
    return Place(**found) if found else None


def pace_of(conn: Connection, *, tenant_id: int, model_name: str) -> float | None:
    """What a call of this model takes lately, seconds."""
    found = db.row(conn, "pace_of", tenant_id=tenant_id, model_name=model_name)
    return found["call_s"] if found else None


def tell_pace(conn: Connection, told: Mapping[int, tuple[int, float]]) -> None:
    """Add how many calls ended in each lane and the seconds they took together."""
    calls, seconds = [n for n, _ in told.values()], [s for _, s in told.values()]
    db.run(conn, "tell_pace", lanes=list(told), calls=calls, seconds=seconds)


def purged(conn: Connection, *, tenant_id: int, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Last state and error code of those that were purged, by id."""
    found = db.rows(conn, "purged_tasks", tenant_id=tenant_id, task_ids=[str(i) for i in ids])
    return {int(r["task_id"]): orjson.loads(r["response_payload"]) for r in found}


def get_tasks(conn: Connection, *, tenant_id: int, ids: Sequence[int]) -> dict[int, Row]:
    """Rows by id without their payloads, with the retry_times of their models."""
    return {r["id"]: r for r in db.rows(conn, "get_tasks", tenant_id=tenant_id, ids=list(ids))}


def payload_bytes(conn: Connection, *, tenant_id: int, ids: Sequence[int]) -> int:
    """How long the payloads of these tasks are together."""
    total: int = db.one(conn, "payload_bytes", tenant_id=tenant_id, ids=list(ids))["bytes"]
    return total


def payloads(conn: Connection, *, tenant_id: int, ids: Sequence[int]) -> dict[int, str | None]:
    """JSON text by id, as sent."""
    found = db.rows(conn, "payloads", tenant_id=tenant_id, ids=list(ids))
    return {r["id"]: r["request_payload"] for r in found}


def list_tasks(
    conn: Connection, *, tenant_id: int, wanted: TaskFilter, limit: int, offset: int, cap: int
) -> tuple[list[int], int]:
    """A page of ids, newest first, and how many there are in all, counted up to `cap`."""
    params = {"tenant_id": tenant_id, **wanted.params()}
    found = [r["id"] for r in db.rows(conn, "list_tasks", **params, limit=limit, offset=offset)]
    if len(found) < limit and (found or not offset):  # the end: of few rows among millions no second search
        return found, min(offset + len(found), cap)
    return found, db.one(conn, "count_tasks", **params, cap=cap)["total"]


def list_task_ids(
    conn: Connection, *, tenant_id: int, wanted: TaskFilter, among: Collection[int], after: int, before: int, most: int
) -> list[int]:
    """Ids between the two of tasks in one of the states `among`, oldest first."""
    params = {"tenant_id": tenant_id, **wanted.params(), "among": list(map(int, among))}
    return [r["id"] for r in db.rows(conn, "list_task_ids", **params, after=after, before=before, most=most)]


def cancel(
    conn: Connection, *, tenant_id: int, ids: Sequence[int], updater: str, failed_retention_s: float
) -> list[tuple[int, int]]:
    """Cancel who waits, mark who runs; returns id and state of those changed."""
    found = db.rows(
        conn, "cancel", tenant_id=tenant_id, ids=list(ids), updater=updater, failed_retention_s=failed_retention_s
    )
    return [(r["id"], r["state"]) for r in found]


def rerun(
    conn: Connection, *, tenant_id: int, ids: Sequence[int], updater: str, queue_timeout_s: float
) -> list[tuple[int, int]]:
    """Final failed or cancelled tasks run again; returns id and lane of those changed."""
    found = db.rows(conn, "rerun", tenant_id=tenant_id, ids=list(ids), updater=updater, queue_timeout_s=queue_timeout_s)
    return [(r["id"], r["lane_id"]) for r in found]
