"""Tasks as their creators and readers see them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from asynch import db
from asynch.db import Connection, Row
from asynch.domain.states import State


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

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> TaskLane:
        """One as the database tells it."""
        return cls(
            told["model_name"],
            told["lane_id"],
            told["enabled"] == 1,
            told["http_method"],
            told["queue_limit"],
            told["tenant_key"],
            told["tenant_queue_limit"],
        )

    def told(self) -> dict[str, Any]:
        """As the database tells it."""
        return {
            "model_name": self.model_name,
            "lane_id": self.lane_id,
            "enabled": int(self.enabled),
            "http_method": self.method,
            "queue_limit": self.queue_limit,
            "tenant_key": self.tenant_key,
            "tenant_queue_limit": self.tenant_queue_limit,
        }

    @property
    def locks(self) -> set[int]:
        """What who enters it holds: also the tenant's where it has no limit, as somebody may be bringing one."""
        return {self.lane_id} if self.tenant_key is None else {self.lane_id, self.tenant_key}

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


#: Of so many names of a tenant those are sought that a search is for,
_MOST_NAMES = 10_000
#: and the tasks of so many are merged; those of more are not rare.
_MOST_MERGED = 1000


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

    def states(self) -> list[int]:
        """Those that its tasks may be in."""
        possible = [int(state) for state in State if not self.final or state not in (State.PENDING, State.RUNNING)]
        return [state for state in possible if self.state in (None, state)]


def lane_depth(conn: Connection, lane_id: int, *, since: int = 0) -> Depth:
    """How full a lane is with what entered it from an entry on."""
    found = db.one(conn, "lane_depth", lane_id=lane_id, since=since)
    return Depth(found["depth"], found["returning"], found["first"])


def tenant_depth(conn: Connection, tenant_id: int, *, since: int = 0) -> Depth:
    """How full all lanes of a tenant's models are together with what entered them from an entry on."""
    found = db.one(conn, "tenant_depth", tenant_id=tenant_id, since=since)
    return Depth(found["depth"], found["returning"], found["first"])


def draw_ids(conn: Connection, n: int) -> tuple[list[int], int]:
    """`n` new ids in order, and the last number drawn."""
    found = db.one(conn, "draw_ids", n=n)
    return found["ids"], found["drawn"]


def share_lanes(conn: Connection, lanes: Collection[int], *, tenant_id: int) -> None:
    """Keep counters and deleters out of a tenant's lanes until the end of the transaction."""
    found = db.row(conn, "tenant_key", tenant_id=tenant_id)
    keys = {*lanes, found["permit_id"]} if found else lanes
    db.rows(conn, "lock_lanes_shared", lanes=sorted(keys))


def enter_alone(conn: Connection, lanes: Collection[int], *, beside: Collection[int]) -> None:
    """Wait until no creator is in the lanes, and keep others out until the end of the transaction.

    Of those `beside` only counters and deleters are kept out. All are taken in one order.
    """
    db.rows(conn, "enter_alone", lanes=sorted({*lanes, *beside}), alone=list(lanes))


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
    search, count = "list_tasks", "count_tasks"
    if (names := _names(conn, tenant_id, wanted)) is not None:
        search, count = "list_named_tasks", "count_named_tasks"
        params |= {"models": [m for m, _ in names], "bizs": [b for _, b in names], "states": wanted.states()}
    found = [r["id"] for r in db.rows(conn, search, **params, limit=limit, offset=offset)]
    if len(found) < limit and (found or not offset):  # the end: of few rows among millions no second search
        return found, min(offset + len(found), cap)
    return found, db.one(conn, count, **params, cap=cap)["total"]


def _names(conn: Connection, tenant_id: int, wanted: TaskFilter) -> list[tuple[str, str]] | None:
    """The names of models and businesses that are searched for, unless a search by another index reads little anyway.

    That is one by id, one for what is not final, which is no more than the queues hold, and one for so many names that
    their tasks are everywhere.
    """
    named = wanted.model_name is not None or wanted.biz_name is not None
    if not named or wanted.id is not None or wanted.final is False:
        return None
    rows = db.rows(conn, "names_of", tenant_id=tenant_id, model_name=wanted.model_name, most=_MOST_NAMES + 1)
    if len(rows) > _MOST_NAMES:
        return None
    names = [(r["model_name"], r["biz_name"]) for r in rows if (wanted.biz_name or "") in r["biz_name"]]
    return names if len(names) <= _MOST_MERGED else None


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
