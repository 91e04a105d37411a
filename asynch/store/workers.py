"""Workers and hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from asynch import db
from asynch.db import Connection, Row
from asynch.domain.states import State
from asynch.errors import DatabaseDown

#: A worker silent for this long is frozen or cut off: its sessions are ended by others.
FROZEN_S = 15.0


@dataclass(frozen=True, slots=True)
class Dead:
    """A dead worker, ready to be buried. `charged`: its end may have been its tasks' doing."""

    id: int
    host: str
    charged: bool


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what the cleaner leaves stays, seconds."""

    failed_s: float
    queue_timeout_s: float


def try_lock(conn: Connection, key: int) -> bool:
    """Hold this lock as long as the session lives, if nobody does."""
    held: bool = db.one(conn, "try_lock", key=key)["held"]
    return held


def register(conn: Connection, *, host: str, pid: int, tmp_host: str, threads: int, media: int = 0) -> int:
    """A new worker id whose lock this session holds: the lock first, so that no row is ever without a living lock.

    `media` is how many media programs its host may run at once; 0 any number.
    """
    worker_id: int = db.one(conn, "new_worker_id")["id"]
    if not try_lock(conn, worker_id):
        raise DatabaseDown(f"the lock of the new worker id {worker_id} is held by another session")
    values = {"host": host, "pid": pid, "tmp_host": tmp_host, "threads": threads, "media": media}
    db.run(conn, "insert_worker", worker_id=worker_id, **values)
    return worker_id


def session_is_direct(conn: Connection) -> bool:
    """Whether this session keeps its backend and locks between transactions, as it does not behind a pooler."""
    conn.execute("SELECT pg_advisory_lock(0, -2)")
    first, second = db.one(conn, "own_locks"), db.one(conn, "own_locks")
    conn.execute("SELECT pg_advisory_unlock(0, -2)")
    return bool(first["pid"] == second["pid"] and second["locks"] >= 1)


def beat(conn: Connection, *, worker_id: int, tmp_host: str, host: str, info: Mapping[str, Any]) -> bool:
    """Say that this worker lives; False when others have declared it dead."""
    told = orjson.dumps(info).decode()
    return db.row(conn, "beat", worker_id=worker_id, tmp_host=tmp_host, host=host, info=told) is not None


def list_workers(conn: Connection) -> list[Row]:
    """The living, oldest first, each with what it last said of itself."""
    return db.rows(conn, "list_workers")


def terminate_silent(conn: Connection, *, worker_id: int, silence_s: float) -> list[int]:
    """End the sessions of workers that have been silent so long; returns their ids."""
    return [r["id"] for r in db.rows(conn, "terminate_silent", worker_id=worker_id, silence_s=silence_s)]


def claim_dead(conn: Connection, *, worker_id: int, grace_s: float) -> list[Dead]:
    """The dead whose mourning is over, for this transaction alone."""
    found = db.rows(conn, "claim_dead", worker_id=worker_id, grace_s=grace_s)
    return [Dead(r["id"], r["host"], r["charged"]) for r in found]


def rescue(
    conn: Connection,
    *,
    workers: Sequence[int],
    host: str,
    charged: bool,
    max_crashes: int,
    keep: Retention,
    most: int,
    ids: Sequence[int] | None = None,
) -> list[tuple[int, State]]:
    """Take at most `most` tasks (only those of `ids`, if given) from workers that do not have them in hand any more.

    Returns the lane and new state of each.
    """
    found = db.rows(
        conn,
        "rescue",
        workers=list(workers),
        host=host,
        charged=charged,
        max_crashes=max_crashes,
        failed_retention_s=keep.failed_s,
        queue_timeout_s=keep.queue_timeout_s,
        most=most,
        ids=list(ids) if ids is not None else None,
    )
    return [(r["lane_id"], State(r["state"])) for r in found]


def own_claims(conn: Connection, *, worker_id: int) -> set[tuple[int, int]]:
    """(id, attempt) of all that this worker should have in hand."""
    return {(r["id"], r["attempt"]) for r in db.rows(conn, "own_claims", worker_id=worker_id)}


def end_sessions(conn: Connection, worker_id: int) -> None:
    """End what is left of the sessions of a worker that is given up."""
    db.run(conn, "end_sessions", worker=worker_id)


def bury(conn: Connection, worker_id: int) -> None:
    """Forget a worker that holds nothing any more; one that still does stays for the next rescue."""
    db.run(conn, "bury", worker=worker_id)


def cancelled_claims(conn: Connection, *, worker_id: int, tasks: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """Which of these (tenant, id) the user wants ended; returns (id, attempt)."""
    found = db.rows(
        conn, "cancelled_claims", worker_id=worker_id, tenants=[t for t, _ in tasks], ids=[i for _, i in tasks]
    )
    return {(r["id"], r["attempt"]) for r in found}


def known_files(conn: Connection, files: Mapping[str, tuple[int, int, int]]) -> set[str]:
    """Of these files (name -> tenant, id, attempt), those somebody still needs."""
    parts = list(files.values())
    found = db.rows(
        conn,
        "known_files",
        names=list(files),
        tenants=[p[0] for p in parts],
        ids=[p[1] for p in parts],
        attempts=[p[2] for p in parts],
    )
    return {r["name"] for r in found}


def find_attempt(conn: Connection, *, tenant_id: int, task_id: int, attempt: int) -> tuple[datetime, str] | None:
    """When an attempt began, and the object that its task names; None where nothing is known of the two."""
    found = db.row(conn, "find_attempt", tenant_id=tenant_id, id=task_id, attempt=attempt)
    return (found["began"], found["oss_file"]) if found else None
