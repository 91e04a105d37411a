"""The shapes of answers about tasks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from asynch.domain import callbacks
from asynch.errors import ErrorCode
from asynch.web.openapi.answers import (
    Answer,
    Anything,
    IdText,
    Misplaced,
    State,
    Status,
    Time,
    Trouble,
    Url,
    without_default,
    without_null,
)


def _written(name: str) -> dict[str, Any]:
    """A document as text."""
    place = {"$ref": f"#/components/schemas/{name}"}
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": place}


class Accepted(Answer):
    """A task that was created, or that the same Idempotency-Key had created."""

    task_id: IdText
    state: State
    status: Status
    status_url: Url


class Refusal(Answer):
    """Why one task of a batch was not created; members besides these depend on `code`."""

    model_config = Answer.model_config | {"extra": "allow"}

    code: str
    detail: str
    errors: list[Misplaced] = Field(default_factory=list)


class Numbered(Answer):
    """What became of one task of a batch: an id or an error."""

    index: int
    task_id: IdText = Field("", json_schema_extra=without_default)
    error: Refusal | None = Field(None, json_schema_extra=without_null)


class BatchAccepted(Answer):
    """What became of each task of a batch, in its order."""

    list: list[Numbered]


class Item(Answer):
    """A task as its collectors see it."""

    task_id: IdText
    model_name: str
    biz_name: str
    client_ref: str
    metadata: dict[str, Any] | None
    priority: int
    state: State
    status: Status
    final: bool
    phase: Literal[0, 1]
    progress: float | None
    message: str
    oss_file: str
    file_type: str
    file_size: int | None
    error_msg: str | None
    retry_count: int
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    expire_at: Time | None


Items = list[Item]  # in a class with a member `list` the name is taken
Texts = list[str]


class Collected(Answer):
    """The tasks that were asked for, those that never were, and those that are gone."""

    list: Items
    missing: Texts
    gone: Texts


class Whole(Item):
    """A task with what only lists and the status document tell."""

    id: IdText
    tenant_id: str
    creator: str
    updater: str
    updated_at: Time
    enqueue_at: Time
    input_ref: str | None


class Listed(Whole):
    """A task of a list."""

    request_payload: Anything = None


class TaskList(Answer):
    """A page of tasks."""

    list: list[Listed]
    total: int
    total_capped: bool


class Attempt(Answer):
    """One try that is over."""

    attempt: int
    started_at: Time | None
    finished_at: Time | None
    host: str | None
    phase: Literal[0, 1]
    outcome: str
    code: ErrorCode | None
    http_status: int | None
    detail: str | None


class Result(Answer):
    """The stored result."""

    url: str
    url_expires_at: Time | None
    content_type: str
    size: int
    sha256: str | None


class Links(Answer):
    """Where to go on from here."""

    self: Url
    result: Url
    cancel: Url
    events: Url


class StatusDocument(Whole):
    """All that is to be said of a task; unknown is null."""

    queue_position_capped: bool = True
    attempt: int
    max_attempts: int | None
    queue_position: int | None
    eta_seconds: int | None
    estimated_completion: Time | None
    not_before: Time | None
    error: Trouble | None
    result: Result | None
    attempts: list[Attempt]
    links: Links = Field(alias="_links")


class TaskEvent(Answer):
    """One event of the stream; the last one is `done`."""

    media_type = "text/event-stream"

    id: IdText
    event: Literal["status", "done"]
    data: Annotated[str, WithJsonSchema(_written("StatusDocument"))]


class Brief(Answer):
    """A task after a change."""

    task_id: IdText
    state: State
    status: Status
    final: bool
    changed: bool


Briefs = list[Brief]


class Changed(Answer):
    """How many tasks were changed; which ones, where ids were given."""

    changed: int
    list: Briefs = Field(default_factory=Briefs)
    missing: Texts = Field(default_factory=Texts)


class Failure(Answer):
    """Why a delivery failed last."""

    code: ErrorCode
    detail: str | None


class DeliveryTold(Answer):
    """One message to a receiver."""

    id: IdText
    message_id: str
    task_id: str | None
    type: str
    callback_url: str | None
    state: State
    status: Status
    final: bool
    attempt: int
    next_attempt_at: Time | None
    created_at: Time
    finished_at: Time | None
    error: Failure | None
    attempts: list[Attempt]


class DeliveryList(Answer):
    """A page of deliveries."""

    list: list[DeliveryTold]
    total: int
    total_capped: bool


class Delivered(Answer):
    """The body of a delivery, signed as Standard Webhooks 1.0.0 has it."""

    type: callbacks.Event
    timestamp: Time
    data: Anything
