"""The op log: who did what, written in the transaction of what it records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import orjson

from asynch import db
from asynch.db import Connection
from asynch.domain.principal import Caller

_INT4_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Operation:
    """What one row says besides who asked for it; the texts are redacted by whoever makes it."""

    model_name: str = ""
    biz_name: str = ""
    task_id: str = ""
    success: bool = True
    error: str = ""
    request: str = ""
    response: str = ""


def insert_op_logs(conn: Connection, caller: Caller, op_type: str, operations: Sequence[Operation]) -> None:
    """Write a row an operation; all of one request and of one kind."""
    if not operations:
        return
    cost_ms = int((monotonic() - caller.since) * 1000) if caller.since else 0
    db.run(
        conn,
        "insert_op_logs",
        tenant_id=caller.principal.tenant_id,
        creator=caller.principal.user,
        ip=caller.ip,
        user_agent=caller.user_agent,
        api_path=caller.path,
        http_method=caller.method,
        op_type=op_type,
        cost_ms=min(cost_ms, _INT4_MAX),
        operations=orjson.dumps(operations).decode(),
    )
