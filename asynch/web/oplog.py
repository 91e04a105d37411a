"""/opLog: who did what, for admins; and the note that somebody looked, where op_log.reads wants it."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Flask, Response, current_app, g, request
from flask.typing import ResponseReturnValue

from asynch.db import Row
from asynch.errors import DatabaseDown
from asynch.service.reports import Reports
from asynch.store.oplog import Operation, OpFilter
from asynch.web import Parts, parts
from asynch.web.auth import caller, named_tenant, principal
from asynch.web.bodies import Body, Flag, Page, TenantId, Text, read_json
from asynch.web.task_bodies import TaskId, Time

bp = Blueprint("oplog", __name__, url_prefix="/opLog")

#: Calls that only look or fetch; each is logged as its own name in camelCase.
LOOKS = frozenset(
    {
        *("models.get_model", "models.list_model"),
        *("tasks.task_status", "tasks.task_result", "tasks.get_task_batch", "tasks.get_task_result"),
        *("tasks.list_task", "streams.events", "streams.socket"),
        *("stats.list_model_stat", "stats.list_biz_stat", "oplog.list_op_log", "actions.list_action_log"),
        *("workers.list_worker", "tenants.get_tenant", "services.list_service", "webhooks.list_delivery"),
        *("rules.get_pre_action", "rules.list_pre_action", "rules.test_pre_action"),
        *("uploads.upload_progress", "uploads.list_uploads", "uploads.upload_socket", "uploads.file_document"),
    }
)


def register(app: Flask, made_of: Parts) -> None:
    """With op_log.reads have looks logged too, once it is known what came of them; what cannot be is not shown."""
    if made_of.settings.op_log.reads:
        app.after_request(_note_look)


def _note_look(response: Response) -> Response:
    endpoint, status = request.endpoint or "", response.status_code
    if endpoint not in LOOKS or "principal" not in g or status == 429 or status >= 500:
        return response  # who looked too often costs no query, and where nothing works nothing was seen
    first, *rest = endpoint.rpartition(".")[2].split("_")
    looked = Operation(
        task_id=str((request.view_args or {}).get("task_id", "")),
        success=status < 400,
        error=g.get("refusal", ""),
    )
    try:
        Reports(parts().pool).note_look(caller(), first + "".join(word.capitalize() for word in rest), looked)
    except DatabaseDown as exc:
        return current_app.make_response(current_app.handle_user_exception(exc))
    return response


class OpSearch(Body):
    """listOpLog; null and empty texts narrow nothing."""

    page: Page = Page()
    op_type: Text | None = None
    biz_name: Text | None = None
    model_name: Text | None = None
    task_id: TaskId | None = None
    creator: Text | None = None
    success: Flag | None = None
    created_from: Time | None = None
    created_to: Time | None = None
    tenant_id: TenantId | None = None

    def wanted(self) -> OpFilter:
        """As the service takes it."""
        return OpFilter(
            op_type=self.op_type or None,
            biz_name=self.biz_name or None,
            model_name=self.model_name or None,
            task_id=self.task_id or None,
            creator=self.creator or None,
            success=self.success,
            created_from=self.created_from,
            created_to=self.created_to,
        )


@bp.post("/listOpLog")
def list_op_log() -> ResponseReturnValue:
    """A page of the op log, newest first."""
    body = read_json(OpSearch)
    found = Reports(parts().pool).op_logs(
        principal(),
        named_tenant(body.tenant_id),
        body.wanted(),
        limit=body.page.page_size,
        offset=body.page.offset,
    )
    return {"list": [_shown(row) for row in found.rows], "total": found.total, "totalCapped": found.capped}


def _shown(row: Row) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "tenantId": str(row["tenant_id"]),
        "creator": row["creator"],
        "createdAt": row["created_at"],
        "ip": row["ip"],
        "userAgent": row["user_agent"],
        "apiPath": row["api_path"],
        "httpMethod": row["http_method"],
        "bizName": row["biz_name"],
        "modelName": row["model_name"],
        "taskId": row["task_id"],
        "opType": row["op_type"],
        "success": row["success"],
        "errorMsg": row["error_msg"],
        "costMs": row["cost_ms"],
        "requestPayload": row["request_payload"],
        "responsePayload": row["response_payload"],
    }
