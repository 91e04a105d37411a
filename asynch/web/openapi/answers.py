"""The shapes of answers, for the description alone: the views build theirs, and tests hold the two together."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from asynch.errors import ErrorCode
from asynch.web.bodies import Body

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
Day = Annotated[str, WithJsonSchema({"type": "string", "format": "date"})]
Url = Annotated[str, WithJsonSchema({"type": "string", "format": "uri"})]
IdText = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[0-9]+$"})]
Anything = Annotated[Any, WithJsonSchema({})]
Status = Literal["pending", "processing", "completed", "failed", "cancelled"]
State = Annotated[int, Field(ge=0, le=5)]


def without_default(schema: dict[str, Any]) -> None:
    """It is there or not."""
    schema.pop("default", None)


def without_null(schema: dict[str, Any]) -> None:
    """It is there or not, but never null."""
    found = next(choice for choice in schema.pop("anyOf") if choice.get("type") != "null")
    schema.pop("default", None)
    schema.update(found)


class Answer(BaseModel):
    """A JSON object in camelCase with exactly these members."""

    media_type: ClassVar[str] = "application/json"

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, json_schema_serialization_defaults_required=False
    )


class Misplaced(Answer):
    """One mistake of a body or a query string."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """An error as RFC 9457 has it; members besides these depend on `code`."""

    model_config = ConfigDict(extra="allow", alias_generator=to_camel)

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[Misplaced] = Field(default_factory=list)
    error: str = Field("", json_schema_extra=without_default)


class Health(Answer):
    """The process lives."""

    status: Literal["ok"]


class Readiness(Answer):
    """Requests can be served."""

    status: Literal["ok", "degraded"]
    checks: dict[str, str]


class ModelId(Answer):
    """The model that was meant."""

    id: IdText


class ModelTold(Answer):
    """A registered target."""

    id: IdText
    tenant_id: str
    kind: Literal["model", "webhook", "processor", "broker"]
    model_name: str
    base_url: str
    route: str
    http_method: Literal["GET", "POST"]
    api_key: str
    enabled: Literal[0, 1]
    max_concurrency: int
    queue_limit: int
    timeout_seconds: int
    retry_times: int
    retry_queue_max_seconds: int
    retry_on: Literal["any", "transient"]
    retry_backoff_seconds: int
    auto_clean_seconds: int
    max_result_bytes: int
    remark: str
    creator: str
    created_at: Time
    updater: str
    updated_at: Time


class BreakerTold(Answer):
    """The circuit breaker of a model's service."""

    state: Literal["closed", "open", "half_open"]
    calls: int
    failures: int
    open_until: Time | None


class ModelAlone(ModelTold):
    """A registered target with its circuit breaker."""

    breaker: BreakerTold


class ModelList(Answer):
    """A page of models."""

    list: list[ModelTold]
    total: int


class Trouble(Answer):
    """Why a call or a task failed."""

    code: ErrorCode
    detail: str | None
    retryable: bool | None


class Tried(Answer):
    """What a model answered to a trial."""

    status: int | None
    seconds: float
    content_type: str
    file_type: str
    size: int
    head: str
    head_encoding: Literal["utf-8", "base64"]
    error: Trouble | None


class ServiceTold(Answer):
    """A base URL and how many calls it takes at once."""

    base_url: str
    max_concurrency: int
    updater: str
    updated_at: Time


class ServiceList(Answer):
    """A page of services."""

    list: list[ServiceTold]
    total: int


class TenantTold(Answer):
    """What a tenant has over all of its models."""

    tenant_id: str
    max_concurrency: int
    queue_limit: int
    updater: str
    updated_at: Time | None


class WorkerTold(Answer):
    """A living worker."""

    id: str
    host: str
    pid: int
    tmp_host: str
    threads: int
    started_at: Time
    seen_at: Time
    free_threads: int | None
    tmp_bytes: int | None
    trouble: str
    running: list[dict[str, Any]]
    running_total: int


class WorkerList(Answer):
    """All living workers."""

    list: list[WorkerTold]
    total: int


class ModelDay(Answer):
    """Calls of one day."""

    day: Day
    tenant_id: str
    creator: str
    model_name: str
    request_count: int


class ModelDays(Answer):
    """A page of days."""

    list: list[ModelDay]
    total: int
    total_capped: bool


class BizDay(Answer):
    """Tasks created on one day."""

    day: Day
    tenant_id: str
    creator: str
    biz_name: str
    request_count: int


class BizDays(Answer):
    """A page of days."""

    list: list[BizDay]
    total: int
    total_capped: bool


class OpTold(Answer):
    """One operation that was asked for."""

    id: IdText
    tenant_id: str
    creator: str
    created_at: Time
    ip: str
    user_agent: str
    api_path: str
    http_method: str
    biz_name: str
    model_name: str
    task_id: str
    op_type: str
    success: Literal[0, 1]
    error_msg: str
    cost_ms: int
    request_payload: str | None
    response_payload: str | None


class OpList(Answer):
    """A page of the op log."""

    list: list[OpTold]
    total: int
    total_capped: bool


class Secret(Answer):
    """The new secret of a tenant's webhooks; it is told this once."""

    secret: str
    former_valid_until: Time | None


class DeliveryId(Answer):
    """A delivery on its way."""

    id: IdText


class SignedLink(Body):
    """What a signed link to a file brings."""

    expires: str
    signature: str
    name: str = ""
    type: str = ""


class ProgressLink(Body):
    """What a signed link for progress brings."""

    tenant: str
    attempt: str
    expires: str
    signature: str


class ResultLink(Body):
    """What a signed link for a result brings."""

    tenant: str
    expires: str
    signature: str
