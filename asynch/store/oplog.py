"""The op log: who did what, written in the transaction of what it records, and found again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from time import monotonic
from typing import Any

import orjson

from asynch import db
from asynch.db import Connection, Row
from asynch.domain.ids import number_of
from asynch.domain.principal import Caller

_INT4_MAX = 2**31 - 1
#: Of these there are as many as tasks; of all others, as long as looks are not logged, a handful that an index finds.
_BULK = ("createTask", "purgeTask")


@dataclass(frozen=True, slots=True)
class Operation:
    """What one row says besides who asked for it; the texts are redacted by whoever makes it."""

    model_name: str = ""
    biz_name: str = ""
    task_id: str = ""
    success: bool = True
    error: str = ""
    request: str = ""
    id: int | None = None  #: of the row, drawn before, so that it stands where it belongs among others; else a new one


def insert_op_logs(conn: Connection, caller: Caller, op_type: str, operations: Sequence[Operation]) -> None:
    """Write a row an operation; all of one request and of one kind."""
    if operations:
        told = orjson.dumps(operations).decode()
        db.run(conn, "insert_op_logs", **request_of(caller), op_type=op_type, operations=told)


def request_of(caller: Caller) -> dict[str, Any]:
    """What all rows of one request say of it, as the queries name it."""
    cost_ms = int((monotonic() - caller.since) * 1000) if caller.since else 0
    return {
        "tenant_id": caller.principal.tenant_id,
        "creator": caller.principal.user,
        "ip": caller.ip,
        "user_agent": caller.user_agent,
        "api_path": caller.path,
        "http_method": caller.method,
        "cost_ms": min(cost_ms, _INT4_MAX),
    }


@dataclass(frozen=True, slots=True)
class OpFilter:
    """What the op log may be narrowed by; None narrows nothing, a text is contained, a task id is the whole one."""

    op_type: str | None = None
    biz_name: str | None = None
    model_name: str | None = None
    task_id: str | None = None
    creator: str | None = None
    success: int | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


def list_op_logs(
    conn: Connection, *, tenant_id: int, wanted: OpFilter, limit: int, offset: int, cap: int
) -> tuple[list[Row], int]:
    """A page, newest first, and how many rows there are in all, counted up to `cap`."""
    params: dict[str, Any] = {"tenant_id": tenant_id, **asdict(wanted), "ids": None}
    if (task_id := params.pop("task_id")) is not None:
        of_task = db.rows(
            conn, "op_logs_of_task", tenant_id=tenant_id, task_id=task_id, number=number_of(task_id), most=cap
        )
        if not of_task:
            return [], 0
        params["ids"] = [r["id"] for r in of_task]
    params["rare"] = wanted.op_type is not None and not any(wanted.op_type in name for name in _BULK)
    found = db.rows(conn, "list_op_logs", **params, limit=limit, offset=offset)
    if len(found) < limit and (found or not offset):  # the end: of few rows among millions no second search
        return found, min(offset + len(found), cap)
    return found, db.one(conn, "count_op_logs", **params, cap=cap)["total"]
