"""Every error that crosses a layer, as one tree.

AsynchError
├── UserError                 the operator's mistake: one line on stderr, exit code 2
│   └── SettingsError         a configuration key is unknown, wrong or contradicts another
├── Refused                   the caller's request cannot be done; web/problem.py gives each its status
│   ├── InvalidInput          the body is not what the contract asks for (one pointer a mistake)
│   ├── MalformedBody         the body cannot be read at all
│   ├── TooLarge              the body is over its limit
│   ├── Unsupported           files of this type are not taken
│   ├── Unauthenticated       no principal
│   ├── Forbidden             a principal without the right
│   ├── NotFound              it is not there, or is another tenant's
│   ├── Gone                  it was there once
│   ├── Conflict              it is there, but not in a state that allows this
│   ├── ChecksumMismatch      the bytes that came are not those that were sent
│   ├── QueueFull             the lane's queueLimit is reached
│   ├── TooOften              this caller must wait before it asks again
│   └── Overloaded            this process has as many of them as it may
├── IssuerDown                the issuer's keys were never had, so no token can be judged
├── DatabaseDown              Postgres does not answer; nothing is known to be written
├── StaleClaim                the task is someone else's now: stop quietly
├── SessionLost               the worker's database session is gone: cut the calls, start over
├── ExecutorError             one attempt failed
│   ├── CallCut               ... because this side ended it
│   └── ProcessorError        ... because the file cannot be processed
├── StorageError              the object store did not do what it was asked
└── TmpUnavailable            tmp_dir is full or unwritable; the attempt is nobody's fault
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class AsynchError(Exception):
    """Base of everything asynch raises on purpose."""


class UserError(AsynchError):
    """The operator's mistake: shown as one line on stderr, exit code 2."""


class SettingsError(UserError):
    """A configuration key is unknown, wrong or contradicts another; the text names key, value and expectation."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with a body: where (JSON Pointer, RFC 6901, with a leading '#') and what."""

    pointer: str
    detail: str


class Refused(AsynchError):
    """The caller's request cannot be done. `code` is the machine's word for why."""

    code = "refused"

    def __init__(self, detail: str = "", *, code: str | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        #: further members of the problem document, camelCase
        self.extra: Mapping[str, Any] = extra


class InvalidInput(Refused):
    """The body is well-formed JSON but not what the contract asks for."""

    code = "invalid_input"

    def __init__(self, mistakes: Sequence[Mistake], *, code: str | None = None) -> None:
        super().__init__("; ".join(f"{m.pointer}: {m.detail}" for m in mistakes[:3]), code=code)
        self.mistakes = tuple(mistakes)


class MalformedBody(Refused):
    """The body cannot be read: broken JSON, not UTF-8, nested beyond the limit of a parser."""

    code = "malformed_body"


class TooLarge(Refused):
    """The body is over its limit."""

    code = "body_too_large"


class Unsupported(Refused):
    """Files of this type, by their content, are not taken."""

    code = "unsupported_type"


class Unauthenticated(Refused):
    """The request carries no principal, or one that cannot be believed."""

    code = "unauthenticated"


class Forbidden(Refused):
    """The principal is known but lacks the right."""

    code = "forbidden"


class NotFound(Refused):
    """It is not there, or it is another tenant's: the two are not told apart."""

    code = "not_found"


class Gone(Refused):
    """It was there once."""

    code = "gone"


class Conflict(Refused):
    """It is there, but not in a state that allows this."""

    code = "conflict"


class ChecksumMismatch(Refused):
    """The bytes of a piece are not those that were sent; none of them was kept."""

    code = "checksum_mismatch"


class QueueFull(Refused):
    """The lane holds as many waiting and running tasks as its queueLimit allows."""

    code = "queue_full"


class TooOften(Refused):
    """This caller asked too often; the same may be asked again in `retry_after_s` whole seconds."""

    code = "too_many_requests"

    def __init__(self, detail: str, *, retry_after_s: int, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.retry_after_s = retry_after_s


class Overloaded(Refused):
    """This process has as many of them as it may; another, or this one later, has room."""

    code = "overloaded"


class IssuerDown(AsynchError):
    """The issuer of tokens never gave its keys: no token can be judged before it does."""


class DatabaseDown(AsynchError):
    """Postgres does not answer. A transaction that was being committed may or may not have happened."""


class StaleClaim(AsynchError):
    """A fenced write met no row: the task is someone else's now, or final."""


class SessionLost(AsynchError):
    """The worker's database session is gone, and with it the slots: cut the calls and start over."""


class ErrorCode(str, Enum):
    """`error.code` of a task: a closed list that clients may switch on."""

    MODEL_HTTP_ERROR = "model_http_error"
    MODEL_TIMEOUT = "model_timeout"
    MODEL_CONNECTION = "model_connection"
    RESULT_TOO_LARGE = "result_too_large"
    BAD_RESPONSE = "bad_response"
    STORAGE_ERROR = "storage_error"
    CANCELLED = "cancelled"
    QUEUE_EXPIRED = "queue_expired"
    CRASHED = "crashed"
    BREAKER_OPEN = "breaker_open"
    EGRESS_BLOCKED = "egress_blocked"
    PROCESSOR_FAILED = "processor_failed"
    INTERNAL = "internal"


class ExecutorError(AsynchError):
    """One attempt failed.

    `transient` says whether the same call may succeed later (connection, time-out, 408, 425, 429, 5xx); whether
    it is tried again is the retry rule's decision. `retry_after_s` is the model's own wish, seconds.
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        transient: bool,
        http_status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.transient = transient
        self.http_status = http_status
        self.retry_after_s = retry_after_s


class CutReason(str, Enum):
    """Why this side ended a call."""

    TIMEOUT = "timeout"  #: the model's time is up
    CANCEL = "cancel"  #: the user cancelled the task
    SESSION_LOST = "session_lost"  #: the slot is no longer ours
    DRAIN = "drain"  #: the worker is stopping


class CallCut(ExecutorError):
    """This side ended the call; for TIMEOUT the code is model_timeout, which counts as the model's failure."""

    def __init__(self, reason: CutReason, detail: str) -> None:
        code = ErrorCode.MODEL_TIMEOUT if reason is CutReason.TIMEOUT else ErrorCode.INTERNAL
        super().__init__(code, detail, transient=True)
        self.reason = reason


class ProcessorError(ExecutorError):
    """A media processor could not do its work on this file, and says why in a few words.

    Not transient: the file is at fault, and the same again would fail again; transient where this host lacked
    the time or the memory at that moment.
    """

    def __init__(self, detail: str, *, transient: bool = False) -> None:
        super().__init__(ErrorCode.PROCESSOR_FAILED, detail, transient=transient)


class StorageError(AsynchError):
    """The object store did not do what it was asked; the caller keeps its file and tries again later."""


class TmpUnavailable(AsynchError):
    """tmp_dir is full or unwritable; the attempt goes back without using a retry."""
