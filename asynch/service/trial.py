"""Testing a model: one call now, outside the queue but on a slot of its lane; the answer is told and not kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import BinaryIO, cast
from uuid import uuid4

from asynch import db
from asynch.db import Pool
from asynch.domain import bindings, filetype
from asynch.domain.principal import Caller, Principal
from asynch.domain.redact import redacted
from asynch.errors import (
    CallCut,
    Conflict,
    CutReason,
    DatabaseDown,
    ErrorCode,
    ExecutorError,
    InvalidInput,
    Mistake,
    NotFound,
    QueueFull,
)
from asynch.executors import Call, Order
from asynch.executors.http import HttpExecutor
from asynch.secretbox import SecretBox
from asynch.service import slots
from asynch.service.targets import bound_headers
from asynch.store import models, stats
from asynch.store.models import Model
from asynch.store.oplog import Operation, insert_op_logs

#: A test holds a thread of the API, so it gets no half hour whatever the model's own time-out is, and not every thread.
LONGEST_S = 60.0
AT_ONCE = 4
#: What is told of an answer's body.
HEAD_BYTES = 1024


class Answer:
    """What has come of an answer so far; of its body only as much is kept as tells its type."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.content_type = ""
        self.size = 0
        self.head = b""
        self.error: ExecutorError | None = None
        self.seconds = 0.0

    def begin(self, status: int, content_type: str) -> None:
        """The body follows."""
        self.status, self.content_type = status, content_type

    def write(self, data: bytes) -> int:
        """Take a piece of the body."""
        self.size += len(data)
        self.head += data[: filetype.HEAD_BYTES - len(self.head)]
        return len(data)

    @property
    def whole(self) -> bool:
        """Whether the head is all there is."""
        return self.error is None and self.size == len(self.head)

    @property
    def file_type(self) -> str:
        """The extension a result like this would have."""
        return filetype.sniff(self.head, whole=self.whole).ext


@dataclass(frozen=True, slots=True)
class Trials:
    """The use case and what it needs to know of this installation; one for all threads of a process."""

    pool: Pool
    lock_dsn: str
    executor: HttpExecutor
    box: SecretBox
    longest_s: float
    timezone: str
    users_manage: bool
    log_payloads: bool
    tenant_most: int  #: as limits.tenant_max_concurrency
    _room: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(AT_ONCE))

    def run(self, caller: Caller, model_id: int, payload: str | None) -> Answer:
        """Call the model once, count the call, note it. `payload` is JSON text as sent.

        NotFound; Conflict for a disabled model, but to those who may enable it; InvalidInput for a payload that no GET
        can carry; QueueFull when no slot is free or too many tests run here. DatabaseDown: the slot was lost.
        """
        model = self._model(caller.principal, model_id)
        if model.spec.http_method == "GET" and payload is not None and not payload.startswith("{"):
            raise InvalidInput([Mistake("#/requestPayload", "a model called by GET takes an object")])
        call = Call(min(float(model.spec.timeout_seconds), LONGEST_S, self.longest_s))
        with self._seat(), slots.holding(self.lock_dsn, model, call, tenant_most=self.tenant_most):
            self._count(caller.principal, model)
            answer = self._call(model, payload, call)
        self._note(caller, model, payload, answer)
        return answer

    def _model(self, asker: Principal, model_id: int) -> Model:
        with db.connection(self.pool) as conn:
            model = models.find_model(conn, tenant_id=asker.tenant_id, id=model_id, name=None)
        if model is None:
            raise NotFound("There is no such model.")
        if not model.spec.enabled and not (asker.is_admin or self.users_manage):
            raise Conflict(f"The model {model.spec.model_name!r} is disabled.", code="model_disabled")
        return model

    @contextmanager
    def _seat(self) -> Iterator[None]:
        if not self._room.acquire(blocking=False):
            raise QueueFull(f"{AT_ONCE} tests run here already.", code="too_many_tests")
        try:
            yield
        finally:
            self._room.release()

    def _count(self, asker: Principal, model: Model) -> None:
        """Before it starts, so that a call that was made is counted whatever happens to this process."""
        with db.transaction(self.pool) as conn:
            stats.count_call(
                conn,
                tenant_id=asker.tenant_id,
                creator=asker.user,
                model_name=model.spec.model_name,
                timezone=self.timezone,
            )

    def _call(self, model: Model, payload: str | None, call: Call) -> Answer:
        answer, began = Answer(), monotonic()
        try:
            self.executor.probe(self._order(model, payload), cast(BinaryIO, answer), call, answer.begin)
        except CallCut as cut:
            if cut.reason is not CutReason.TIMEOUT:
                raise DatabaseDown("the session that held the slot of a test was lost") from cut
            detail = f"no whole answer within {call.deadline - began:.0f} s"
            answer.error = ExecutorError(ErrorCode.MODEL_TIMEOUT, detail, transient=True)
        except ExecutorError as error:
            answer.error = error
        answer.seconds = monotonic() - began
        return answer

    def _order(self, model: Model, payload: str | None) -> Order:
        spec = model.spec
        return Order(
            task_id=f"test-{uuid4().hex}",
            attempt=1,
            url=bindings.join(spec.base_url, spec.route),
            method=spec.http_method,
            payload=payload,
            input_ref=None,
            headers=bound_headers(self.box, model.tenant_id, spec.api_key),
            timeout_s=min(float(spec.timeout_seconds), LONGEST_S),
            max_bytes=spec.max_result_bytes,
        )

    def _note(self, caller: Caller, model: Model, payload: str | None, answer: Answer) -> None:
        good = answer.error is None and answer.status is not None and 200 <= answer.status < 300
        code = answer.error.code if answer.error else ErrorCode.MODEL_HTTP_ERROR
        told = Operation(
            model_name=model.spec.model_name,
            success=good,
            error="" if good else code.value,
            request=redacted(payload) if self.log_payloads else "",
        )
        with db.transaction(self.pool) as conn:
            insert_op_logs(conn, caller, "testModel", [told])
