"""A slot for one call outside any worker: won and held on a session of its own, whose loss cuts the call."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from asynch import db
from asynch.errors import CutReason, DatabaseDown, QueueFull
from asynch.executors import Call
from asynch.store import queue
from asynch.store.models import Model
from asynch.store.queue import MOURNING_S

_MOST_TRIES = 2000
_WATCH_S = 0.1
#: The server frees the slots of a session when it is gone: this is how long a call may go on after that.
_PING_S = 0.25
#: As long as a worker takes its session for alive that does not answer.
_SILENCE_S = 8.0


@contextmanager
def holding(dsn: str, model: Model, call: Call) -> Iterator[None]:
    """Hold a slot of the model's lane while the block runs, and cut the call at its deadline or when the slot is lost.

    QueueFull when no slot is free. DatabaseDown.
    """
    lines = db.Lines()
    session = db.open_session(dsn, name="asynch-test", lines=lines)
    try:
        with db.wrapped():
            _win(session, model)
        with _watched(session, lines, call):
            yield
    finally:
        session.close()


def _win(session: db.Connection, model: Model) -> None:
    """Take a slot; where a worker has just died none, as its calls may still be open.

    What the model works on while no worker has it, because the last one ended, has its slots first.
    """
    most = model.spec.max_concurrency
    tries = random.sample(range(most), min(most, _MOST_TRIES))
    wants = [(model.lane_id, 1 + queue.polled_waiting(session, model.lane_id), tries)]
    try:
        won, dead = queue.swap_slots(session, give_back=(), wants=wants, worker_id=0, grace_s=MOURNING_S)
    except db.OutOfLocks:  # no memory for another lock is no free slot, as for a worker
        won, dead = [], {}
    fresh = [worker for worker, mourned in dead.items() if not mourned]
    if fresh:
        queue.mark_dead(session, fresh)
    mourned = model.lane_id in queue.lanes_in_mourning(session, fresh, list(dead)) if dead else False
    if mourned or len(won) < 1 + queue.polled_waiting(session, model.lane_id):
        raise QueueFull(
            f"All {most} calls that {model.spec.model_name!r} may have at once are open.",
            code="no_free_slot",
            maxConcurrency=most,
        )
    queue.swap_slots(session, give_back=won[1:], wants=(), worker_id=0, grace_s=MOURNING_S)


@contextmanager
def _watched(session: db.Connection, lines: db.Lines, call: Call) -> Iterator[None]:
    vigil = _Vigil(session, lines, call)
    threads = [threading.Thread(target=duty, daemon=True) for duty in (vigil.ping, vigil.watch)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        vigil.over.set()
        for thread in threads:
            thread.join()


class _Vigil:
    """Two threads beside a call: one asks the session, the other sees that it does not answer."""

    def __init__(self, session: db.Connection, lines: db.Lines, call: Call) -> None:
        self.over = threading.Event()
        self._session = session
        self._lines = lines
        self._call = call
        self._answered_at = monotonic()

    def ping(self) -> None:
        """Until it is over: the slot is ours as long as the session answers."""
        try:
            with db.wrapped():
                while not self.over.wait(_PING_S):
                    self._session.execute("SELECT 1")
                    self._answered_at = monotonic()
        except (DatabaseDown, db.Error):
            self._call.cut(CutReason.SESSION_LOST)

    def watch(self) -> None:
        """Until it is over: cut the call whose time is up, and whatever waits for a session that is silent."""
        while not self.over.wait(_WATCH_S):
            now = monotonic()
            if now > self._call.deadline:
                self._call.cut(CutReason.TIMEOUT)
            if now - self._answered_at > _SILENCE_S:
                self._call.cut(CutReason.SESSION_LOST)
                self._lines.cut()
