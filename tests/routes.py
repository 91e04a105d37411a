"""Every route of the API with a request for it, and callers of two tenants and two roles who make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import requests

from asynch import db
from asynch.service import keys
from tests.live import Live

OWN, OTHER = 7, 8
OFTEN = {"per_tenant_rate": "0"}  #: each request has an upload of its own
HERE = "http://127.0.0.1:9"
_numbers = count()


@dataclass(frozen=True)
class Things:
    """A tenant's own, fresh for each request."""

    model: str  #: id of a model
    name: str  #: its name
    task: str  #: id of a task of it
    new: str  #: a name that is not taken
    upload: str  #: id of an upload


#: a request about such things: path with its query, and body
Request = Callable[[Things], tuple[str, Any]]
#: what is to be seen in an answer besides its status
Look = Callable[[Any], bool]


@dataclass(frozen=True)
class Row:
    """What a route answers: to a user and an admin of the tenant, and to both of another tenant that names its things.

    `foreign` is None where nothing of a tenant is named: then the callers of the other tenant are not asked. A foreign
    thing is 404, never 403; lists are 200 and `unseen` says that nothing of it is in the answer.
    """

    request: Request
    user: int
    admin: int
    foreign: int | None = None
    unseen: Look = lambda _: True
    manages: bool = False  #: changes models: for admins alone without users_manage_models
    nobody: int = 401
    headers: Mapping[str, str] = field(default_factory=dict)


def bare(path: str, body: Any = None) -> Request:
    return lambda _: (path, body)


def empty(told: Any) -> bool:
    return bool(told["list"] == [])


MODEL = {"baseUrl": HERE}
RULE = {"executeMode": 3, "targetUrl": "video.cover"}
TUS = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}

#: THE table. A new route gets a line here: a request about a tenant's things, the status for its user and its admin,
#: and for callers of another tenant (404 for a single thing; 200 and `unseen` for a list).
ROUTES: dict[str, Row] = {
    "GET /healthz": Row(bare("/healthz"), 200, 200, nobody=200),
    "GET /readyz": Row(bare("/readyz"), 200, 200, nobody=200),
    "GET /metrics": Row(bare("/metrics"), 403, 200),
    "GET /openapi.json": Row(bare("/openapi.json"), 200, 200, nobody=200),
    "GET /docs": Row(bare("/docs"), 200, 200, nobody=200),
    "GET /upload": Row(bare("/upload"), 200, 200, nobody=200),
    "GET /upload/assets/<string:name>": Row(bare("/upload/assets/page.js"), 200, 200, nobody=200),
    "GET /files/<path:key>": Row(bare("/files/7/no-such-file"), 403, 403, nobody=403),  # a signed link or nothing
    "POST /model/createModel": Row(
        lambda t: ("/model/createModel", {"modelName": t.new, **MODEL}), 200, 200, manages=True
    ),
    "PUT /model/updateModel": Row(
        lambda t: ("/model/updateModel", {"id": t.model, "remark": "x"}), 200, 200, 404, manages=True
    ),
    "DELETE /model/deleteModel": Row(
        lambda t: (f"/model/deleteModel?id={t.model}&force=true", None), 200, 200, 404, manages=True
    ),
    "GET /model/getModel": Row(lambda t: (f"/model/getModel?id={t.model}", None), 200, 200, 404),
    "POST /model/listModel": Row(lambda t: ("/model/listModel", {"modelName": t.name}), 200, 200, 200, empty),
    "POST /model/testModel": Row(lambda t: ("/model/testModel", {"id": t.model}), 200, 200, 404),
    "POST /task/createTask": Row(lambda t: ("/task/createTask", {"modelName": t.name}), 202, 202, 404),
    "POST /task/createTaskBatch": Row(
        lambda t: ("/task/createTaskBatch", {"tasks": [{"modelName": t.name}]}), 202, 202, 202,
        lambda told: bool(told["list"][0]["error"]["code"] == "model_not_found"),
    ),
    "POST /task/getTaskBatch": Row(lambda t: ("/task/getTaskBatch", {"taskIds": [t.task]}), 200, 200, 200, empty),
    "GET /task/getTaskResult": Row(lambda t: (f"/task/getTaskResult?taskId={t.task}", None), 200, 200, 404),
    "POST /task/listTask": Row(lambda t: ("/task/listTask", {"taskId": t.task}), 200, 200, 200, empty),
    "GET /task/<id:task_id>": Row(lambda t: (f"/task/{t.task}", None), 200, 200, 404),
    "GET /task/<id:task_id>/result": Row(lambda t: (f"/task/{t.task}/result", None), 202, 202, 404),
    "GET /task/<id:task_id>/events": Row(lambda t: (f"/task/{t.task}/events", None), 200, 200, 404),
    "GET /task/<id:task_id>/ws": Row(lambda t: (f"/task/{t.task}/ws", None), 426, 426, 426),  # no WebSocket, so no look yet
    "POST /task/<id:task_id>/cancel": Row(lambda t: (f"/task/{t.task}/cancel", None), 200, 200, 404),
    "POST /task/<id:task_id>/retry": Row(lambda t: (f"/task/{t.task}/retry", None), 409, 409, 404),
    "POST /task/cancelBatch": Row(lambda t: ("/task/cancelBatch", {"taskIds": [t.task]}), 200, 200, 200, empty),
    "POST /task/retryBatch": Row(lambda t: ("/task/retryBatch", {"taskIds": [t.task]}), 200, 200, 200, empty),
    "POST /stat/listModelStat": Row(lambda t: ("/stat/listModelStat", {"modelName": t.name}), 200, 200, 200, empty),
    "POST /stat/listBizStat": Row(lambda t: ("/stat/listBizStat", {"bizName": t.name}), 200, 200, 200, empty),
    "POST /preAction/listActionLog": Row(bare("/preAction/listActionLog", {}), 403, 200),
    "POST /opLog/listOpLog": Row(bare("/opLog/listOpLog", {}), 403, 200),
    "GET /worker/listWorker": Row(bare("/worker/listWorker"), 403, 200),
    "GET /tenant/getTenant": Row(bare("/tenant/getTenant"), 403, 200),
    "POST /task/<id:task_id>/progress": Row(
        lambda t: (f"/task/{t.task}/progress?token=no", {"progress": 1}), 403, 403, nobody=403  # a signed link or nothing
    ),
    "PUT /service/updateService": Row(
        lambda t: ("/service/updateService", {"baseUrl": "http://127.0.0.1:9", "maxConcurrency": 1}), 403, 200
    ),
    "POST /service/listService": Row(lambda t: ("/service/listService", {}), 403, 200),
    "POST /webhook/rotateSecret": Row(bare("/webhook/rotateSecret"), 403, 200),
    "POST /webhook/listDelivery": Row(bare("/webhook/listDelivery", {}), 403, 200),
    "POST /webhook/<id:delivery_id>/redeliver": Row(bare("/webhook/1/redeliver"), 403, 404),
    "POST /webhook/testDelivery": Row(bare("/webhook/testDelivery", {"callbackUrl": HERE}), 403, 202),
    "POST /api/file/upload": Row(bare("/api/file/upload", {}), 415, 415),  # a form, which test_uploads sends
    "POST /action/<id:action_id>/result": Row(
        lambda t: (f"/action/{t.task}/result?signature=no", {"success": True}), 403, 403, nobody=403  # likewise
    ),
    "GET /api/file/upload/progress/<id:task_id>": Row(
        lambda t: (f"/api/file/upload/progress/{t.upload}", None), 200, 200, 404
    ),
    "GET /api/file/upload/tasks": Row(
        bare("/api/file/upload/tasks"), 200, 200, 200, lambda told: bool(told["tasks"] == [])
    ),
    "GET /api/file/upload/ws/<id:task_id>": Row(
        lambda t: (f"/api/file/upload/ws/{t.upload}", None), 426, 426, 426  # no WebSocket, so no look yet
    ),
    "POST /api/file/presign": Row(
        bare("/api/file/presign", {"name": "a.png", "size": 1, "content_type": "image/png"}), 200, 200
    ),
    "POST /api/file/confirm": Row(bare("/api/file/confirm", {"file_name": "7/direct/1"}), 404, 404),
    "PUT /files/<path:key>": Row(bare("/files/7/direct/1"), 403, 403, nobody=403),  # a signed link or nothing
    "OPTIONS /api/file/tus": Row(bare("/api/file/tus"), 204, 204),
    "OPTIONS /api/file/tus/<id:upload_id>": Row(lambda t: (f"/api/file/tus/{t.upload}", None), 204, 204),
    "POST /api/file/tus": Row(bare("/api/file/tus"), 201, 201, headers={**TUS, "Upload-Length": "5"}),
    "HEAD /api/file/tus/<id:upload_id>": Row(
        lambda t: (f"/api/file/tus/{t.upload}", None), 200, 200, 404, headers=TUS
    ),
    "PATCH /api/file/tus/<id:upload_id>": Row(  # of an upload whose bytes are all there
        lambda t: (f"/api/file/tus/{t.upload}", {}), 409, 409, 404, headers=TUS
    ),
    "POST /api/file/tus/<id:upload_id>": Row(
        lambda t: (f"/api/file/tus/{t.upload}", {}), 409, 409, 404, headers={**TUS, "X-HTTP-Method-Override": "PATCH"}
    ),
    "DELETE /api/file/tus/<id:upload_id>": Row(
        lambda t: (f"/api/file/tus/{t.upload}", None), 409, 409, 404, headers=TUS
    ),
    "GET /api/file/<id:identity>": Row(bare("/api/file/1"), 404, 404, 404),
    "POST /preAction/createPreAction": Row(lambda t: ("/preAction/createPreAction", {"actionName": t.new, **RULE}), 403, 200),
    "PUT /preAction/updatePreAction": Row(bare("/preAction/updatePreAction", {"id": 1}), 403, 404),
    "DELETE /preAction/deletePreAction": Row(bare("/preAction/deletePreAction?id=1"), 403, 404),
    "GET /preAction/getPreAction": Row(bare("/preAction/getPreAction?id=1"), 403, 404),
    "POST /preAction/listPreAction": Row(bare("/preAction/listPreAction", {}), 403, 200),
    "POST /preAction/testPreAction": Row(bare("/preAction/testPreAction", {"file": {}}), 403, 200),
    "POST /preAction/rollback": Row(bare("/preAction/rollback", {"id": 1, "version": 1}), 403, 404),
    "PUT /tenant/updateTenant": Row(bare("/tenant/updateTenant", {"queueLimit": 0}), 403, 200),
}  # fmt: skip

#: where an admin, and nobody else, may name another tenant
NAMING = {
    "POST /model/listModel", "POST /task/listTask", "POST /stat/listModelStat", "POST /stat/listBizStat",
    "POST /preAction/listActionLog", "POST /opLog/listOpLog", "POST /webhook/listDelivery", "PUT /tenant/updateTenant", "POST /preAction/listPreAction",
}  # fmt: skip


@dataclass(frozen=True)
class Cast:
    """A server in mode apikey and its callers, by tenant and role."""

    live: Live
    tokens: dict[tuple[int, str], str]

    def send(self, who: tuple[int, str] | None, route: str, things: Things, **more: Any) -> requests.Response:
        method = route.split()[0]
        path, body = ROUTES[route].request(things)
        # a proxy on this machine, so that /metrics takes its callers for strangers
        headers = {"X-Forwarded-For": "192.0.2.1", **ROUTES[route].headers}
        if who is not None:
            headers["Authorization"] = f"Bearer {self.tokens[who]}"
        return self.live.call(method, path, body if not more else {**body, **more}, headers=headers)

    def things(self) -> Things:
        """A model and a waiting task of the own tenant."""
        name, headers = f"m{next(_numbers)}", {"Authorization": f"Bearer {self.tokens[OWN, 'admin']}"}
        made = self.live.call("POST", "/model/createModel", {"modelName": name, **MODEL}, headers=headers).json()
        task = {"modelName": name, "bizName": name}
        created = self.live.call("POST", "/task/createTask", task, headers=headers).json()
        form = {"file": ("a.txt", f"{name} is here")}
        sent = self.live.session.post(f"{self.live.url}/api/file/upload", files=form, headers=headers).json()
        return Things(made["id"], name, created["taskId"], f"n{next(_numbers)}", sent["task_id"])


def cast_on(live: Live, pool: db.Pool) -> Cast:
    tokens = {
        (tenant, role): keys.create_key(pool, tenant, role, admin=role == "admin")[1]
        for tenant in (OWN, OTHER)
        for role in ("user", "admin")
    }
    return Cast(live, tokens)
