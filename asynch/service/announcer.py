"""Tells the workers which lanes have new tasks: one notification for all that came together, never one a task."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from asynch import db
from asynch.errors import DatabaseDown
from asynch.store import queue

logger = logging.getLogger(__name__)

#: NOTIFY takes a lock of the whole database at commit: at most one in this time.
_PAUSE_S = 0.01


class Announcer:
    """A thread that sends what was announced since its last word; a lost word costs a poll, nothing else."""

    def __init__(self, pool: db.Pool) -> None:
        self._pool = pool
        self._lanes: set[int] = set()
        self._some = threading.Condition()
        threading.Thread(target=self._run, name="announcer", daemon=True).start()

    def announce(self, lanes: Iterable[int]) -> None:
        """Tell that these lanes have new tasks, after their commit."""
        with self._some:
            self._lanes.update(lanes)
            self._some.notify()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            with self._some:
                self._some.wait_for(lambda: self._lanes)
                lanes, self._lanes = self._lanes, set()
            try:
                with db.connection(self._pool) as conn:
                    queue.announce(conn, lanes)
            except (DatabaseDown, db.Error) as exc:
                logger.warning("lanes not announced; polling will find them", extra={"error": str(exc)})
            pause.wait(_PAUSE_S)
