"""Where a success leads, by endpoint: OpenAPI's links, for programs that go on from an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Link:
    """An operation, and where what it takes stands in the request or the answer."""

    to: str  #: endpoint
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


def _of_task(task_id: str, *endpoints: str) -> tuple[Link, ...]:
    return tuple(Link(endpoint, {"taskId": task_id}) for endpoint in endpoints)


def _of_upload(task_id: str) -> tuple[Link, ...]:
    return _of_task(task_id, "uploads.upload_progress", "uploads.upload_socket")


_ID, _FIRST_ID = "$response.body#/id", "$response.body#/list/0/id"
_TASK_ID, _FIRST_TASK_ID = "$response.body#/taskId", "$response.body#/list/0/taskId"

_LOOK = ("tasks.task_status", "tasks.task_result", "tasks.get_task_result", "streams.events", "streams.socket")
_TASK = (*_of_task(_TASK_ID, *_LOOK, "tasks.cancel_task"), Link("tasks.get_task_batch", body={"taskIds": [_TASK_ID]}))
_MODEL = (
    Link("models.get_model", {"id": _ID}),
    Link("models.update_model", body={"id": _ID}),
    Link("models.delete_model", {"id": _ID}),
    Link("models.test_model", body={"id": _ID}),
)
_RULE = (
    Link("rules.get_pre_action", {"id": _ID}),
    Link("rules.update_pre_action", body={"id": _ID}),
    Link("rules.rollback", body={"id": _ID, "version": "$response.body#/version"}),
)

LINKS: Mapping[str, tuple[Link, ...]] = {
    "models.create_model": (*_MODEL, Link("tasks.create_task", body={"modelName": "$request.body#/modelName"})),
    "models.update_model": _MODEL,
    "models.get_model": (*_MODEL, Link("tasks.create_task", body={"modelName": "$response.body#/modelName"})),
    "models.list_model": (Link("models.get_model", {"id": _FIRST_ID}),),
    "tasks.create_task": _TASK,
    "tasks.create_task_batch": _of_task(_FIRST_TASK_ID, *_LOOK, "tasks.cancel_task"),
    "tasks.get_task_batch": _of_task(_FIRST_TASK_ID, "tasks.task_status", "tasks.task_result"),
    "tasks.get_task_result": _TASK,
    "tasks.list_task": _of_task(_FIRST_TASK_ID, *_LOOK),
    "tasks.task_status": _TASK,
    "tasks.task_result": _TASK,
    "tasks.cancel_task": _of_task(_TASK_ID, "tasks.task_status", "tasks.retry_task"),
    "tasks.retry_task": _TASK,
    "uploads.upload": _of_upload("$response.body#/task_id"),
    "uploads.upload_progress": (Link("uploads.file_document", {"identity": "$response.body#/repository_id"}),),
    "uploads.list_uploads": _of_upload("$response.body#/tasks/0/task_id"),
    "uploads.presign": (Link("uploads.confirm", body={"file_name": "$response.body#/file_name"}),),
    "uploads.confirm": _of_upload("$response.body#/task_id"),
    "uploads.file_document": (Link("uploads.file_document", {"identity": "$response.body#/identity"}),),
    "rules.create_pre_action": _RULE,
    "rules.update_pre_action": _RULE,
    "rules.get_pre_action": _RULE,
    "rules.list_pre_action": (Link("rules.get_pre_action", {"id": _FIRST_ID}),),
    "rules.test_pre_action": (Link("rules.get_pre_action", {"id": _FIRST_ID}),),
    "rules.rollback": _RULE,
    "webhooks.list_delivery": (Link("webhooks.redeliver", {"deliveryId": _FIRST_ID}),),
    "webhooks.redeliver": (Link("webhooks.redeliver", {"deliveryId": _ID}),),
    "webhooks.test_delivery": (Link("webhooks.redeliver", {"deliveryId": _ID}),),
}
