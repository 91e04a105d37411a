"""Connections, transactions and notifications; the only module besides store/ that knows psycopg."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic
from typing import Any, TypeAlias
from weakref import WeakSet

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from asynch.errors import DatabaseDown
from asynch.sql import plan_is_kept, query


class Connection(psycopg.Connection[DictRow]):
    """A connection that knows how old its plans are."""

    planned_at = -inf  #: by the monotonic clock; plans that are kept are not older


Pool: TypeAlias = ConnectionPool[Connection]
Row: TypeAlias = DictRow
Notify: TypeAlias = psycopg.Notify
#: What a statement may fail with, for those who must tell it from a lost connection.
Error = psycopg.Error
#: A lock was not to be had in the time allowed.
LockTimeout = psycopg.errors.LockNotAvailable
#: A statement names a column that is not there.
UndefinedColumn = psycopg.errors.UndefinedColumn
#: The server's table of locks is full.
OutOfLocks = psycopg.errors.OutOfMemory
#: Two transactions met in the wrong order; the same again will do.
Collision = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)

#: Of every connection. Each statement is its own transaction unless one is begun; no plan outlives its statement,
#: but see _keep_plans; a peer that vanished without a word is noticed after about 11 s (5 + 3 * 2), on both sides.
_OPTIONS: Mapping[str, Any] = {
    "autocommit": True,
    "row_factory": dict_row,
    "prepare_threshold": None,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "connect_timeout": 5,
}

#: How old a plan may get.
PLANS_KEPT_S = 2.0

#: How long one waits for a connection before the database counts as down.
_PATIENCE_S = 10.0
#: And how long once it is known to be down: every request of an API would hold one of its threads meanwhile.
_PATIENCE_WHILE_DOWN_S = 1.0
_down: WeakSet[Pool] = WeakSet()

#: Set on every connection. A dead client frees its locks even while its query runs; a forgotten transaction ends.
_SETTINGS = (
    "SET timezone = 'UTC'",
    "SET client_connection_check_interval = '1s'",
    "SET idle_in_transaction_session_timeout = '60s'",
    "SET tcp_keepalives_idle = 5",
    "SET tcp_keepalives_interval = 2",
    "SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = 10000",
)

#: For sessions that run only the queue's own statements: no plan but the index the statement was written for. A
#: planner that has just seen an empty queue in ANALYZE would choose otherwise, and keep to it when the queue is full.
_PINNED = (
    "SET enable_seqscan = off",
    "SET enable_bitmapscan = off",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    "SET enable_sort = off",
    "SET jit = off",
    "SET plan_cache_mode = force_generic_plan",
)


def _prepare(conn: Connection, *, pinned: bool) -> None:
    for statement in _SETTINGS + (_PINNED if pinned else ()):
        # Not every platform or server version has each of them.
        with suppress(psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedObject):
            conn.execute(statement)


def _keep_plans(conn: Connection) -> None:
    """Let the statements that are marked so keep their plans, on a session that keeps its backend.

    Behind a transaction pooler the next transaction may run where nothing was prepared. A pooler cannot know at the
    start which backends will serve, so the key it hands out names none of them. Parsing and planning took half of what
    Postgres spends on a task.
    """
    (answers,) = conn.execute("SELECT pg_backend_pid() AS pid").fetchall()
    if answers["pid"] == conn.info.backend_pid:
        conn.prepare_threshold = sys.maxsize  # of its own accord the driver prepares nothing


def _renew_plans(conn: Connection) -> None:
    """Have statements planned anew every few seconds.

    A plan that is right for ten rows joins from the table's side, and reads all of it when there are a million; nobody
    but ANALYZE tells the session that they came.
    """
    if conn.prepare_threshold is not None and monotonic() - conn.planned_at > PLANS_KEPT_S:
        conn.execute("DISCARD PLANS")
        conn.planned_at = monotonic()


def _still_there(conn: Connection) -> None:
    """The pool's check before it lends a connection: one that is silent needs no question, which costs a round trip.

    A server that ended it has said so; one that vanished without a word would not answer a question either.
    """
    poll = select.poll()
    poll.register(conn.fileno(), select.POLLIN)
    if poll.poll(0):
        ConnectionPool.check_connection(conn)


class Lines:
    """All connections of one owner, to be ended at once whatever waits on them.

    A peer that is frozen, or a proxy that lost its other side, acknowledges every packet: no time-out of TCP ends that.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: WeakSet[Connection] = WeakSet()

    def add(self, conn: Connection) -> None:
        """One more."""
        with self._lock:
            self._all.add(conn)

    def cut(self) -> None:
        """End them as the network would; any thread. Who waits on one gets DatabaseDown."""
        with self._lock:
            for conn in self._all:
                with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as line:
                    line.shutdown(socket.SHUT_RDWR)


def is_conninfo(text: str) -> bool:
    """Whether a text says where to connect to, with ports that are numbers and hosts that can be."""
    try:
        told = conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        return False
    ports, hosts = str(told.get("port", "")), str(told.get("host", ""))
    return all(port.isdigit() for port in ports.split(",") if port) and "@" not in hosts


def open_pool(dsn: str, *, size: int, name: str, pinned: bool = False, lines: Lines | None = None) -> Pool:
    """A pool of at most `size` connections whose application_name is `name`; it connects in the background."""

    def configure(conn: Connection) -> None:
        if lines is not None:
            lines.add(conn)
        _prepare(conn, pinned=pinned)
        _keep_plans(conn)

    return ConnectionPool(
        dsn,
        connection_class=Connection,
        kwargs={"application_name": name, **_OPTIONS},
        min_size=1,
        max_size=size,
        max_idle=300.0,
        reconnect_timeout=0.0,
        configure=configure,
        check=_still_there,
        open=True,
    )


def open_small_pool(dsn: str, *, name: str) -> Pool:
    """A pool of one connection for what ends soon; raises DatabaseDown at once, in the words of who refused."""
    open_session(dsn, name=name).close()
    return open_pool(dsn, size=1, name=name)


def dsn_of(pool: Pool) -> str:
    """Where a pool connects to, for a session beside it."""
    return pool.conninfo if isinstance(pool.conninfo, str) else pool.conninfo()


def open_session(dsn: str, *, name: str, lines: Lines | None = None) -> Connection:
    """One pinned autocommit connection of its own, for advisory locks and LISTEN. Raises DatabaseDown."""
    with wrapped():
        conn = Connection.connect(dsn, application_name=name, **_OPTIONS)
        if lines is not None:
            lines.add(conn)
        _prepare(conn, pinned=True)
        _keep_plans(conn)
    return conn


@contextmanager
def wrapped() -> Iterator[None]:
    """Turn a lost or refused connection into DatabaseDown; errors of statements pass."""
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as exc:
        if isinstance(exc, psycopg.OperationalError) and exc.sqlstate and not _connection_is_at_fault(exc.sqlstate):
            raise
        raise DatabaseDown(str(exc).strip().splitlines()[0] if str(exc) else type(exc).__name__) from exc


def _connection_is_at_fault(sqlstate: str) -> bool:
    """Class 08 connection, 57 operator intervention, 53 resources, 25006 a standby: try again later."""
    return sqlstate[:2] in {"08", "53"} or sqlstate in {"57P01", "57P02", "57P03", "57P05", "25006"}


@contextmanager
def _taken(pool: Pool) -> Iterator[Connection]:
    """A connection of the pool, which tries a lost database again only when it is asked anew: so ask each second."""
    end = monotonic() + (_PATIENCE_WHILE_DOWN_S if pool in _down else _PATIENCE_S)
    while True:
        try:
            conn = pool.getconn(timeout=1.0)
            break
        except PoolTimeout:
            if monotonic() >= end or pool.closed:
                _down.add(pool)
                raise
    _down.discard(pool)
    try:
        with conn:
            yield conn
    finally:
        pool.putconn(conn)


@contextmanager
def transaction(pool: Pool) -> Iterator[Connection]:
    """A transaction on a pooled connection: committed at the end, rolled back by any exception. Raises DatabaseDown."""
    with wrapped(), _taken(pool) as conn, conn.transaction():
        yield conn


@contextmanager
def connection(pool: Pool) -> Iterator[Connection]:
    """A pooled connection for single statements, each a transaction of its own. Raises DatabaseDown."""
    with wrapped(), _taken(pool) as conn:
        yield conn


def rows(conn: Connection, name: str, /, **params: Any) -> list[Row]:
    """All rows of the query `name`."""
    return _executed(conn, name, params).fetchall()


def row(conn: Connection, name: str, /, **params: Any) -> Row | None:
    """The first row of the query `name`, None without one."""
    return _executed(conn, name, params).fetchone()


def one(conn: Connection, name: str, /, **params: Any) -> Row:
    """The one row of a query that always has one."""
    found = row(conn, name, **params)
    if found is None:
        raise LookupError(f"query {name} gave no row")
    return found


def run(conn: Connection, name: str, /, **params: Any) -> int:
    """Run the query `name`, return how many rows it touched."""
    return _executed(conn, name, params).rowcount


def _executed(conn: Connection, name: str, params: Mapping[str, Any]) -> psycopg.Cursor[DictRow]:
    kept = plan_is_kept(name)
    if kept:
        _renew_plans(conn)
    return conn.execute(query(name), params, prepare=kept)


def pipelined(conn: Connection, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[Row]]:
    """Several queries in one round trip, each with its own snapshot; their rows in the same order."""
    with conn.pipeline():
        cursors = [_executed(conn, name, params) for name, params in calls]
        return [cursor.fetchall() for cursor in cursors]
