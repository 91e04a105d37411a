"""Which cleaner of many does the work: the one whose session holds the leader's lock."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from asynch import db
from asynch.errors import DatabaseDown
from asynch.store import workers

logger = logging.getLogger(__name__)

#: Key of the leader's advisory lock: 'asynch' in ASCII, beyond any worker id.
LEADER_LOCK = 0x6173796E6368


class Leader:
    """Holds the lock on a session of its own, so leadership ends with the process, whatever ends it."""

    def __init__(self, open_session: Callable[[], db.Connection]) -> None:
        self._open_session = open_session
        self._session: db.Connection | None = None
        self._leads = False
        self._closed = False
        self._lock = threading.Lock()

    def leads(self) -> bool:
        """Whether this process is the leader now; tries to become it."""
        with self._lock:
            try:
                return not self._closed and self._ask()
            except (DatabaseDown, db.Error) as exc:
                logger.warning("leader's session lost", extra={"error": str(exc)})
                self._drop()
                return False

    def _ask(self) -> bool:
        with db.wrapped():
            if self._session is None:
                self._session = self._open_session()
            if self._leads:
                self._session.execute("SELECT 1")
                return True
            self._leads = workers.try_lock(self._session, LEADER_LOCK)
            if self._leads:
                logger.info("leading the cleaner")
            return self._leads

    def _drop(self) -> None:
        self._leads = False
        if self._session is not None:
            self._session.close()
            self._session = None

    def close(self) -> None:
        """Give leadership up for good."""
        with self._lock:
            self._closed = True
            self._drop()
