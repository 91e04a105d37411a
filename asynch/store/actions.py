"""Actions as rows: what rules do to files, and each of their tries."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

import orjson

from asynch import db
from asynch.db import Connection, Row


@dataclass(frozen=True, slots=True)
class NewAction:
    """A rule that is to be carried out on a file."""

    file_id: int
    rule_id: int
    version: int
    action_name: str
    execute_mode: int
    target_url: str


@dataclass(frozen=True, slots=True)
class LogFilter:
    """What a list of tries may be narrowed by; None narrows nothing."""

    rule_id: int | None = None
    file_id: int | None = None
    outcome: str | None = None


def insert_action(conn: Connection, *, tenant_id: int, action: NewAction) -> int | None:
    """Its id, which is also its task's; None where this version of the rule was fired for the file before."""
    made = db.row(conn, "insert_action", tenant_id=tenant_id, **asdict(action))
    return None if made is None else made["id"]


def find_action(conn: Connection, *, tenant_id: int, action_id: int) -> Row | None:
    """An action; None for a task that is none."""
    return db.row(conn, "find_action", tenant_id=tenant_id, id=action_id)


def list_actions(conn: Connection, *, tenant_id: int, file_id: int) -> list[Row]:
    """A file's actions, the oldest first, with what their tasks say."""
    return db.rows(conn, "list_actions", tenant_id=tenant_id, file_id=file_id)


def end_action(
    conn: Connection, *, tenant_id: int, action_id: int, status: str, error: str = "", output: object = None
) -> None:
    """What came of it; one that has ended stays as it is."""
    text = None if output is None else orjson.dumps(output).decode()
    db.run(conn, "end_action", tenant_id=tenant_id, id=action_id, status=status, error_msg=error, output=text)


def log_try(
    conn: Connection, *, tenant_id: int, action_id: int, attempt: int, outcome: str, since: datetime, error: str
) -> None:
    """Note one try; of what is no action nothing is noted."""
    db.run(
        conn,
        "insert_action_log",
        tenant_id=tenant_id,
        id=action_id,
        attempt=attempt,
        outcome=outcome,
        since=since,
        error_msg=error,
    )


def list_tries(
    conn: Connection, *, tenant_id: int, wanted: LogFilter, limit: int, offset: int, cap: int
) -> tuple[list[Row], int]:
    """A page of tries, newest first, and how many there are, counted no further than `cap`."""
    which = {"tenant_id": tenant_id, **asdict(wanted)}
    page, count = db.pipelined(
        conn,
        [
            ("list_action_log", {**which, "limit": limit, "offset": offset}),
            ("count_action_log", {**which, "cap": cap}),
        ],
    )
    return page, count[0]["total"]


def forget_tries(conn: Connection, *, retention_s: float, most: int) -> int:
    """Delete what is older than that; how many."""
    return db.run(conn, "forget_action_log", retention_s=retention_s, most=most)
