"""What each event leaves in the row: pure functions from a claim to an Outcome."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from asynch.domain import filetype, retry
from asynch.domain.states import Event, Phase
from asynch.errors import CutReason, ErrorCode, ExecutorError
from asynch.store.queue import Claim, Failure, Outcome, Saved
from asynch.worker.tmpdir import ResultFile

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_DETAIL_MAX = 2048


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator says about rows that are done, seconds; 0 unfetched means for ever."""

    host: str
    failed_retention_s: float
    unfetched_retention_s: float


def storable(text: str) -> str:
    """The text as Postgres can hold it: no NUL, no lone surrogate, not endless."""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)[:_DETAIL_MAX]


def rfc3339(at: datetime) -> str:
    """UTC with milliseconds."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def key_of(owner_id: int, started_at: datetime, task_id: int, attempt: int, ext: str) -> str:
    """Where a result lies in storage. The attempt is part of it: two answers of a model never meet under one name."""
    return f"{owner_id}/{started_at.astimezone(UTC):%Y/%m/%d}/{task_id}-{attempt}.{ext}"


def result(claim: Claim, file: ResultFile, *, tmp_host: str) -> Saved:
    """What is known of a result that is whole in its file."""
    kind = filetype.sniff(file.head, whole=file.size_bytes == len(file.head))
    return Saved(
        tmp_file=file.path.name,
        tmp_host=tmp_host,
        key=key_of(claim.owner_id, claim.started_at, claim.id, claim.attempt, kind.ext),
        file_type=kind.ext,
        content_type=kind.content_type,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
    )


def saved(terms: Terms, claim: Claim, result: Saved) -> Outcome:
    """The result is in tmp_file."""
    record = _record(terms, claim, Phase.CALL, "saved")
    return Outcome(claim, Event.SAVE, Phase.UPLOAD, result, claim.rank, finished=True, record=record)


def deferred(terms: Terms, claim: Claim, poll_url: str) -> Outcome:
    """The model works on by itself."""
    record = _record(terms, claim, Phase.CALL, "deferred", http_status=202)
    return Outcome(claim, Event.DEFER, Phase.CALL, Saved(), claim.rank, record=record, poll_url=poll_url)


def saved_and_delivered(terms: Terms, claim: Claim, result: Saved) -> Outcome:
    """The result is in tmp_file, and in storage under its key already: both halves in one move."""
    outcome = delivered(terms, claim._replace(phase=Phase.UPLOAD, saved=result, payload=None, poll_url=""))
    record = {name: value for name, value in outcome.record.items() if name != "startedAt"}  # settle says it: now
    return outcome._replace(before=saved(terms, claim, result), record=record)


def delivered(terms: Terms, claim: Claim, address: str = "") -> Outcome:
    """The result is in storage, at this address or under its key."""
    keep = terms.failed_retention_s if claim.is_systems else terms.unfetched_retention_s or None
    stored = Saved(
        key=address or claim.saved.key,
        file_type=claim.saved.file_type,
        content_type=claim.saved.content_type,
        size_bytes=claim.saved.size_bytes,
        sha256=claim.saved.sha256,
    )
    record = _record(terms, claim, Phase.UPLOAD, "delivered", since=claim.claimed_at)
    return Outcome(claim, Event.DELIVER, Phase.CALL, stored, claim.rank, wake_in_s=keep, finished=True, record=record)


def done(terms: Terms, claim: Claim, http_status: int | None) -> Outcome:
    """The work is done, and there is no result to keep."""
    record = _record(terms, claim, Phase.CALL, "done", http_status=http_status)
    keep = terms.failed_retention_s
    return Outcome(claim, Event.DELIVER, Phase.CALL, Saved(), claim.rank, wake_in_s=keep, finished=True, record=record)


def call_failed(terms: Terms, claim: Claim, error: ExecutorError) -> Outcome:
    """The call failed: again after its back-off, or never."""
    plan = retry.after_failed_call(
        claim.target.retry,
        retries_used=claim.retry_count,
        age_s=claim.age_s,
        transient=error.transient,
        retry_after_s=error.retry_after_s,
        jitter=random.random(),  # noqa: S311 - spreads load, keeps no secret
    )
    failure = Failure(error.code.value, storable(error.detail), error.transient)
    record = _record(terms, claim, Phase.CALL, "failed", failure=failure, http_status=error.http_status)
    return _failed(terms, claim, plan, Phase.CALL, Saved(), failure, record, upload_failures=0)


def upload_failed(terms: Terms, claim: Claim, detail: str) -> Outcome:
    """The upload failed: the result stays where it is and is offered again."""
    failures = claim.upload_failures + 1
    since_call_s = (claim.claimed_at - claim.started_at).total_seconds()  # its age would count a delay before the call
    plan = retry.after_failed_upload(failures=failures, saved_for_s=since_call_s, keep_s=terms.unfetched_retention_s)
    failure = Failure(ErrorCode.STORAGE_ERROR.value, storable(detail), True)
    record = _record(terms, claim, Phase.UPLOAD, "failed", failure=failure, since=claim.claimed_at)
    return _failed(terms, claim, plan, Phase.UPLOAD, claim.saved, failure, record, upload_failures=failures)


def _failed(
    terms: Terms,
    claim: Claim,
    plan: retry.Plan,
    phase: Phase,
    result: Saved,
    failure: Failure,
    record: Mapping[str, Any],
    *,
    upload_failures: int,
) -> Outcome:
    priority = retry.priority_of(claim.rank)
    return Outcome(
        claim,
        Event.FAIL if plan.again else Event.GIVE_UP,
        phase,
        result,
        rank=retry.rank_of(priority, head=plan.head) if plan.again else claim.rank,
        # At the head the first to fail is the first to run; at the tail it queues from when its back-off ends.
        enqueue_in_s=(0.0 if plan.head else plan.delay_s) if plan.again else None,
        wake_in_s=plan.delay_s if plan.again else terms.failed_retention_s,
        finished=True,
        failure=failure,
        upload_failures=upload_failures,
        record=record,
    )


def released(terms: Terms, claim: Claim, why: str) -> Outcome:
    """Back to its place in the queue; nobody's fault."""
    record = _record(terms, claim, claim.phase, "released", detail=why)
    result = claim.saved if claim.phase is Phase.UPLOAD else Saved()
    return Outcome(
        claim,
        Event.RELEASE,
        claim.phase,
        result,
        claim.rank,
        upload_failures=claim.upload_failures,
        record=record,
        poll_url=claim.poll_url,
    )


def lost(terms: Terms, claim: Claim) -> Outcome:
    """The tmp_file is gone: the model must be called again."""
    record = _record(terms, claim, Phase.UPLOAD, "lost", detail="the saved result is gone")
    return Outcome(claim, Event.LOSE, Phase.CALL, Saved(), claim.rank, enqueue_in_s=0.0, record=record)


def cancelled(terms: Terms, claim: Claim) -> Outcome:
    """Ended by the user; a saved result stays for a later retry until the row goes."""
    record = _record(terms, claim, claim.phase, "cancelled")
    result = claim.saved if claim.phase is Phase.UPLOAD else Saved()
    failure = Failure(ErrorCode.CANCELLED.value, "cancelled by the user", False)
    return Outcome(
        claim,
        Event.CANCEL,
        claim.phase,
        result,
        claim.rank,
        wake_in_s=terms.failed_retention_s,
        finished=True,
        failure=failure,
        record=record,
    )


#: What a released task's readers are told.
WHY_RELEASED = {
    CutReason.DRAIN: "the worker was stopping",
    CutReason.SESSION_LOST: "the worker lost its database session",
}


def _record(
    terms: Terms,
    claim: Claim,
    phase: Phase,
    outcome: str,
    *,
    since: datetime | None = None,
    failure: Failure | None = None,
    http_status: int | None = None,
    detail: str = "",
) -> dict[str, Any]:
    """One line of the task's attempts; settle adds finishedAt by the database's clock."""
    return {
        "attempt": claim.attempt,
        "startedAt": rfc3339(since or claim.started_at),
        "host": terms.host,
        "phase": int(phase),
        "outcome": outcome,
        "code": failure.code if failure else None,
        "httpStatus": http_status,
        "detail": (failure.detail if failure else detail)[:1024] or None,
    }
