"""A slot for one call outside any worker: won and held on a session of its own, whose loss cuts the call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from asynch import db
from asynch.errors import CutReason, DatabaseDown, QueueFull
from asynch.executors import Call
from asynch.store import slots as store
from asynch.store.models import Model

_WATCH_S = 0.1
#: The server frees the slots of a session when it is gone: this is how long a call may go on after that.
_PING_S = 0.25


@contextmanager
def holding(dsn: str, model: Model, call: Call, *, tenant_most: int) -> Iterator[None]:
    """Hold a slot of the model's lane while the block runs, and cut the call at its deadline or when the slot is lost.

    QueueFull when no slot is free. DatabaseDown.
    """
    lines = db.Lines()
    session = db.open_session(dsn, name="asynch-test", lines=lines)
    try:
        with db.wrapped():
            _win(session, model, tenant_most)
        with _watched(session, lines, call):
            yield
    finally:
        session.close()


def _win(session: db.Connection, model: Model, tenant_most: int) -> None:
    """Take a slot, and one of each permit; where a worker has just died none, as its calls may still be open.

    What the model works on while no worker has it, because the last one ended, has its slots first. A breaker that is
    open keeps nobody from a test: it is how one finds out.
    """
    lanes = store.lanes_named(session, [model.lane_id], tenant_most=tenant_most)
    permits = [permit for lane in lanes for permit in lane.permits if permit.most > 0]
    lane = (model.lane_id, 1 + store.polled_waiting(session, model.lane_id), store.tries(model.spec.max_concurrency))
    wants = [lane, *((permit.id, 1, store.tries(permit.most)) for permit in permits)]
    try:
        won = store.swap_slots(session, give_back=(), wants=wants)
    except db.OutOfLocks:  # no memory for another lock is no free slot, as for a worker
        won = []
    dead = store.find_dead(session, worker_id=0)
    mourned = store.mourn(session, dead, tenant_most=tenant_most) if dead else {}
    needed = 1 + store.polled_waiting(session, model.lane_id) + len(permits)
    if len(won) < needed or any(key in mourned for key, _, _ in wants):
        raise QueueFull(
            f"All calls that {model.spec.model_name!r}, its tenant or its service may have at once are open.",
            code="no_free_slot",
            maxConcurrency=model.spec.max_concurrency,
        )
    of_the_lane = [slot for slot in won if slot.lane_id == model.lane_id]
    store.swap_slots(session, give_back=of_the_lane[1:], wants=())


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
            if now - self._answered_at > store.SILENCE_S:
                self._call.cut(CutReason.SESSION_LOST)
                self._lines.cut()
