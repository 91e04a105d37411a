"""Asks the database how the queue is: not often, on a session of its own, and never for long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from time import monotonic

from asynch import db
from asynch.errors import DatabaseDown
from asynch.store import survey as store

logger = logging.getLogger(__name__)

#: How long whoever asks waits for the answer. One statement may take two seconds.
PATIENCE_S = 3.0
#: An answer is good for so long, and for so many times what it took: the questions are at most 1/20 of one backend.
FRESH_S = 2.0
_FRESH_TIMES = 20
_FRESH_MOST_S = 60.0


@dataclass(slots=True)
class Survey:
    """What one look found; None is a part that gave no answer (in time)."""

    connected: bool = False
    took_s: float = 0.0
    snapshot: float | None = None  #: age of the oldest, seconds
    locks: store.Locks | None = None
    in_hand: store.InHand | None = None
    waiting: store.Waiting | None = None


#: The quick ones first: a held snapshot makes the last one slow, and must be seen for that.
PARTS: Mapping[str, Callable[[db.Connection], object]] = {
    "snapshot": store.oldest_snapshot_s,
    "locks": store.locks,
    "in_hand": store.in_hand,
    "waiting": store.waiting,
}


class Surveyor:
    """Looks in the background, because a database that is gone may let its callers wait for ever."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._lock = threading.Lock()
        self._next_at = 0.0  #: of monotonic()
        self._answered = threading.Event()
        self._answered.set()
        self._survey = Survey()
        self._lines = db.Lines()

    def look(self) -> Survey:
        """What the database says, or said a moment ago; parts are missing where it does not answer."""
        with self._lock:
            if self._answered.is_set() and monotonic() >= self._next_at:
                self._answered.clear()
                self._survey, self._lines = Survey(), db.Lines()
                ask = threading.Thread(target=self._ask, args=(self._survey, self._lines), name="survey", daemon=True)
                ask.start()
            survey, lines = self._survey, self._lines
        if not self._answered.wait(PATIENCE_S):
            lines.cut()
        return survey

    def _ask(self, survey: Survey, lines: db.Lines) -> None:
        began = monotonic()
        try:
            with closing(db.open_session(self._dsn, name="asynch-survey", lines=lines)) as conn:
                survey.connected = True
                conn.execute("SET statement_timeout = '2s'")
                for part in PARTS:
                    self._ask_part(conn, survey, part)
        except (DatabaseDown, db.Error) as exc:
            logger.warning("the queue cannot be surveyed", extra={"error": str(exc)})
        finally:
            survey.took_s = monotonic() - began
            self._next_at = monotonic() + min(max(FRESH_S, _FRESH_TIMES * survey.took_s), _FRESH_MOST_S)
            self._answered.set()

    def _ask_part(self, conn: db.Connection, survey: Survey, part: str) -> None:
        try:
            with db.wrapped():
                setattr(survey, part, PARTS[part](conn))
        except db.Error as exc:
            logger.warning("a part of the survey failed", extra={"part": part, "error": str(exc)})
