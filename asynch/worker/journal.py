"""The log's line for what became of a claim: one an attempt, never a payload."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

from asynch.domain.states import Phase
from asynch.store.queue import Claim, Outcome

logger = logging.getLogger(__name__)


def done(claim: Claim, at: datetime) -> None:
    """The work is done, and left no result."""
    logger.info("done", extra={**_about(claim), "called_s": _seconds(claim.started_at, at)})


def delivered(claim: Claim, at: datetime) -> None:
    """The result is in storage."""
    told = {
        **_about(claim),
        "called_s": _seconds(claim.started_at, claim.claimed_at),
        "stored_s": _seconds(claim.claimed_at, at),
        "bytes": claim.saved.size_bytes,
    }
    logger.info("delivered", extra=told)


def failed(claim: Claim, outcome: Outcome) -> None:
    """It failed, and may run again."""
    code = outcome.failure.code if outcome.failure else ""
    logger.info("attempt failed", extra={**_about(claim), "code": code, "event": outcome.event.value})


def void(claim: Claim, exc: Exception) -> None:
    """Another worker has the task, or this one has lost its session."""
    what = "attempt is void" if claim.phase is Phase.CALL else "upload is void"
    logger.warning(what, extra={"task_id": claim.task_id, "error": str(exc)})


def _about(claim: Claim) -> dict[str, Any]:
    return {"task_id": claim.task_id, "attempt": claim.attempt, "waited_s": round(claim.waited_s, 3)}


def _seconds(since: datetime, until: datetime) -> float:
    return round((until - since).total_seconds(), 3)
