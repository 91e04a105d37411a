"""/model: the registered targets of a tenant."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal

from flask import Blueprint
from flask.typing import ResponseReturnValue
from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from asynch.domain import rawjson
from asynch.domain.bindings import BINDINGS_PATTERN, MAX_BASE_URL, MAX_BINDINGS, URL_PATTERN
from asynch.domain.rawjson import RawJson
from asynch.service.models import ModelKey, Registry
from asynch.service.trial import HEAD_BYTES, Answer
from asynch.store.models import Model, ModelSpec
from asynch.web import parts
from asynch.web.auth import caller, named_tenant, principal
from asynch.web.bodies import (
    INT4_MAX,
    INT8_MAX,
    Body,
    Flag,
    Id,
    Page,
    Pattern,
    TenantId,
    Text,
    checked,
    read_body,
    read_json,
    read_query,
    said,
    whole,
)

bp = Blueprint("models", __name__, url_prefix="/model")

#: a week: the time-out of a socket ends at 24 days
LONGEST_CALL_S = 7 * 86400
#: slots are locks in Postgres' shared memory, and some hundred thousand fill the largest
MOST_SLOTS = 100_000
#: createModel: null, absent or <= 0 means the default
_DEFAULTED = ("max_concurrency", "queue_limit", "timeout_seconds", "auto_clean_seconds")


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


BaseUrl = Annotated[Text, Field(min_length=1, max_length=MAX_BASE_URL), Pattern(URL_PATTERN)]
Name = Annotated[Text, Field(min_length=1, max_length=128)]
Count = Annotated[int, Field(ge=0, le=INT4_MAX)]
Positive = Annotated[int, Field(ge=1, le=INT4_MAX)]


class Fields(Body):
    """What may be said of a model; None says nothing."""

    route: Annotated[Text, Field(max_length=256)] | None = None
    http_method: Annotated[Literal["GET", "POST"], BeforeValidator(_upper)] | None = None
    api_key: Annotated[Text, Field(max_length=MAX_BINDINGS), Pattern(BINDINGS_PATTERN)] | None = None
    enabled: Flag | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=MOST_SLOTS)] | None = None
    queue_limit: Positive | None = None
    timeout_seconds: Annotated[int, Field(ge=1, le=LONGEST_CALL_S)] | None = None
    retry_times: Count | None = None
    retry_queue_max_seconds: Annotated[int, Field(ge=-1, le=INT4_MAX)] | None = None
    retry_on: Literal["any", "transient"] | None = None
    retry_backoff_seconds: Count | None = None
    auto_clean_seconds: Positive | None = None
    max_result_bytes: Annotated[int, Field(ge=1, le=INT8_MAX)] | None = None
    remark: Annotated[Text, Field(max_length=1024)] | None = None

    def said(self) -> dict[str, Any]:
        """The fields of ModelSpec that were given."""
        return self.model_dump(exclude_none=True, exclude={"id"})


def _with_defaults(schema: dict[str, Any]) -> None:
    """The defaults that hold; and what means them is no mistake."""
    for spec in fields(ModelSpec):
        if spec.default is not MISSING:
            schema["properties"][to_camel(spec.name)]["default"] = spec.default
    for name in _DEFAULTED:
        for choice in schema["properties"][to_camel(name)]["anyOf"]:
            choice.pop("minimum", None)


class NewModel(Fields):
    """createModel: null, absent or ≤ 0 means the default for the counts that must be positive."""

    model_config = ConfigDict(json_schema_extra=_with_defaults)

    model_name: Name
    base_url: BaseUrl

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        aliases = {cls.model_fields[name].alias for name in _DEFAULTED}
        return {name: value for name, value in values.items() if not (name in aliases and _is_unset(value))}


def _is_unset(given: object) -> bool:
    value = whole(given)
    return isinstance(value, int) and not isinstance(value, bool) and value <= 0


class ModelChanges(Fields):
    """updateModel: with an id, modelName is the new name; without, it says which model."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [said("id"), said("modelName")]})

    id: Id | None = None
    model_name: Name | None = None
    base_url: BaseUrl | None = None

    @model_validator(mode="after")
    def _names_one(self) -> ModelChanges:
        if self.id is None and self.model_name is None:
            raise ValueError("expected id or modelName")
        return self


class WhichModel(Body):
    """getModel."""

    id: Id | None = None
    model_name: Name | None = None

    @model_validator(mode="after")
    def _names_one(self) -> WhichModel:
        if (self.id is None) == (self.model_name is None):
            raise ValueError("expected either id or modelName")
        return self


class Deletion(Body):
    """deleteModel."""

    id: Id
    force: Literal["true", "false", "1", "0"] = "false"


class ModelSearch(Body):
    """listModel."""

    page: Page = Page()
    model_name: Text | None = None
    tenant_id: TenantId | None = None
    kind: Literal["model", "webhook", "processor", "broker"] | None = None


class Trial(Body):
    """testModel."""

    id: Id
    request_payload: RawJson | None = None


def registry() -> Registry:
    """The use cases of models with this installation's parts."""
    made_of = parts()
    settings = made_of.settings
    return Registry(
        pool=made_of.pool,
        box=made_of.box,
        policy=made_of.model_policy,
        users_manage=settings.auth.users_manage_models,
        log_payloads=settings.op_log.payloads,
        failed_retention_s=settings.cleaner.failed_retention,
    )


@bp.post("/createModel")
def create_model() -> ResponseReturnValue:
    """Register a target; 409 when the tenant has one of this name."""
    body = read_json(NewModel)
    return {"id": str(registry().create(caller(), body.said()))}


@bp.put("/updateModel")
def update_model() -> ResponseReturnValue:
    """Change what is given; null or absent stays as it is."""
    body = read_json(ModelChanges)
    key = ModelKey(id=body.id, name=None if body.id else body.model_name)
    return {"id": str(registry().update(caller(), key, body.said()))}


@bp.delete("/deleteModel")
def delete_model() -> ResponseReturnValue:
    """Delete a model; 409 while tasks are not final, unless `force=true`."""
    asked = read_query(Deletion)
    return {"id": str(registry().delete(caller(), asked.id, force=asked.force in ("true", "1")))}


@bp.get("/getModel")
def get_model() -> ResponseReturnValue:
    """One model, by id or by name."""
    asked = read_query(WhichModel)
    models = registry()
    model = models.get(principal().tenant_id, ModelKey(asked.id, asked.model_name))
    breaker = models.breaker(model)
    told = {
        "state": breaker.state,
        "calls": breaker.calls,
        "failures": breaker.failures,
        "openUntil": breaker.open_until,
    }
    return _shown(model, models) | {"breaker": told}


@bp.post("/listModel")
def list_model() -> ResponseReturnValue:
    """A page of the tenant's models, newest first; lanes of the system are shown to admins only."""
    body = read_json(ModelSearch)
    tenant_id = named_tenant(body.tenant_id)
    kind = body.kind if principal().is_admin else "model"
    models = registry()
    found, total = models.search(
        tenant_id, kind=kind, name=body.model_name, limit=body.page.page_size, offset=body.page.offset
    )
    return {"list": [_shown(model, models) for model in found], "total": total}


@bp.post("/testModel")
def test_model() -> ResponseReturnValue:
    """Call a model once and tell what it answered; 200 whatever that was."""
    settings = parts().settings
    values = rawjson.members(
        rawjson.decode(read_body(settings.server.max_body)),
        raw=frozenset({"requestPayload"}),
        max_depth=settings.limits.max_payload_depth,
    )
    asked = checked(Trial, values)
    payload = asked.request_payload.text if asked.request_payload else None
    return _tried(parts().trials.run(caller(), asked.id, None if payload == "null" else payload))


def _tried(answer: Answer) -> dict[str, Any]:
    head, error = answer.head[:HEAD_BYTES], answer.error
    try:  # a character cut off at the end is forgiven
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=answer.size <= HEAD_BYTES)
        told = {"head": text, "headEncoding": "utf-8"}
    except UnicodeDecodeError:
        told = {"head": base64.b64encode(head).decode(), "headEncoding": "base64"}
    return {
        "status": answer.status,
        "seconds": round(answer.seconds, 3),
        "contentType": answer.content_type[:256],
        "fileType": answer.file_type if answer.status else "",
        "size": answer.size,
        **told,
        "error": {"code": error.code, "detail": error.detail, "retryable": error.transient} if error else None,
    }


def _shown(model: Model, models: Registry) -> dict[str, Any]:
    spec = model.spec
    return {
        "id": str(model.id),
        "tenantId": str(model.tenant_id),
        "kind": model.kind,
        "modelName": spec.model_name,
        "baseUrl": spec.base_url,
        "route": spec.route,
        "httpMethod": spec.http_method,
        "apiKey": models.shown_api_key(model),
        "enabled": spec.enabled,
        "maxConcurrency": spec.max_concurrency,
        "queueLimit": spec.queue_limit,
        "timeoutSeconds": spec.timeout_seconds,
        "retryTimes": spec.retry_times,
        "retryQueueMaxSeconds": spec.retry_queue_max_seconds,
        "retryOn": spec.retry_on,
        "retryBackoffSeconds": spec.retry_backoff_seconds,
        "autoCleanSeconds": spec.auto_clean_seconds,
        "maxResultBytes": spec.max_result_bytes,
        "remark": spec.remark,
        "creator": model.creator,
        "createdAt": model.created_at,
        "updater": model.updater,
        "updatedAt": model.updated_at,
    }
