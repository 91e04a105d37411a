"""Hears that tasks change, for all of a process that wait for one: one session listens, one query looks for all."""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TypeAlias

from asynch import db
from asynch.db import Row
from asynch.errors import DatabaseDown
from asynch.store import tasks as store

logger = logging.getLogger(__name__)

#: Who hears nothing is looked after this often: correctness rests on it, the notification only makes it quick.
_LOOK_S = 1.0
_RETRY_S = 1.0
_LINGER_S = 5.0

#: tenant and task
Key: TypeAlias = tuple[int, int]
#: Told the row of a task that changed, None when it is gone. Runs in the feed's thread and must not wait.
Heard: TypeAlias = Callable[[Key, Row | None], None]


class Feed:
    """Its thread and session live while somebody watches, and a little longer."""

    def __init__(self, dsn: str, pool: db.Pool) -> None:
        """`dsn` leads past any transaction pooler."""
        self._dsn = dsn
        self._pool = pool
        self._lock = threading.Lock()
        self._watchers: dict[Key, dict[int, Heard]] = defaultdict(dict)
        self._versions: dict[Key, int] = {}
        self._next = 0
        self._bell: socket.socket | None = None  # rings the thread; None while there is none

    @contextmanager
    def watching(self, keys: Collection[Key], heard: Heard) -> Iterator[None]:
        """Have `heard` told of changes to these tasks from now on; what they are now is the caller's to read."""
        number = self.watch(keys, heard)
        try:
            yield
        finally:
            self.forget(keys, number)

    def watch(self, keys: Collection[Key], heard: Heard) -> int:
        """As `watching`; the number is for `forget`."""
        with self._lock:
            self._next += 1
            for key in keys:
                self._watchers[key][self._next] = heard
            if self._bell is None:
                ear, self._bell = socket.socketpair()
                self._bell.setblocking(False)
                threading.Thread(target=self._run, args=(ear,), name="feed", daemon=True).start()
            with suppress(BlockingIOError):
                self._bell.send(b"\0")
            return self._next

    def forget(self, keys: Collection[Key], number: int) -> None:
        """Tell this one no more."""
        with self._lock:
            for key in keys:
                watchers = self._watchers.get(key)
                if watchers is not None:
                    watchers.pop(number, None)
                    if not watchers:
                        del self._watchers[key]
                        self._versions.pop(key, None)

    def _run(self, ear: socket.socket) -> None:
        with ear:
            while not self._is_over():
                try:
                    with db.open_session(self._dsn, name="asynch-feed") as session, db.wrapped():
                        session.execute("LISTEN asynch_task")
                        self._listen(session, ear)
                except (DatabaseDown, db.Error) as exc:
                    logger.warning("the feed lost its session, will retry", extra={"error": str(exc)})
                    threading.Event().wait(_RETRY_S)
                except Exception:  # the next who watches must find a thread
                    logger.exception("the feed failed, will retry")
                    threading.Event().wait(_RETRY_S)

    def _is_over(self) -> bool:
        """Whether nobody watches; then this thread ends, and the next who does begins another."""
        with self._lock:
            if self._watchers or self._bell is None:
                return False
            self._bell.close()
            self._bell = None
            return True

    def _listen(self, session: db.Connection, ear: socket.socket) -> None:
        """Until nobody has watched for a while."""
        next_look, watched_at = 0.0, monotonic()
        while monotonic() - watched_at < _LINGER_S:
            patience = max(0.0, next_look - monotonic()) if self._watchers else _LINGER_S
            readable, _, _ = select.select([session.fileno(), ear.fileno()], [], [], patience)
            if ear.fileno() in readable:
                ear.recv(4096)
            if self._watchers:
                watched_at = monotonic()
            named = self._named(session) if session.fileno() in readable else set()
            if named is None or monotonic() >= next_look:
                next_look = monotonic() + _LOOK_S
                self._tell(self._changed())
            elif named:
                self._tell(named)

    def _named(self, session: db.Connection) -> set[Key] | None:
        """The watched tasks among those named; None when all may have changed."""
        ids: set[int] = set()
        for notify in session.notifies(timeout=0):
            numbers = [int(n) for n in notify.payload.split(",") if n.isdigit()]
            if not numbers:
                return None
            ids.update(numbers)
        with self._lock:
            return {key for key in self._watchers if key[1] in ids}

    def _changed(self) -> set[Key]:
        with self._lock:
            keys = list(self._watchers)
        if not keys:
            return set()
        with db.connection(self._pool) as conn:
            versions = store.versions(conn, keys)
        return {key for key in keys if versions.get(key) != self._versions.get(key, -1)}

    def _tell(self, keys: set[Key]) -> None:
        by_tenant: dict[int, list[int]] = defaultdict(list)
        for tenant_id, task_id in keys:
            by_tenant[tenant_id].append(task_id)
        for tenant_id, ids in by_tenant.items():
            with db.connection(self._pool) as conn:
                rows = store.get_tasks(conn, tenant_id=tenant_id, ids=ids)
            for task_id in ids:
                self._tell_one((tenant_id, task_id), rows.get(task_id))

    def _tell_one(self, key: Key, row: Row | None) -> None:
        if row is not None and row["gone"]:
            row = None
        with self._lock:
            if key not in self._watchers:
                return
            watchers = list(self._watchers[key].values())
            if row is not None:
                self._versions[key] = row["version"]
        for heard in watchers:
            try:
                heard(key, row)
            except Exception:  # of one watcher, and no other's
                logger.exception("a watcher failed")
