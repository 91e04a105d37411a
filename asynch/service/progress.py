"""Progress that models post: signed links, and writes that are merged so that a talkative model costs little."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic

from asynch import db
from asynch.errors import Conflict, DatabaseDown, Gone, NotFound
from asynch.secretbox import SecretBox
from asynch.service import links
from asynch.service.announcer import Announcer
from asynch.store.progress import Note, find_call, write_progress

logger = logging.getLogger(__name__)

_PURPOSE = "progress"
#: A link outlives its call by this: the clocks of two hosts need not agree to the second.
_GRACE_S = 60
#: A task's progress is written at most once in this time; what is said meanwhile is written at its end.
_PAUSE_S = 0.5
_TRIES = 5

_Key = tuple[int, int, int]


def link(box: SecretBox, base_url: str, *, tenant_id: int, task_id: int, attempt: int, until: float) -> str:
    """Where the model called by this attempt may post its progress until then (epoch seconds), and nobody else."""
    fields = {"tenant": tenant_id, "attempt": attempt}
    query = links.signed(box, _PURPOSE, task_id, fields, until=until + _GRACE_S)
    return f"{base_url}/task/{task_id}/progress?{query}"


def check(box: SecretBox, task_id: int, query: Mapping[str, str]) -> tuple[int, int]:
    """Tenant and attempt of a link; Forbidden when it was altered or is too old."""
    tenant_id, attempt = links.check(box, _PURPOSE, task_id, ("tenant", "attempt"), query)
    return tenant_id, attempt


class Progress:
    """Takes what models say; one for all threads of a process.

    What is not written at once waits for a thread that lives only as long as something waits; the process does not
    end without it.
    """

    def __init__(self, pool: db.Pool, changes: Announcer) -> None:
        """`changes` tells whoever watches the tasks."""
        self._pool = pool
        self._changes = changes
        self._lock = threading.Lock()
        self._written: dict[_Key, float] = {}
        self._waiting: dict[_Key, Note] = {}
        self._is_at_work = False

    def post(self, note: Note) -> None:
        """Note it, now or in half a second. NotFound; Gone for a final task; Conflict when that call is over."""
        if self._may_write(note):
            with db.connection(self._pool) as conn:
                if not write_progress(conn, [note]):
                    _refuse(conn, note)
            self._changes.announce([note.id])
            return
        with db.connection(self._pool) as conn:
            call = find_call(conn, tenant_id=note.tenant_id, task_id=note.id, attempt=note.attempt)
            if call is None or not call.goes_on:
                _refuse(conn, note)
            else:
                self._wait(replace(note, said_at=call.at))

    def _may_write(self, note: Note) -> bool:
        now = monotonic()
        with self._lock:
            if _key(note) in self._waiting or self._written.get(_key(note), float("-inf")) > now - _PAUSE_S:
                return False
            if len(self._written) > 1000:
                self._written = {key: at for key, at in self._written.items() if at > now - _PAUSE_S}
            self._written[_key(note)] = now
            return True

    def _wait(self, note: Note) -> None:
        with self._lock:
            self._waiting[_key(note)] = _merged(self._waiting.get(_key(note)), note)
            if not self._is_at_work:
                self._is_at_work = True
                threading.Thread(target=self._work, name="progress").start()

    def _work(self) -> None:
        pause, failures = threading.Event(), 0
        while True:
            pause.wait(_PAUSE_S)
            with self._lock:
                notes, self._waiting = self._waiting, {}
                if not notes:
                    self._is_at_work = False
                    return
                self._written.update(dict.fromkeys(notes, monotonic()))
            try:
                with db.connection(self._pool) as conn:
                    write_progress(conn, list(notes.values()))
                self._changes.announce(note.id for note in notes.values())
                failures = 0
            except (DatabaseDown, db.Error) as exc:
                failures += 1
                logger.warning("progress not written", extra={"tasks": len(notes), "error": str(exc)})
                if failures < _TRIES:
                    self._put_back(notes)

    def _put_back(self, notes: Mapping[_Key, Note]) -> None:
        with self._lock:
            for key, note in notes.items():
                self._waiting[key] = _merged(note, self._waiting.get(key))


def _key(note: Note) -> _Key:
    return note.tenant_id, note.id, note.attempt


def _merged(older: Note | None, newer: Note | None) -> Note:
    """The newer word, and of the older what the newer does not say."""
    if older is None or newer is None:
        both = older or newer
        assert both is not None
        return both
    progress = older.progress if newer.progress is None else newer.progress
    message = older.message if newer.message is None else newer.message
    said = [at for at in (older.said_at, newer.said_at) if at is not None]
    return replace(newer, progress=progress, message=message, said_at=max(said, default=None))


def _refuse(conn: db.Connection, note: Note) -> None:
    call = find_call(conn, tenant_id=note.tenant_id, task_id=note.id, attempt=note.attempt)
    if call is None:
        raise NotFound("There is no such task any more.")
    if call.final:
        raise Gone("The task is final.", code="task_final")
    raise Conflict("The call this is about is over.", code="call_over")
