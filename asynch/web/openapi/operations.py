"""What each route takes and answers, by its endpoint; a test holds the table and the routes together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from asynch.web import models, oplog, progress, services, stats, task_bodies, tenants, webhooks
from asynch.web.openapi import answers, task_answers

#: what is answered: the shape of a JSON document, or a media type, or nothing
Shape = type[BaseModel] | str | None


@dataclass(frozen=True, slots=True)
class Operation:
    """One route. Errors that any route of its kind answers are not in `errors`."""

    answers: Mapping[int, Shape]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    errors: tuple[int, ...] = ()
    asks: tuple[str, ...] = ()  #: request headers
    tells: tuple[str, ...] = ()  #: headers of a success
    calls_back: str = ""  #: where the URL of a callback stands in the request


_RATES = ("RateLimit", "RateLimit-Policy")
_NOT_READY = 503

OPERATIONS: Mapping[str, Operation] = {
    "health.healthz": Operation({200: answers.Health}),
    "health.readyz": Operation({200: answers.Readiness}, errors=(_NOT_READY,)),
    "metrics.metrics": Operation({200: "text/plain"}),
    "files.get_file": Operation(
        {200: "*/*", 206: "*/*", 304: None}, query=answers.SignedLink, errors=(403, 404, 416), asks=("Range",)
    ),
    "docs.openapi": Operation({200: "application/json", 304: None}, asks=("If-None-Match",), tells=("ETag",)),
    "docs.page": Operation({200: "text/html"}),
    "upload_page.upload_page": Operation({200: "text/html"}),
    "upload_page.asset": Operation({200: "*/*", 304: None}, errors=(404,), asks=("If-None-Match",), tells=("ETag",)),
    "models.create_model": Operation({200: answers.ModelId}, body=models.NewModel, errors=(409,)),
    "models.update_model": Operation({200: answers.ModelId}, body=models.ModelChanges, errors=(404, 409)),
    "models.delete_model": Operation({200: answers.ModelId}, query=models.Deletion, errors=(404, 409)),
    "models.get_model": Operation({200: answers.ModelAlone}, query=models.WhichModel, errors=(404,)),
    "models.list_model": Operation({200: answers.ModelList}, body=models.Search),
    "models.test_model": Operation({200: answers.Tried}, body=models.Trial, errors=(404, 409)),
    "tasks.create_task": Operation(
        {202: task_answers.Accepted},
        body=task_bodies.TaskIn,
        errors=(404, 409),
        asks=("Idempotency-Key", "traceparent", "tracestate"),
        tells=("Location", "Retry-After", "Idempotency-Replayed", *_RATES),
        calls_back="{$request.body#/callbackUrl}",
    ),
    "tasks.create_task_batch": Operation(
        {202: task_answers.BatchAccepted},
        body=task_bodies.BatchIn,
        errors=(409,),
        asks=("Idempotency-Key", "traceparent", "tracestate"),
        tells=("Idempotency-Replayed", *_RATES),
        calls_back="{$request.body#/tasks/0/callbackUrl}",  # one item stands for all
    ),
    "tasks.get_task_batch": Operation({200: task_answers.Collected}, body=task_bodies.Ids, tells=_RATES),
    "tasks.get_task_result": Operation(
        {200: task_answers.Item}, query=task_bodies.WhichTask, errors=(404, 410), tells=_RATES
    ),
    "tasks.list_task": Operation({200: task_answers.TaskList}, body=task_bodies.ListIn, tells=_RATES),
    "tasks.task_status": Operation(
        {200: task_answers.StatusDocument, 304: None},
        errors=(404, 410),
        asks=("Prefer", "If-None-Match"),
        tells=("ETag", "Retry-After", "Preference-Applied", *_RATES),
    ),
    "tasks.task_result": Operation(
        {202: task_answers.StatusDocument, 303: None},
        errors=(404, 409, 410),
        tells=("Location", "Retry-After", "Content-Location", *_RATES),
    ),
    "tasks.cancel_task": Operation({200: task_answers.StatusDocument}, errors=(404, 410)),
    "tasks.retry_task": Operation({200: task_answers.StatusDocument}, errors=(404, 409, 410)),
    "tasks.cancel_batch": Operation({200: task_answers.Changed}, body=task_bodies.ManyIn),
    "tasks.retry_batch": Operation({200: task_answers.Changed}, body=task_bodies.ManyIn),
    "streams.events": Operation(
        {200: "text/event-stream", 204: None}, errors=(404, 410), asks=("Last-Event-ID",), tells=_RATES
    ),
    "streams.socket": Operation({101: None}, errors=(404, 410, 426), tells=_RATES),
    "progress.post_progress": Operation(
        {204: None}, body=progress.ProgressIn, query=answers.ProgressLink, errors=(403, 404, 409, 410)
    ),
    "stats.list_model_stat": Operation({200: answers.ModelDays}, body=stats.ModelDays),
    "stats.list_biz_stat": Operation({200: answers.BizDays}, body=stats.BizDays),
    "oplog.list_op_log": Operation({200: answers.OpList}, body=oplog.Search),
    "workers.list_worker": Operation({200: answers.WorkerList}),
    "tenants.get_tenant": Operation({200: answers.TenantTold}, query=tenants.WhichTenant),
    "tenants.update_tenant": Operation({200: answers.TenantTold}, body=tenants.Changes),
    "services.update_service": Operation({200: answers.ServiceTold}, body=services.Change),
    "services.list_service": Operation({200: answers.ServiceList}, body=services.Search),
    "webhooks.rotate_secret": Operation({200: answers.Secret}),
    "webhooks.list_delivery": Operation({200: task_answers.DeliveryList}, body=webhooks.DeliveriesIn),
    "webhooks.redeliver": Operation({202: answers.DeliveryId}, errors=(404, 409, 410)),
    "webhooks.test_delivery": Operation({202: answers.DeliveryId}, body=webhooks.TestIn),
}
