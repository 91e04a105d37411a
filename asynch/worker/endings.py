"""How an attempt ends that brings no result: it failed, was cut, cancelled, or put back; and what goes with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from functools import partial

from asynch import metrics
from asynch.domain.states import Phase
from asynch.errors import CallCut, CutReason, DatabaseDown, ExecutorError, SessionLost, StaleClaim, StorageError
from asynch.store.queue import Claim, Outcome
from asynch.worker import journal, outcomes
from asynch.worker.parts import Parts
from asynch.worker.points import reach

logger = logging.getLogger(__name__)


def fail(parts: Parts, claim: Claim, error: ExecutorError) -> None:
    """Settle a failure in either phase; the retry rule says what comes of it. Raises StaleClaim, SessionLost."""
    outcome = (
        outcomes.call_failed(parts.terms, claim, error)
        if claim.phase is Phase.CALL
        else outcomes.upload_failed(parts.terms, claim, error.detail)
    )
    parts.completer.write(with_its_mark(parts, outcome))
    reach("failed")
    _drop_tmp(parts, claim)
    journal.failed(claim, outcome)


def end_cut(parts: Parts, claim: Claim, cut: CallCut, address: str = "") -> None:
    """Do what the reason of a cut asks for; `address` has what is stored already. Raises StaleClaim, SessionLost."""
    match cut.reason:
        case CutReason.TIMEOUT:
            fail(parts, claim, cut)
        case CutReason.CANCEL:
            _end_cancelled(parts, claim, address)
        case CutReason.DRAIN:
            put_back(parts, claim, outcomes.WHY_RELEASED[cut.reason])
        case CutReason.SESSION_LOST:
            raise SessionLost(cut.detail) from cut


def put_back(parts: Parts, claim: Claim, why: str) -> None:
    """Back to its place in the queue, nobody's fault. Raises StaleClaim, SessionLost."""
    parts.completer.write(outcomes.released(parts.terms, claim, why))
    reach("released")
    _after_release(parts, claim, why)


def leave_to_the_queue(parts: Parts, claim: Claim, why: str, then: Callable[[], None]) -> None:
    """Put back what is not in work without waiting for it; `then` runs in the completer's thread."""

    def after(answer: Future[datetime]) -> None:
        try:
            answer.result()
            reach("released")
            _after_release(parts, claim, why)
        except (StaleClaim, SessionLost) as exc:
            journal.void(claim, exc)
        except Exception as exc:
            parts.aside(claim, partial(failing, exc))
        finally:
            then()

    parts.completer.submit(outcomes.released(parts.terms, claim, why)).add_done_callback(after)


def _after_release(parts: Parts, claim: Claim, why: str) -> None:
    _drop_tmp(parts, claim)
    logger.warning("task released", extra={"task_id": claim.task_id, "attempt": claim.attempt, "why": why})


def _end_cancelled(parts: Parts, claim: Claim, address: str) -> None:
    parts.completer.write(with_its_mark(parts, outcomes.cancelled(parts.terms, claim)))
    reach("cancelled")
    _drop_tmp(parts, claim)
    drop_object(parts, claim, address)
    logger.info("task cancelled", extra={"task_id": claim.task_id, "attempt": claim.attempt})


def with_its_mark(parts: Parts, outcome: Outcome) -> Outcome:
    """The outcome with what it leaves elsewhere than in its row."""
    along = parts.mark(outcome)
    return outcome if along is None else outcome._replace(along=along)


def _drop_tmp(parts: Parts, claim: Claim) -> None:
    """Remove the file of a call that saved nothing; a saved result stays until its task is done with."""
    if claim.phase is Phase.CALL:
        parts.tmp.remove(parts.tmp.name_of(claim.tenant_id, claim.id, claim.attempt))
        reach("tmp_removed")


def drop_object(parts: Parts, claim: Claim, address: str) -> None:
    """Remove an object that nobody will deliver; one that the row still names stays, whoever wrote the row.

    Killed before this, the object of a cancelled task goes with its row. Without an address it may be there all the
    same, under the key.
    """
    if claim.phase is Phase.CALL:
        return
    address = address or claim.saved.key
    try:
        if not parts.names_object(claim, address):
            parts.storage.delete(address)
            reach("object_removed")
    except (DatabaseDown, StorageError) as exc:
        metrics.STORAGE_ERRORS.labels("delete").inc(isinstance(exc, StorageError))
        logger.warning("an object may be left behind", extra={"task_id": claim.task_id, "error": str(exc)})


def failing(exc: Exception) -> None:
    """Fail with this, where what fails is known as an attempt's."""
    raise exc
