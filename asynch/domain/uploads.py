"""An upload as its sender sees it: its status and progress, and what a file may be called."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from asynch.domain.states import Phase, State

_MAX_NAME = 255
_UNNAMED = "file"


class Status(StrEnum):
    """asynch_upload.status, and `status` of the progress."""

    PENDING = "pending"  #: its bytes are still coming
    RECEIVED = "received"  #: all bytes are on the disk
    PROCESSING = "processing"  #: a worker looks at it
    COMPRESSING = "compressing"  #: a video is made smaller
    UPLOADING_OSS = "uploading_oss"  #: on its way to storage
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self in (Status.COMPLETED, Status.FAILED)


@dataclass(frozen=True, slots=True)
class Stage:
    """What its sender sees."""

    status: Status
    progress: float  #: 0-100


#: What a stage is at least worth.
_AT_LEAST = {
    Status.PENDING: 0.0,
    Status.RECEIVED: 10.0,
    Status.PROCESSING: 20.0,
    Status.COMPRESSING: 30.0,
    Status.UPLOADING_OSS: 70.0,
    Status.COMPLETED: 100.0,
    Status.FAILED: 100.0,
}
#: While it is being brought to storage, of which nothing more is known.
_ON_ITS_WAY = 80.0


@dataclass(frozen=True, slots=True)
class Work:
    """How far the task is that processes it."""

    state: State
    phase: Phase
    final: bool
    progress: float | None
    word: str  #: what the processor said last


def stage_of(kept: Status, work: Work | None) -> Stage:
    """The stage of an upload whose row says `kept`; `work` is None where there is no task (any more)."""
    if kept.is_final or work is None:
        return Stage(kept, _AT_LEAST[kept])
    if work.final and work.state in (State.FAILED, State.CANCELLED):
        return Stage(Status.FAILED, _AT_LEAST[Status.FAILED])
    if work.phase is Phase.UPLOAD:
        running = work.state is State.RUNNING
        return Stage(Status.UPLOADING_OSS, _ON_ITS_WAY if running else _AT_LEAST[Status.UPLOADING_OSS])
    if work.state is not State.RUNNING:
        return Stage(Status.RECEIVED, _AT_LEAST[Status.RECEIVED])
    said = Status.COMPRESSING if work.word == Status.COMPRESSING else Status.PROCESSING
    return Stage(said, max(_AT_LEAST[said], work.progress or 0.0))


def shown_name(name: str) -> str:
    """A sender's file name as it may be shown: its last part alone, without what cannot be seen or turns text around.

    It never names a file on any disk.
    """
    last = re.split(r"[/\\]", name)[-1]
    seen = "".join(c for c in last if unicodedata.category(c)[0] != "C").strip()
    if seen in ("", ".", ".."):
        return _UNNAMED
    stem, dot, ext = seen.rpartition(".")
    return seen if len(seen) <= _MAX_NAME else f"{(stem or seen)[: _MAX_NAME - 17]}{dot}{ext[:16]}"


def is_among(content_type: str, patterns: Collection[str]) -> bool:
    """Whether a type fits one of the patterns, such as image/*; its parameters do not count."""
    bare = content_type.partition(";")[0].strip().lower()
    return any(fnmatchcase(bare, pattern.lower()) for pattern in patterns)


def staged_keys(tenant_id: int, upload_id: int, parts: int) -> list[str]:
    """Where a sender puts the parts of a file into storage himself."""
    name = staged_name(tenant_id, upload_id)
    return [name] if parts == 1 else [f"{name}.{number}" for number in range(1, parts + 1)]


def staged_name(tenant_id: int, upload_id: int) -> str:
    """What such a file is called until it is confirmed."""
    return f"{tenant_id}/direct/{upload_id}"


def staged_id(name: str, tenant_id: int) -> int:
    """The upload of such a name; 0, which none has, for another tenant's and for what is none."""
    found = re.fullmatch(r"([0-9]{1,19})/direct/([0-9]{1,19})", name)
    return int(found[2]) if found and int(found[1]) == tenant_id and int(found[2]) < 2**63 else 0
