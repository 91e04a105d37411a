"""The queue as the worker sees it: claims, their fenced moves, and the moves of the cleaner."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from asynch import db
from asynch.db import Connection, Row
from asynch.domain.principal import served_by
from asynch.domain.retry import RetryOn, RetryRule
from asynch.domain.states import MOVES, Event, Phase
from asynch.store.slots import by_rank


@dataclass(frozen=True, slots=True)
class Target:
    """Where a claim's call goes, and under which terms; fixed when it was claimed."""

    base_url: str
    route: str
    method: str
    api_key: str  #: sealed
    timeout_s: float
    max_bytes: int
    retry: RetryRule

    @property
    def scheme(self) -> str:
        """What kind of work it is."""
        return self.base_url.partition(":")[0].lower()


class Saved(NamedTuple):
    """A result in tmp_dir on its way to storage."""

    tmp_file: str = ""
    tmp_host: str = ""
    key: str = ""
    file_type: str = ""
    content_type: str = ""
    size_bytes: int | None = None
    sha256: str = ""


class Claim(NamedTuple):
    """A worker's right to a task: id + attempt + worker id, and the task as it was when claimed."""

    tenant_id: int
    id: int
    attempt: int
    worker_id: int
    lane_id: int
    phase: Phase
    rank: int
    retry_count: int
    upload_failures: int
    payload: str | None
    input_ref: str | None
    saved: Saved
    creator: str
    model_name: str
    started_at: datetime  #: of the call
    claimed_at: datetime
    waited_s: float
    age_s: float
    target: Target
    trace_context: str = ""  #: of the creator's request, packed
    upload_headers: str = ""  #: of the creator, sealed; for a storage that asks on whose behalf
    poll_url: str = ""  #: where the model works on: it is asked there instead of being called
    call_attempt: int = 0  #: the attempt that called the model; before this one where it works on

    @property
    def task_id(self) -> str:
        """The id as clients know it."""
        return str(self.id)

    @property
    def owner_id(self) -> int:
        """The tenant for whom the work is done."""
        return served_by(self.tenant_id) if self.is_systems else self.tenant_id

    @property
    def calls_model(self) -> bool:
        """Whether the work is a model's, for whomever it is done."""
        return self.target.scheme in ("http", "https")

    @property
    def is_systems(self) -> bool:
        """Whether it is work of the system on behalf of a tenant, such as a delivery."""
        return self.tenant_id < 0


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, as the task's readers will see it."""

    code: str
    detail: str
    retryable: bool


#: Writes what belongs to a move, in its transaction, where the claim still held; returns the addresses of objects that
#: nobody needs after it.
Along = Callable[[Connection], Sequence[str]]


class Outcome(NamedTuple):
    """One fenced move of one claim: the event and what it leaves in the row."""

    claim: Claim
    event: Event
    phase: Phase
    saved: Saved
    rank: int
    record: Mapping[str, Any]  #: a line of the task's attempts; settle adds finishedAt
    enqueue_in_s: float | None = None  #: None: keeps its place
    wake_in_s: float | None = None
    finished: bool = False
    failure: Failure | None = None
    upload_failures: int = 0
    poll_url: str = ""
    along: Along | None = None
    before: Outcome | None = None  #: a move of the same attempt that is written with it, and comes first


def claim(
    conn: Connection,
    *,
    counts: Mapping[int, int],
    worker_id: int,
    timezone: str,
    starts: Mapping[int, Mapping[int, datetime]] | None = None,
    known_dead: Collection[int] = (),
) -> list[Claim]:
    """Claim up to so many due tasks of each lane, in the lane's order; none if a worker died that is not known.

    `starts` (lane -> rank -> time) leaves out what was enqueued before; a rank without one is read from its beginning.
    """
    found = db.rows(
        conn,
        "claim",
        lanes=list(counts),
        counts=list(counts.values()),
        starts=[by_rank((starts or {}).get(lane, {})) for lane in counts],
        worker_id=worker_id,
        timezone=timezone,
        known_dead=list(known_dead),
    )
    return [_claim(r) for r in found]


def claim_uploads(conn: Connection, *, tmp_host: str, most: int, worker_id: int) -> list[Claim]:
    """Claim saved results of this host whose upload is due, oldest first."""
    return [_claim(r) for r in db.rows(conn, "claim_uploads", tmp_host=tmp_host, most=most, worker_id=worker_id)]


def _claim(r: Row) -> Claim:
    return Claim(
        tenant_id=r["tenant_id"],
        id=r["id"],
        attempt=r["attempt"],
        worker_id=r["worker_id"],
        lane_id=r["lane_id"],
        phase=Phase(r["phase"]),
        rank=r["rank"],
        retry_count=r["retry_count"],
        upload_failures=r["upload_failures"],
        payload=r["request_payload"],
        input_ref=r["input_ref"],
        saved=Saved(
            r["tmp_file"], r["tmp_host"], r["oss_file"], r["file_type"], r["content_type"], r["file_size"], r["sha256"]
        ),
        creator=r["creator"],
        model_name=r["model_name"],
        started_at=r["started_at"],
        claimed_at=r["claimed_at"],
        waited_s=r["waited_s"],
        age_s=r["age_s"],
        target=_target(r),
        trace_context=r["trace_context"],
        upload_headers=r["upload_headers"],
        poll_url=r["poll_url"],
        call_attempt=r["call_attempt"],
    )


def _target(r: Row) -> Target:
    return Target(
        base_url=r["base_url"],
        route=r["route"],
        method=r["http_method"],
        api_key=r["api_key"],
        timeout_s=float(r["timeout_seconds"]),
        max_bytes=r["max_result_bytes"],
        retry=RetryRule(
            r["retry_times"],
            RetryOn(r["retry_on"]),
            float(r["retry_backoff_seconds"]),
            r["retry_queue_max_seconds"],
            tuple(r["retry_schedule"]),
        ),
    )


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a fenced move that was written."""

    at: datetime  #: by the database's clock
    told_lane: int | None  #: where a callback of the task's end waits to be delivered
    unneeded: Sequence[str] = ()  #: the addresses of objects that nobody needs any more


def settle(conn: Connection, outcomes: Sequence[Outcome], *, queue_timeout_s: float) -> dict[tuple[int, int], Settled]:
    """Write many fenced moves in one statement; returns (task id, attempt) of those still ours."""
    ordered = sorted(outcomes, key=lambda o: (o.claim.tenant_id, o.claim.id))
    body = orjson.dumps([_outcome(o) for o in ordered]).decode()
    found = db.rows(conn, "settle", outcomes=body, queue_timeout_s=queue_timeout_s)
    return {(r["id"], r["attempt"]): Settled(r["at"], r["callback_lane"]) for r in found}


def _outcome(o: Outcome) -> dict[str, Any]:
    move, claim, saved, failure = MOVES[o.event], o.claim, o.saved, o.failure
    return {
        "tenant_id": claim.tenant_id,
        "id": claim.id,
        "attempt": claim.attempt,
        "worker_id": claim.worker_id,
        "state": move.target,
        "final": move.final,
        "phase": o.phase,
        "rank": o.rank,
        "enqueue_in_s": o.enqueue_in_s,
        "wake_in_s": o.wake_in_s,
        "finished": o.finished,
        "tmp_file": saved.tmp_file,
        "tmp_host": saved.tmp_host,
        "oss_file": saved.key,
        "file_type": saved.file_type,
        "content_type": saved.content_type,
        "file_size": saved.size_bytes,
        "sha256": saved.sha256,
        "error_code": failure.code if failure else "",
        "error_msg": failure.detail if failure else "",
        "error_retryable": failure.retryable if failure else None,
        "upload_failures": o.upload_failures,
        "poll_url": o.poll_url,
        "before": o.before and o.before.record,
        "record": o.record,
    }


def retry_due(conn: Connection, *, most: int, queue_timeout_s: float) -> list[int]:
    """Put back failures whose back-off is over; returns their lanes, one for each task."""
    return [r["lane_id"] for r in db.rows(conn, "retry_due", most=most, queue_timeout_s=queue_timeout_s)]


def expire_queue(conn: Connection, *, most: int, failed_retention_s: float) -> int:
    """Fail what waited too long; returns how many."""
    return len(db.rows(conn, "expire_queue", most=most, failed_retention_s=failed_retention_s))


def lose_silent_hosts(conn: Connection, *, most: int, grace_s: float, queue_timeout_s: float) -> list[tuple[int, str]]:
    """Send results of silent hosts back to their models; returns lane and object key of each."""
    found = db.rows(conn, "lose_silent_hosts", most=most, grace_s=grace_s, queue_timeout_s=queue_timeout_s)
    return [(r["lane_id"], r["oss_file"]) for r in found]


def purgeable(conn: Connection, *, state: int, most: int) -> list[tuple[int, str]]:
    """Id and object key (may be empty) of the rows of one final state whose time is over, oldest first."""
    return [(r["id"], r["oss_file"]) for r in db.rows(conn, "purgeable", state=state, most=most)]


def purge(conn: Connection, *, state: int, most: int, ids: Sequence[int] | None = None) -> int:
    """Delete such rows (only those of `ids`, if given), leaving a word in the op log; returns how many."""
    purged: int = db.one(conn, "purge", state=state, most=most, ids=list(ids) if ids is not None else None)["purged"]
    return purged


def names_object(conn: Connection, claim: Claim, address: str) -> bool:
    """Whether the task's row still needs the object of this claim's result, which is at this address."""
    names = [claim.saved.key, address]  # the second once it is delivered
    return db.row(conn, "names_object", tenant_id=claim.tenant_id, id=claim.id, names=names) is not None
