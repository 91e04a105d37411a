"""Creation of tasks: one statement that does all of a request, or says why nothing was done."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from asynch import db
from asynch.db import Connection
from asynch.domain.principal import Caller
from asynch.domain.redact import redacted_each
from asynch.domain.retry import rank_of
from asynch.errors import InvalidInput, Mistake, Refused
from asynch.store.oplog import request_of
from asynch.store.tasks import NewTask, TaskLane

#: where no task has a callback
_NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Once:
    """An Idempotency-Key with what it stands for."""

    path: str
    key: str
    body_hash: str


@dataclass(frozen=True, slots=True)
class Request:
    """What creates tasks: all that its items have in common."""

    caller: Caller
    queue_timeout_s: float
    timezone: str  #: of the day its tasks count under
    log_payloads: bool
    tenant_queue_limit: int = 0  #: of a tenant that has none of its own; 0 is none
    once: Once | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """Under what conditions a request goes in."""

    names: Sequence[str] = ()
    lanes: Collection[TaskLane] = ()  #: those of the names, as they are believed to be
    low: int = 0  #: the last number that is drawn for it
    high: int | None = None  #: lies between these
    begun: bool = False  #: its key is this transaction's already
    kept: bool = True  #: what comes of the items is remembered under the key


class Made(NamedTuple):
    """The items got these ids, those too that were refused before."""

    ids: list[int]


class Otherwise(NamedTuple):
    """Nothing was done: the lanes of these names are these."""

    lanes: list[TaskLane]


class Beyond(NamedTuple):
    """Nothing was done: more numbers are drawn by now."""


class Before(NamedTuple):
    """Nothing was done: the key stands for this."""

    body_hash: str | None  #: None: for nothing any more
    answer: Sequence[Any]


#: An item on its way: where it goes, or why not, and what it is.
Item: TypeAlias = tuple[TaskLane | Refused, NewTask]

#: What most tasks do not give, from this field on, named as the statement has it.
_OPTIONAL: Final = 3
_NAMES = NewTask._fields[_OPTIONAL:]
_NOT_GIVEN = NewTask("")[_OPTIONAL:]


def create_tasks(
    conn: Connection,
    request: Request,
    items: Sequence[Item],
    entry: Entry,
    *,
    callback_lanes: Mapping[str, int] = _NONE,
) -> Made | Otherwise | Beyond | Before:
    """Insert the tasks of a request that are not refused, with an op log row an item, their statistics and their key.

    All that it needs is one statement, and so a transaction of its own where none is begun. `callback_lanes` has the
    lane of each callback URL. Raises db.LockTimeout where the key is in flight for longer than 2 s.
    """
    refusals = {n: remembered(to) for n, (to, _) in enumerate(items) if isinstance(to, Refused)}
    told = {
        **request_of(request.caller),
        "trace_context": request.caller.trace_context,
        "upload_headers": request.caller.upload_headers,
        "names": entry.names,
        "lanes": sorted((lane.told() for lane in entry.lanes), key=itemgetter("lane_id")),
        "tenant_queue_limit": request.tenant_queue_limit,
        "locks": sorted({key for lane in entry.lanes for key in lane.locks}),
        "n": len(items),
        "low": entry.low,
        "high": entry.high,
        "queue_timeout_s": request.queue_timeout_s,
        "timezone": request.timezone,
    }
    if request.once is not None:
        told |= asdict(request.once)
        told |= {"begun": entry.begun, "kept": entry.kept, "refusals": refusals}
    payloads = [task.payload if request.log_payloads else None for _, task in items]
    logged = redacted_each(payloads)
    rows = [_record(to, task, callback_lanes, shown) for (to, task), shown in zip(items, logged, strict=True)]
    answer = db.one(
        conn,
        "create_tasks",
        request=orjson.dumps(told, option=orjson.OPT_NON_STR_KEYS).decode(),
        items=orjson.dumps(rows).decode(),
    )
    if answer["ids"] is not None:
        return Made(answer["ids"])
    if answer["known"] is not None:
        return _before(answer["known"])
    if answer["lanes"] is not None:
        return Otherwise([TaskLane.of(lane) for lane in answer["lanes"]])
    return Beyond()


def begin_once(conn: Connection, tenant_id: int, once: Once) -> Before | None:
    """Take a key for this transaction, unless it stands for something. Errors as create_tasks."""
    known = db.one(conn, "begin_once", tenant_id=tenant_id, **asdict(once))["known"]
    return None if known is None else _before(known)


def _before(known: Mapping[str, Any]) -> Before:
    return Before(known.get("body_hash"), known.get("answer", ()))


def remembered(refusal: Refused) -> dict[str, Any]:
    """As it is kept under a key."""
    mistakes = [[m.pointer, m.detail] for m in refusal.mistakes] if isinstance(refusal, InvalidInput) else []
    return {"code": refusal.code, "detail": str(refusal), "extra": dict(refusal.extra), "errors": mistakes}


def recalled(told: Mapping[str, Any]) -> Refused:
    """A refusal as it was kept."""
    if told["errors"]:
        return InvalidInput([Mistake(pointer, detail) for pointer, detail in told["errors"]], code=told["code"])
    return Refused(told["detail"], code=told["code"], **told["extra"])


def _record(to: TaskLane | Refused, task: NewTask, callback_lanes: Mapping[str, int], logged: str) -> dict[str, Any]:
    """An item as the statement reads it; of one that is refused what the op log tells."""
    if isinstance(to, Refused):
        return {
            "error": str(to.code), "model_name": task.model_name, "biz_name": task.biz_name, "logged": logged,
        }  # fmt: skip
    told = {
        "lane_id": to.lane_id,
        "rank": rank_of(task.priority),
        "model_name": task.model_name,
        "request_payload": task.payload,
    }
    if logged != task.payload:
        told["logged"] = logged
    if (optional := task[_OPTIONAL:]) != _NOT_GIVEN:
        told |= {name: value for name, value in zip(_NAMES, optional, strict=True) if value is not None}
    if task.callback_url:
        told["callback_lane"] = callback_lanes[task.callback_url]
    return told
