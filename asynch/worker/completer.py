"""Writes the outcomes of claims: one thread, as many in one statement as came together, each answer to its sender."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from asynch import db, metrics
from asynch.domain.states import Event, Phase
from asynch.errors import DatabaseDown, SessionLost, StaleClaim
from asynch.store import unneeded
from asynch.store.queue import Claim, Outcome, Settled, settle

logger = logging.getLogger(__name__)

_BATCH = 500
_RETRY_S = 0.2


class Completer:
    """Collects outcomes while a statement is under way and writes them with the next one.

    Under load batches grow by themselves; alone, an outcome waits for nothing.
    """

    def __init__(
        self,
        pool: db.Pool,
        *,
        queue_timeout_s: float,
        lost: threading.Event,
        note: Callable[[Outcome, Settled], None] = lambda _outcome, _settled: None,
    ) -> None:
        """`note` hears every outcome that is committed, of two at once the first; it must not wait for anything."""
        self._pool = pool
        self._note = note
        self._queue_timeout_s = queue_timeout_s
        self._lost = lost
        self._queue: queue.SimpleQueue[tuple[Outcome, Future[datetime]] | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="completer", daemon=True)
        self._thread.start()

    def write(self, outcome: Outcome) -> datetime:
        """Write one fenced move and return its time by the database's clock. Raises as the answer of `submit`."""
        return self.submit(outcome).result()

    def submit(self, outcome: Outcome) -> Future[datetime]:
        """Have one fenced move written; the answer is its time by the database's clock.

        Else StaleClaim when the task is someone else's now, SessionLost when this worker's claims are void. What is
        to be done then runs in the completer's thread and holds up all others: it must not wait for anything.
        """
        answer: Future[datetime] = Future()
        self._queue.put((outcome, answer))
        if self._ended.is_set():
            self._refuse()
        return answer

    def close(self) -> None:
        """Write what was handed in, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._ended.set()
            self._refuse()

    def _refuse(self) -> None:
        """What comes after the end, such as an upload that hung in a slow store, is void."""
        with suppress(queue.Empty):
            while True:
                if (late := self._queue.get_nowait()) is not None:
                    late[1].set_exception(SessionLost("the worker ended before the outcome was written"))

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = [first], False
            while len(batch) < _BATCH and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    last = True
                    break
                batch.append(following)
            self._write(batch)
            if last:
                return

    def _write(self, batch: list[tuple[Outcome, Future[datetime]]]) -> None:
        try:
            written = self._settle([outcome for outcome, _ in batch])
        except SessionLost as exc:
            for _, answer in batch:
                answer.set_exception(exc)
            return
        except Exception as exc:  # of one outcome, and no other's
            if len(batch) > 1:  # one row that Postgres cannot take must not fail the others
                for single in batch:
                    self._write([single])
                return
            batch[0][1].set_exception(exc)
            return
        for outcome, answer in batch:
            settled = written.get((outcome.claim.id, outcome.claim.attempt))
            first = outcome.before or outcome
            _count(first, settled.at if settled else None)
            if settled is None:
                answer.set_exception(StaleClaim(f"{outcome.event.value} of task {outcome.claim.task_id}"))
                continue
            if outcome is not first:
                _count(outcome, settled.at)
            self._note(first, settled)
            answer.set_result(settled.at)

    def _settle(self, outcomes: list[Outcome]) -> dict[tuple[int, int], Settled]:
        """Repeat until the database answers: a move that was written after all matches again, or is stale."""
        while not self._lost.is_set():
            try:
                if any(outcome.along for outcome in outcomes):
                    return self._settle_along(outcomes)
                with db.connection(self._pool) as conn:
                    return settle(conn, outcomes, queue_timeout_s=self._queue_timeout_s)
            except (DatabaseDown, *db.Collision) as exc:
                logger.warning("outcomes not written, will retry", extra={"tasks": len(outcomes), "error": str(exc)})
                self._lost.wait(_RETRY_S)
        raise SessionLost("the worker's session ended before the outcome was written")

    def _settle_along(self, outcomes: list[Outcome]) -> dict[tuple[int, int], Settled]:
        """The moves and what belongs to them: all of it, or nothing."""
        with db.transaction(self._pool) as conn:
            written = settle(conn, outcomes, queue_timeout_s=self._queue_timeout_s)
            for outcome in outcomes:
                key = outcome.claim.id, outcome.claim.attempt
                if outcome.along is not None and key in written:
                    keys = outcome.along(conn)
                    unneeded.note(conn, keys)
                    written[key] = replace(written[key], unneeded=keys)
        return written


def _count(outcome: Outcome, at: datetime | None) -> None:
    """Note what became of a claim; `at` is None when it was stale."""
    claim, code = outcome.claim, outcome.failure.code if outcome.failure else ""
    event = outcome.event.value if at is not None else "stale"
    metrics.attempts_by(_kind(claim), event, code).inc()
    if at is None or not claim.calls_model:
        return
    if outcome.event is Event.DELIVER:
        metrics.STORED.observe(0.0 if outcome.before else (at - claim.claimed_at).total_seconds())
    elif claim.phase is Phase.CALL and outcome.event in (Event.SAVE, Event.FAIL, Event.GIVE_UP):
        metrics.called_by(event).observe((at - claim.started_at).total_seconds())


def _kind(claim: Claim) -> str:
    """What the attempt was: a half of a model's task, or work of the system's own."""
    return claim.phase.name.lower() if claim.calls_model else claim.target.scheme.partition("+")[0]
