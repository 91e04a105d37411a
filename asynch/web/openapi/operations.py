"""What each route takes and answers, by its endpoint; a test holds the table and the routes together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from asynch.web import (
    actions,
    models,
    oplog,
    progress,
    results,
    rule_bodies,
    services,
    stats,
    task_bodies,
    tenants,
    uploads,
    webhooks,
)
from asynch.web.bodies import Body
from asynch.web.openapi import answers, file_answers, rule_answers, task_answers

#: what is answered: the shape of a document, or a media type, or nothing
Shape = type[answers.Answer] | str | None
#: what is sent: the shape of a document or form, or the media type of bytes; `?`: not with each
Sent = type[Body] | str


@dataclass(frozen=True, slots=True)
class Operation:
    """One route. Errors that any route of its kind answers are not in `errors`."""

    answers: Mapping[int, Shape]
    body: Sent | None = None
    query: type[Body] | None = None
    errors: tuple[int, ...] = ()
    asks: tuple[str, ...] = ()  #: request headers; `!`: must be there
    tells: Mapping[int, tuple[str, ...]] = field(default_factory=dict)  #: headers of a success; `?`: not of each
    calls_back: str = ""  #: where the URL of a callback stands in the request


_RATES = ("RateLimit?", "RateLimit-Policy?")  # where there is a limit
_NOT_READY = 503
_OF_FILES = ("ETag", "Accept-Ranges", "Content-Disposition")
_VERSION = "Tus-Resumable"
_WHERE = ("Upload-Offset", "Upload-Expires?", _VERSION)
_PIECE = "application/offset+octet-stream"
_OF_PIECES = (400, 404, 409, 410, 412, 413, 415, 460, 507)
_ABLE = ("Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm", _VERSION)
_TAGGED = {200: ("ETag",), 304: ("ETag",)}

OPERATIONS: Mapping[str, Operation] = {
    "health.healthz": Operation({200: answers.Health}),
    "health.readyz": Operation({200: answers.Readiness}, errors=(_NOT_READY,)),
    "metrics.metrics": Operation({200: "text/plain"}),
    "files.get_file": Operation(
        {200: "*/*", 206: "*/*", 304: None},
        query=answers.SignedLink,
        errors=(403, 404, 416),
        asks=("Range", "If-None-Match"),
        tells={200: _OF_FILES, 206: (*_OF_FILES, "Content-Range"), 304: _OF_FILES},
    ),
    "files.put_file": Operation({204: None}, body="*/*", query=file_answers.InvitedLink, errors=(403, 404)),
    "docs.openapi": Operation({200: "application/json", 304: None}, asks=("If-None-Match",), tells=_TAGGED),
    "docs.page": Operation({200: "text/html"}),
    "upload_page.upload_page": Operation({200: "text/html"}),
    "upload_page.asset": Operation({200: "*/*", 304: None}, errors=(404,), asks=("If-None-Match",), tells=_TAGGED),
    "models.create_model": Operation({200: answers.ModelId}, body=models.NewModel, errors=(409,)),
    "models.update_model": Operation({200: answers.ModelId}, body=models.ModelChanges, errors=(404, 409)),
    "models.delete_model": Operation({200: answers.ModelId}, query=models.Deletion, errors=(404, 409)),
    "models.get_model": Operation({200: answers.ModelAlone}, query=models.WhichModel, errors=(404,)),
    "models.list_model": Operation({200: answers.ModelList}, body=models.ModelSearch),
    "models.test_model": Operation({200: answers.Tried}, body=models.Trial, errors=(404, 409)),
    "tasks.create_task": Operation(
        {202: task_answers.Accepted},
        body=task_bodies.TaskIn,
        errors=(404, 409),
        asks=("Idempotency-Key", "traceparent", "tracestate"),
        tells={202: ("Location", "Retry-After", "Idempotency-Replayed?", *_RATES)},
        calls_back="{$request.body#/callbackUrl}",
    ),
    "tasks.create_task_batch": Operation(
        {202: task_answers.BatchAccepted},
        body=task_bodies.BatchIn,
        errors=(409,),
        asks=("Idempotency-Key", "traceparent", "tracestate"),
        tells={202: ("Idempotency-Replayed?", *_RATES)},
        calls_back="{$request.body#/tasks/0/callbackUrl}",  # one item stands for all
    ),
    "tasks.get_task_batch": Operation({200: task_answers.Collected}, body=task_bodies.Ids, tells={200: _RATES}),
    "tasks.get_task_result": Operation(
        {200: task_answers.Item}, query=task_bodies.WhichTask, errors=(404, 410), tells={200: _RATES}
    ),
    "tasks.list_task": Operation({200: task_answers.TaskList}, body=task_bodies.ListIn, tells={200: _RATES}),
    "tasks.task_status": Operation(
        {200: task_answers.StatusDocument, 304: None},
        errors=(404, 410),
        asks=("Prefer", "If-None-Match"),
        tells={
            200: ("ETag", "Retry-After?", "Preference-Applied?", *_RATES),
            304: ("ETag", "Preference-Applied?", *_RATES),
        },
    ),
    "tasks.task_result": Operation(
        {202: task_answers.StatusDocument, 303: None},
        errors=(404, 409, 410),
        tells={202: ("Retry-After", "Content-Location", *_RATES), 303: ("Location", *_RATES)},
    ),
    "tasks.cancel_task": Operation({200: task_answers.StatusDocument}, errors=(404, 410)),
    "tasks.retry_task": Operation({200: task_answers.StatusDocument}, errors=(404, 409, 410)),
    "tasks.cancel_batch": Operation({200: task_answers.Changed}, body=task_bodies.ManyIn),
    "tasks.retry_batch": Operation({200: task_answers.Changed}, body=task_bodies.ManyIn),
    "streams.events": Operation(
        {200: task_answers.TaskEvent, 204: None},
        errors=(404, 410),
        asks=("Last-Event-ID",),
        tells={200: _RATES, 204: _RATES},
    ),
    "streams.socket": Operation({101: None}, errors=(404, 410, 426), tells={101: ("Upgrade", *_RATES)}),
    "progress.post_progress": Operation(
        {204: None}, body=progress.ProgressIn, query=answers.ProgressLink, errors=(403, 404, 409, 410)
    ),
    "results.post_result": Operation(
        {204: None}, body=results.ResultIn, query=answers.ResultLink, errors=(403, 404, 409)
    ),
    "stats.list_model_stat": Operation({200: answers.ModelDays}, body=stats.ModelDaysIn),
    "stats.list_biz_stat": Operation({200: answers.BizDays}, body=stats.BizDaysIn),
    "actions.list_action_log": Operation({200: rule_answers.TryList}, body=actions.ActionLogSearch),
    "oplog.list_op_log": Operation({200: answers.OpList}, body=oplog.OpSearch),
    "workers.list_worker": Operation({200: answers.WorkerList}),
    "tenants.get_tenant": Operation({200: answers.TenantTold}, query=tenants.WhichTenant),
    "tenants.update_tenant": Operation({200: answers.TenantTold}, body=tenants.TenantChanges),
    "services.update_service": Operation({200: answers.ServiceTold}, body=services.ServiceChange),
    "services.list_service": Operation({200: answers.ServiceList}, body=services.ServiceSearch),
    "rules.create_pre_action": Operation({200: rule_answers.RuleVersion}, body=rule_bodies.NewRule, errors=(409,)),
    "rules.update_pre_action": Operation(
        {200: rule_answers.RuleVersion}, body=rule_bodies.RuleChanges, errors=(404, 409)
    ),
    "rules.delete_pre_action": Operation({200: rule_answers.RuleId}, query=rule_bodies.WhichRule, errors=(404, 409)),
    "rules.get_pre_action": Operation({200: rule_answers.RuleTold}, query=rule_bodies.WhichRule, errors=(404,)),
    "rules.list_pre_action": Operation({200: rule_answers.RuleList}, body=rule_bodies.RuleSearch),
    "rules.test_pre_action": Operation({200: rule_answers.RulesJudged}, body=rule_bodies.RuleTest, errors=(404,)),
    "rules.rollback": Operation({200: rule_answers.RuleVersion}, body=rule_bodies.WhichVersion, errors=(404, 409)),
    "webhooks.rotate_secret": Operation({200: answers.Secret}),
    "webhooks.list_delivery": Operation({200: task_answers.DeliveryList}, body=webhooks.DeliveriesIn),
    "webhooks.redeliver": Operation({202: answers.DeliveryId}, errors=(404,)),
    "webhooks.test_delivery": Operation({202: answers.DeliveryId}, body=webhooks.TestIn),
    "uploads.upload": Operation(
        {200: file_answers.Taken}, body=file_answers.Form, errors=(404, 507), tells={200: _RATES}
    ),
    "uploads.upload_progress": Operation({200: file_answers.UploadTold}, errors=(404,), tells={200: _RATES}),
    "uploads.list_uploads": Operation({200: file_answers.UploadList}, query=uploads.PageOf, tells={200: _RATES}),
    "uploads.upload_socket": Operation({101: None}, errors=(404, 426), tells={101: ("Upgrade", *_RATES)}),
    "uploads.presign": Operation({200: file_answers.Invited}, body=uploads.Wanted, errors=(409,), tells={200: _RATES}),
    "uploads.confirm": Operation({200: file_answers.Taken}, body=uploads.Confirmed, errors=(404, 409)),
    "uploads.file_document": Operation({200: file_answers.FileAlone}, errors=(404,), tells={200: _RATES}),
    "tus.tus_options": Operation({204: None}, tells={204: _ABLE}),
    "tus.upload_options": Operation({204: None}, errors=(404,), tells={204: _ABLE}),
    "tus.create_upload": Operation(
        {201: None},
        body=f"{_PIECE}?",
        errors=(409, 410, 412, 415, 460, 507),
        asks=(f"{_VERSION}!", "Upload-Length!", "Upload-Metadata", "Upload-Checksum"),
        tells={201: ("Location", *_WHERE, *_RATES)},
    ),
    "tus.head_upload": Operation(
        {200: None},
        errors=(404, 410, 412, 507),
        asks=(f"{_VERSION}!",),
        tells={200: ("Upload-Length", "Upload-Metadata?", *_WHERE)},
    ),
    "tus.patch_upload": Operation(
        {204: None},
        body=_PIECE,
        errors=_OF_PIECES,
        asks=(f"{_VERSION}!", "Upload-Offset!", "Upload-Checksum"),
        tells={204: _WHERE},
    ),
    "tus.delete_upload": Operation(
        {204: None}, errors=(404, 409, 410, 412), asks=(f"{_VERSION}!",), tells={204: (_VERSION,)}
    ),
    "tus.override_upload": Operation(
        {204: None},
        body=f"{_PIECE}?",
        errors=_OF_PIECES,
        asks=(f"{_VERSION}!", "X-HTTP-Method-Override!", "Upload-Offset", "Upload-Checksum"),
        tells={204: ("Upload-Offset?", "Upload-Expires?", _VERSION)},
    ),
}
