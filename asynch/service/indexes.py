"""Builds the indexes that a newer update.sql has on tables that are large by now, while everything runs on.

Within the migration's transaction nobody could write to a table until its index is there, minutes for millions of rows:
claim sessions would count as lost, and running calls be cut.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic, sleep

from asynch import db
from asynch.errors import UserError

logger = logging.getLogger(__name__)

#: A smaller table has its index in less than a second.
_LARGE_BYTES = 64 << 20
#: How long a look at the table, and the end of each older transaction, is waited for at a time, and in all, seconds.
_WAIT_S = 10.0
_PATIENCE_S = 600.0
_PAUSE_S = 0.5

_INDEX = re.compile(r"^CREATE (UNIQUE )?INDEX IF NOT EXISTS (\w+)\s+ON (\w+) ([^;]+);", re.MULTILINE)

_LOOK = """
SELECT i.indisvalid AS valid FROM pg_class t LEFT JOIN pg_index i ON i.indexrelid = to_regclass(%s)
WHERE t.oid = to_regclass(%s) AND pg_table_size(t.oid) >= %s"""


@dataclass(frozen=True, slots=True)
class _Index:
    unique: str
    name: str
    table: str
    definition: str


def build(pool: db.Pool, update_sql: str) -> None:
    """Build those that are missing, one after the other; what needs a newer table is left to update.sql.

    UserError when a transaction that stays open, or another's migration, keeps one from being built.
    """
    with db.connection(pool) as conn:
        conn.execute("SELECT set_config('lock_timeout', %s, false)", (f"{_WAIT_S:g}s",))
        try:
            for index in _missing(conn, update_sql):
                _build(conn, index)
        finally:
            conn.execute("RESET lock_timeout")


def _missing(conn: db.Connection, update_sql: str) -> Iterator[_Index]:
    for found in _INDEX.findall(update_sql):
        index = _Index(*found)
        if _is_there(conn, index) is False:
            yield index


def _is_there(conn: db.Connection, index: _Index) -> bool | None:
    """None where the table is not, or small."""
    row = conn.execute(_LOOK, (index.name, index.table, _LARGE_BYTES)).fetchone()
    return None if row is None else bool(row["valid"])


def _build(conn: db.Connection, index: _Index) -> None:
    logger.info("building an index while everything runs on", extra={"index": index.name})
    deadline = monotonic() + _PATIENCE_S
    while True:
        try:
            _drop_half_built(conn, index)
            conn.execute(
                f"CREATE {index.unique}INDEX CONCURRENTLY IF NOT EXISTS {index.name} "
                f"ON {index.table} {index.definition}".encode()
            )
            return
        except db.UndefinedColumn:
            return
        except (db.LockTimeout, *db.Collision) as exc:
            if monotonic() > deadline:
                raise UserError(
                    f"the index {index.name} cannot be built while a transaction stays open that began before "
                    f"({_oldest(conn)}); end it, or try again later"
                ) from exc
            sleep(_PAUSE_S)


def _drop_half_built(conn: db.Connection, index: _Index) -> None:
    """What a build that was broken off has left, in a way that holds up nobody."""
    with conn.transaction():  # who builds it right now has this lock, and is waited for
        conn.execute(f"LOCK TABLE {index.table} IN SHARE UPDATE EXCLUSIVE MODE".encode())
        is_there = _is_there(conn, index)
    if is_there is False:
        conn.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}".encode())


def _oldest(conn: db.Connection) -> str:
    row = conn.execute(
        "SELECT pid, application_name AS name, xact_start FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND xact_start IS NOT NULL AND pid <> pg_backend_pid() "
        "ORDER BY xact_start LIMIT 1"
    ).fetchone()
    return f"pid {row['pid']}, {row['name'] or 'unnamed'}, since {row['xact_start']:%F %T}" if row else "ended by now"
