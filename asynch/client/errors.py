"""What a call of the SDK may end with; each text is one line that a person can act on.

ClientError
├── RefusedError              the server said no: its problem document
├── UnreachableError          no whole answer came, in all the tries there was time for
├── IncompleteError           create_tasks ended in the middle: what is created so far
├── UploadError               the file was not stored, or not in time
└── WaitError                 wait ended early: all ids, and the items known to be final
    └── WaitTimeoutError      ... because its time was over
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from asynch.client.shapes import Created, Item
from asynch.errors import AsynchError


class ClientError(AsynchError):
    """Base of all; `status`, `code` and `detail` are of the answer behind it, 0 and `connection` without one."""

    def __init__(self, text: str, *, status: int = 0, code: str = "connection", detail: str = "") -> None:
        super().__init__(" ".join(text.split()))
        self.status = status
        self.code = code
        self.detail = detail or text
        #: of a create call: the same call with this key makes no task a second time
        self.idempotency_key: str | None = None


class RefusedError(ClientError):
    """The server refused. The members are the problem document's (RFC 9457), `document` is all of it."""

    def __init__(
        self, status: int, code: str, detail: str, document: Mapping[str, Any] | None = None, *, after_s: float = 0
    ) -> None:
        self.document: Mapping[str, Any] = document or {}
        self.request_id = str(self.document.get("requestId") or "")
        #: `{pointer, detail}` of each mistake in the body
        self.errors: Sequence[Mapping[str, str]] = self.document.get("errors") or ()
        self.retry_after_s = after_s  #: the server's wish, 0 without one
        told = f" (request {self.request_id})" if self.request_id else ""
        super().__init__(f"{status} {code}: {detail}{told}", status=status, code=code, detail=detail)


class UnreachableError(ClientError):
    """No whole answer came. `unsent`: surely nothing of the request arrived."""

    def __init__(self, detail: str, *, unsent: bool = False) -> None:
        super().__init__(detail)
        self.unsent = unsent


class IncompleteError(ClientError):
    """create_tasks ended in the middle. `created` holds what is known, in order; `__cause__` says why.

    The same call with `idempotency_key` makes what is missing and gives the ids of what is there.
    """

    def __init__(self, created: Sequence[Created], key: str, cause: Exception) -> None:
        made = sum("taskId" in result for result in created)
        known = {"status": cause.status, "code": cause.code} if isinstance(cause, ClientError) else {"code": "client"}
        super().__init__(f"{cause} ({made} tasks were created before)", **known)
        self.created = list(created)
        self.idempotency_key = key


class UploadError(ClientError):
    """The file is not stored. `task_id` names the upload; the code is `time_out` when it may still come to its end."""

    def __init__(self, task_id: str, detail: str, *, code: str = "upload_failed") -> None:
        super().__init__(f"upload {task_id}: {detail}", code=code, detail=detail)
        self.task_id = task_id


class WaitError(ClientError):
    """Nothing is lost: `wait` may be called again with `ids`, or only with `pending`."""

    def __init__(self, pending: Sequence[str], items: Mapping[str, Item], last: ClientError | None) -> None:
        said = f"; last answer: {last}" if last else ""
        super().__init__(
            f"{len(pending)} of {len(pending) + len(items)} tasks are not known to be final{said}",
            status=last.status if last else 0,
            code=last.code if last else "time_out",
        )
        self.pending = list(pending)  #: not known to be final
        self.items = dict(items)  #: the final ones by id

    @property
    def ids(self) -> list[str]:
        """Every id that was waited for."""
        return [*self.items, *self.pending]


class WaitTimeoutError(WaitError):
    """Not every task became final in time."""
