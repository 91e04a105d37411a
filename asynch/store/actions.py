"""Actions as rows: what rules do to files, each of their tries, and what they publish."""

from __future__ import annotations

from collections.abc import Sequence
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
    await_seconds: int = 0  #: how long a result may take that is posted; 0: none is waited for


@dataclass(frozen=True, slots=True)
class End:
    """What came of an action."""

    status: str  #: completed, failed
    error: str = ""
    output: object = None
    made: int | None = None  #: the file that it made


@dataclass(frozen=True, slots=True)
class Try:
    """One try of an action; None for what its task knows."""

    outcome: str  #: completed, delivered, failed
    attempt: int | None = None
    since: datetime | None = None  #: when it began
    error: str = ""


@dataclass(frozen=True, slots=True)
class LogFilter:
    """What a list of tries may be narrowed by; None narrows nothing."""

    rule_id: int | None = None
    file_id: int | None = None
    outcome: str | None = None


def insert_actions(conn: Connection, *, tenant_id: int, actions: Sequence[NewAction]) -> dict[int, int]:
    """Rules with the ids of their actions, which are also their tasks'.

    Without those of which this version was fired for the file before.
    """
    told = orjson.dumps([asdict(action) for action in actions]).decode()
    return {r["rule_id"]: r["id"] for r in db.rows(conn, "insert_actions", tenant_id=tenant_id, actions=told)}


def lock_action(conn: Connection, *, tenant_id: int, action_id: int) -> Row | None:
    """An action that nobody else ends until this transaction does, with `late`; None for a task that is none."""
    return db.row(conn, "lock_action", tenant_id=tenant_id, id=action_id)


def list_actions(conn: Connection, *, tenant_id: int, file_id: int) -> list[Row]:
    """A file's actions, the oldest first, with what their tasks say."""
    return db.rows(conn, "list_actions", tenant_id=tenant_id, file_id=file_id)


def list_completed(conn: Connection, *, tenant_id: int, file_id: int) -> list[Row]:
    """The actions of a file that have succeeded: rule_id, version, output, made."""
    return db.rows(conn, "list_completed_actions", tenant_id=tenant_id, file_id=file_id)


def end_action(conn: Connection, *, tenant_id: int, action_id: int, end: End) -> bool:
    """What came of it; False for one that has ended, which stays as it is."""
    told = {"status": end.status, "error_msg": end.error, "output": _as_json(end.output), "made": end.made}
    return db.run(conn, "end_action", tenant_id=tenant_id, id=action_id, **told) > 0


def await_result(conn: Connection, *, tenant_id: int, action_id: int) -> None:
    """Its message was delivered: from now on it waits for its result."""
    db.run(conn, "await_result", tenant_id=tenant_id, id=action_id)


def note_result(conn: Connection, *, tenant_id: int, action_id: int, output: object, error: str) -> None:
    """Its result was posted; another is not taken."""
    db.run(conn, "note_result", tenant_id=tenant_id, id=action_id, output=_as_json(output), error_msg=error)


def expire_actions(conn: Connection, *, most: int) -> int:
    """Fail those whose result did not come in time; how many."""
    return db.run(conn, "expire_actions", most=most)


def _as_json(output: object) -> str | None:
    return None if output is None else orjson.dumps(output).decode()


def log_try(conn: Connection, *, tenant_id: int, action_id: int, tried: Try) -> None:
    """Note one try; of what is no action nothing is noted."""
    told = {"outcome": tried.outcome, "attempt": tried.attempt, "since": tried.since, "error_msg": tried.error}
    db.run(conn, "insert_action_log", tenant_id=tenant_id, id=action_id, **told)


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


def insert_message(conn: Connection, *, tenant_id: int, action_id: int, topic: str, body: str) -> None:
    """Publish JSON in the database: whoever reads the topic finds it there, once."""
    db.run(conn, "insert_message", tenant_id=tenant_id, id=action_id, topic=topic, body=body)
    db.run(conn, "notify", channel="asynch_message", payload=topic)
