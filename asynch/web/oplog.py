"""/opLog: who did what, for admins."""

from __future__ import annotations

from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue

from asynch.db import Row
from asynch.service.reports import Reports
from asynch.store.oplog import OpFilter
from asynch.web import parts
from asynch.web.auth import named_tenant, principal
from asynch.web.bodies import Body, Flag, Page, TenantId, Text, read_json
from asynch.web.task_bodies import TaskId, Time

bp = Blueprint("oplog", __name__, url_prefix="/opLog")


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
