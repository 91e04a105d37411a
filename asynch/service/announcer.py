"""Tells others what changed: one notification for all that came together, never one a task."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable

from asynch import db
from asynch.errors import DatabaseDown

logger = logging.getLogger(__name__)

#: NOTIFY takes a lock of the whole database at commit: at most one in this time.
_PAUSE_S = 0.01


class Announcer:
    """A thread that sends what was announced since its last word; a lost word costs a look, nothing else.

    `send` notifies of numbers: `news.announce` of lanes with new tasks, `news.announce_changed` of tasks.
    """

    def __init__(
        self, pool: db.Pool, send: Callable[[db.Connection, Collection[int]], None], *, pause_s: float = _PAUSE_S
    ) -> None:
        self._pool = pool
        self._send = send
        self._pause_s = pause_s
        self._numbers: set[int] = set()
        self._some = threading.Condition()
        self._over = threading.Event()
        threading.Thread(target=self._run, name="announcer", daemon=True).start()

    def announce(self, numbers: Iterable[int]) -> None:
        """Tell of these, after their commit."""
        with self._some:
            self._numbers.update(numbers)
            self._some.notify()

    def close(self) -> None:
        """Say no more."""
        self._over.set()
        with self._some:
            self._some.notify()

    def _run(self) -> None:
        while True:
            with self._some:
                self._some.wait_for(lambda: self._numbers or self._over.is_set())
                numbers, self._numbers = self._numbers, set()
            if self._over.is_set():
                return
            try:
                with db.connection(self._pool) as conn:
                    self._send(conn, numbers)
            except (DatabaseDown, db.Error) as exc:
                logger.warning("not announced; polling will find it", extra={"error": str(exc)})
            self._over.wait(self._pause_s)
