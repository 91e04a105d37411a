"""The system's own work on files: what `local:` lanes do, and what the end of it leaves in files and uploads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from asynch.db import Connection
from asynch.domain.states import Event
from asynch.domain.uploads import Status
from asynch.errors import ErrorCode, ExecutorError
from asynch.executors import Call, Made, Order
from asynch.incoming import Incoming
from asynch.store import files
from asynch.store.files import NewFile
from asynch.store.queue import Along, Claim, Outcome

SCHEME = "local"

#: Does one order; the result is a file.
Work = Callable[[Order, Call], Made]


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """Runs what the order's target names, on this host."""

    works: Mapping[str, Work]

    def run(self, order: Order, out: BinaryIO, call: Call) -> Made:  # noqa: ARG002 - the result is a file of its own
        """Do it. ExecutorError, TmpUnavailable."""
        work = self.works.get(order.url.removeprefix(f"{SCHEME}:"))
        if work is None:
            raise ExecutorError(ErrorCode.PROCESSOR_FAILED, f"this worker cannot do {order.url}", transient=True)
        return work(order, call)


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What is done with a received file before it is stored."""

    incoming: Incoming

    def __call__(self, order: Order, call: Call) -> Made:
        """The file that is to be stored."""
        call.tell(20, Status.PROCESSING)
        path = self.incoming.path(order.input_ref or "")
        if not path.exists():
            raise ExecutorError(ErrorCode.PROCESSOR_FAILED, "the received file is gone", transient=False)
        return Made(path)


def order_of(claim: Claim) -> Order:
    """What is to be done: the input's place in `input_ref`, options in the payload."""
    return Order(
        task_id=claim.task_id,
        attempt=claim.attempt,
        url=claim.target.base_url,
        method="POST",
        payload=claim.payload,
        input_ref=claim.input_ref,
        headers={},
        timeout_s=claim.target.timeout_s,
        max_bytes=claim.target.max_bytes,
    )


def mark(outcome: Outcome) -> Along | None:
    """What the end of such work leaves elsewhere."""
    match outcome.event:
        case Event.DELIVER:
            return lambda conn: _register(conn, outcome)
        case Event.GIVE_UP:
            return lambda conn: _fail(conn, outcome)
        case _:
            return None


def _register(conn: Connection, outcome: Outcome) -> str:
    """The file is stored: it is complete, and so is its upload; returns the object where another has its content."""
    claim, saved = outcome.claim, outcome.saved
    upload = files.lock_upload(conn, tenant_id=claim.owner_id, upload_id=claim.id)
    if upload is None:
        return saved.key
    received = upload["file_hash"] or saved.sha256
    files.note_hash(conn, tenant_id=claim.owner_id, upload_id=claim.id, sha256=received)
    file = NewFile(
        creator=claim.creator,
        sha256=received,
        name=upload["filename"],
        ext=saved.file_type,
        content_type=saved.content_type,
        size=upload["file_size"],
        stored_size=saved.size_bytes or 0,
        key=saved.key,
        scene=upload["scene"],
        upload_id=upload["upload_id"],
        tags=upload["tags"],
    )
    found = files.insert_file(conn, tenant_id=claim.owner_id, file=file)
    files.end_upload(
        conn,
        tenant_id=claim.owner_id,
        upload_id=claim.id,
        status=Status.COMPLETED,
        oss_path=found.key,
        identity=str(found.id),
    )
    return "" if found.key == saved.key else saved.key


def _fail(conn: Connection, outcome: Outcome) -> str:
    detail = outcome.failure.detail if outcome.failure else ""
    claim = outcome.claim
    files.end_upload(conn, tenant_id=claim.owner_id, upload_id=claim.id, status=Status.FAILED, error=detail)
    return ""
