"""Tells others of what a worker does: readers of its tasks, those who deliver callbacks, callers of its services."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial

from asynch import db
from asynch.errors import DatabaseDown
from asynch.executors import Working
from asynch.service.announcer import Announcer
from asynch.store import news
from asynch.store.progress import Note, write_progress
from asynch.store.queue import Claim, Outcome, Settled
from asynch.worker.breakers import Breakers
from asynch.worker.outcomes import storable
from asynch.worker.pace import Pace

logger = logging.getLogger(__name__)

#: Readers hear of changes no more often.
_CHANGES_PAUSE_S = 0.05


class Telling:
    """All of it is worth no attempt: what cannot be told is forgotten. Any thread may tell."""

    def __init__(self, pool: db.Pool) -> None:
        self._pool = pool
        self._changes = Announcer(pool, news.announce_changed, pause_s=_CHANGES_PAUSE_S)
        self._lanes = Announcer(pool, news.announce)
        self._breakers, self._pace = Breakers(), Pace()

    def duties(self, stop: threading.Event) -> Mapping[str, Callable[[], None]]:
        """What threads must do for it until `stop`."""
        return {
            "breakers": partial(self._breakers.run, self._pool, stop),
            "pace": partial(self._pace.run, self._pool, stop),
        }

    def claimed(self, claim: Claim) -> None:
        """A task is in hand now."""
        self._changes.announce([claim.id])

    def progress(self, claim: Claim, working: Working) -> None:
        """What the model says while it works."""
        message = None if working.message is None else storable(working.message)
        note = Note(claim.tenant_id, claim.id, claim.call_attempt, working.progress, message)
        try:
            with db.connection(self._pool) as conn:
                write_progress(conn, [note])
            self._changes.announce([claim.id])
        except (DatabaseDown, db.Error) as exc:
            logger.warning("progress not written", extra={"task_id": claim.task_id, "error": str(exc)})

    def settled(self, outcome: Outcome, settled: Settled) -> None:
        """An outcome is committed."""
        self._changes.announce([outcome.claim.id])
        if not outcome.claim.calls_model:
            return  # it has no service whose calls could be held back
        self._breakers.note(outcome)
        self._pace.note(outcome, settled.at)
        if settled.told_lane is not None:
            self._lanes.announce([settled.told_lane])

    def close(self) -> None:
        """Say no more."""
        self._changes.close()
        self._lanes.close()
