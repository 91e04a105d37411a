"""What callers say of tasks: the bodies of /task, checked; what is done with them is not its matter."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from asynch.domain import callbacks
from asynch.domain.ids import number_of
from asynch.domain.rawjson import RawJson
from asynch.store.tasks import NewTask, TaskFilter
from asynch.web.bodies import INT4_MAX, STORABLE, Body, Flag, Page, Pattern, TenantId, Text, said, whole

#: Members kept as the JSON text that was sent.
RAW = frozenset({"requestPayload", "metadata"})
MAX_BATCH = 10_000
_MAX_IDS = 1000
_MAX_WAIT_S = 30
#: of a model, a business and a reference, characters
MAX_NAME = 128
#: metadata and inputRef, bytes
MAX_NOTE = 4096
#: With the longest queue time-out on top, a time must still have a year of four digits.
_LAST_YEAR = 9000


def _task_id(value: object) -> object:
    """Anything that is no task's id is as good as one that is not there."""
    value = whole(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected a task id: a string, or its number")  # noqa: TRY004 - what pydantic understands
    return str(value)


def _time(value: object) -> object:
    """RFC 3339 with its zone; strict JSON validation would take no text."""
    if not isinstance(value, str):
        raise ValueError("expected a time as RFC 3339 text")  # noqa: TRY004
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("expected a time as RFC 3339 text, e.g. 2026-01-31T12:00:00Z") from None
    if at.tzinfo is None:
        raise ValueError("expected a time with its zone, e.g. 2026-01-31T12:00:00Z")
    if at.year >= _LAST_YEAR:
        raise ValueError(f"expected a time before the year {_LAST_YEAR}")
    return at


def _object(raw: RawJson) -> RawJson:
    if not raw.text.startswith(("{", "null")):
        raise ValueError("expected an object")
    _short(raw.text)
    return raw


def _short(text: str) -> str:
    if len(text.encode()) > MAX_NOTE:
        raise ValueError(f"expected at most {MAX_NOTE} bytes")
    return text


TaskId = Annotated[
    Text, BeforeValidator(_task_id), WithJsonSchema({"type": ["string", "integer"], "pattern": STORABLE})
]
Time = Annotated[AwareDatetime, BeforeValidator(_time), Pattern(r"^[0-8]\d{3}-\d\d-\d\dT")]
CallbackUrl = Annotated[Text, Field(max_length=callbacks.MAX_URL), Pattern(callbacks.URL_PATTERN)]
Short = Annotated[Text, Field(max_length=MAX_NAME)]


class TaskIn(Body):
    """One task to create."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": said("delaySeconds", "notBefore"),
            "anyOf": [{"not": said("expireNoticeSeconds")}, said("callbackUrl")],
        }
    )

    model_name: Annotated[Text, Field(min_length=1, max_length=MAX_NAME)]
    request_payload: RawJson | None = None
    input_ref: Annotated[Text, AfterValidator(_short)] | None = None
    biz_name: Short | None = None
    client_ref: Short | None = None
    metadata: Annotated[RawJson, AfterValidator(_object), WithJsonSchema({"type": "object"})] | None = None
    priority: Annotated[int, Field(ge=0, le=9)] | None = Field(None, json_schema_extra={"default": 0})
    delay_seconds: Annotated[float, Field(ge=0, le=INT4_MAX)] | None = None
    not_before: Time | None = None
    queue_timeout_seconds: Annotated[int, Field(ge=1, le=INT4_MAX)] | None = None
    callback_url: CallbackUrl | None = None
    expire_notice_seconds: Annotated[int, Field(ge=1, le=INT4_MAX)] | None = None

    @model_validator(mode="after")
    def _one_start(self) -> TaskIn:
        if self.delay_seconds is not None and self.not_before is not None:
            raise ValueError("delaySeconds and notBefore: expected one of them, not both")
        return self

    @model_validator(mode="after")
    def _somebody_to_notify(self) -> TaskIn:
        if self.expire_notice_seconds is not None and self.callback_url is None:
            raise ValueError("expireNoticeSeconds: expected a callbackUrl with it")
        return self

    def new_task(self) -> NewTask:
        """As the service takes it."""
        payload = _text(self.request_payload)
        return NewTask(
            model_name=self.model_name,
            payload=payload,
            payload_is_object=payload is None or payload.startswith("{"),
            input_ref=self.input_ref,
            biz_name=self.biz_name or "",
            client_ref=self.client_ref or "",
            metadata=_text(self.metadata),
            priority=self.priority or 0,
            delay_s=float(self.delay_seconds or 0),
            not_before=self.not_before,
            queue_timeout_s=self.queue_timeout_seconds,
            callback_url=self.callback_url,
            expire_notice_s=self.expire_notice_seconds,
        )


def _text(raw: RawJson | None) -> str | None:
    return None if raw is None or raw.text == "null" else raw.text


class BatchIn(Body):
    """createTaskBatch, for its description: each task is checked apart, as TaskIn."""

    tasks: Annotated[list[TaskIn], Field(max_length=MAX_BATCH)]


class WhichTask(Body):
    """getTaskResult."""

    task_id: TaskId


class Ids(Body):
    """getTaskBatch."""

    task_ids: Annotated[list[TaskId], Field(max_length=_MAX_IDS)]
    wait_seconds: Annotated[float, Field(ge=0, le=_MAX_WAIT_S)] = 0


class Filter(Body):
    """Which tasks; null and empty texts narrow nothing."""

    model_name: Text | None = None
    task_id: TaskId | None = None
    biz_name: Text | None = None
    state: Annotated[int, Field(ge=0, le=5)] | None = None
    final: bool | None = None
    created_from: Time | None = None
    created_to: Time | None = None

    def wanted(self) -> TaskFilter:
        """As the service takes it."""
        return TaskFilter(
            id=number_of(self.task_id) if self.task_id else None,
            model_name=self.model_name or None,
            biz_name=self.biz_name or None,
            state=self.state,
            final=self.final,
            created_from=self.created_from,
            created_to=self.created_to,
        )


class ListIn(Filter):
    """listTask."""

    page: Page = Page()
    include_payload: Flag = 0
    tenant_id: TenantId | None = None


#: as JSON Schema: one of these makes a filter narrow something
_NARROWING: list[Any] = [
    *(
        {"required": [name], "properties": {name: {"not": {"enum": [None, ""]}}}}
        for name in ("modelName", "taskId", "bizName")
    ),
    *(said(name) for name in ("state", "final", "createdFrom", "createdTo")),
]


class ManyIn(Filter):
    """cancelBatch, retryBatch: ids, or a filter that narrows something."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [said("taskIds"), {"anyOf": _NARROWING}]})

    task_ids: Annotated[list[TaskId], Field(max_length=MAX_BATCH)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> ManyIn:
        narrowed = self.wanted() != TaskFilter()
        if self.task_ids is None and not narrowed:
            raise ValueError("expected taskIds, or a filter that narrows something")
        if self.task_ids is not None and narrowed:
            raise ValueError("expected taskIds or a filter, not both")
        return self
