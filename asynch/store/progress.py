"""Progress as models tell it; the one way in which it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from asynch import db
from asynch.db import Connection


@dataclass(frozen=True, slots=True)
class Note:
    """A model's word on its progress; None is left as it was."""

    tenant_id: int
    id: int
    attempt: int  #: that called the model
    progress: float | None  #: 0-100
    message: str | None
    said_at: datetime | None = None  #: by the database's clock; None is now


@dataclass(frozen=True, slots=True)
class FoundCall:
    """What a task says of one of its calls."""

    final: bool
    goes_on: bool
    at: datetime  #: by the database's clock


def write_progress(conn: Connection, notes: Sequence[Note]) -> set[tuple[int, int]]:
    """Write what is still true of a call that goes on; returns (tenant, id) of those."""
    ordered = sorted(notes, key=lambda n: (n.tenant_id, n.id))
    found = db.rows(conn, "write_progress", notes=orjson.dumps(ordered).decode())
    return {(r["tenant_id"], r["id"]) for r in found}


def find_call(conn: Connection, *, tenant_id: int, task_id: int, attempt: int) -> FoundCall | None:
    """The call of this attempt; None when there is no such task."""
    found = db.row(conn, "find_call", tenant_id=tenant_id, id=task_id, attempt=attempt)
    return None if found is None else FoundCall(found["final"], found["goes_on"], found["at"])
