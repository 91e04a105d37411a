"""/preAction/listActionLog: what rules did, try by try."""

from __future__ import annotations

from typing import Any, Literal

from flask import Blueprint
from flask.typing import ResponseReturnValue

from asynch.db import Row
from asynch.service.reports import Reports
from asynch.store.actions import LogFilter
from asynch.web import parts
from asynch.web.auth import named_tenant, principal
from asynch.web.bodies import Body, Id, Page, TenantId, read_json

bp = Blueprint("actions", __name__, url_prefix="/preAction")


class ActionLogSearch(Body):
    """What to list of the tries."""

    page: Page = Page()
    rule_id: Id | None = None
    file_id: Id | None = None
    outcome: Literal["completed", "delivered", "failed"] | None = None
    tenant_id: TenantId | None = None


@bp.post("/listActionLog")
def list_action_log() -> ResponseReturnValue:
    """Each try of an action, newest first."""
    body = read_json(ActionLogSearch)
    found = Reports(parts().pool).tries(
        principal(),
        named_tenant(body.tenant_id),
        LogFilter(body.rule_id, body.file_id, body.outcome),
        limit=body.page.page_size,
        offset=body.page.offset,
    )
    return {"list": [_told(row) for row in found.rows], "total": found.total, "totalCapped": found.capped}


def _told(row: Row) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "createdAt": row["created_at"],
        "taskId": str(row["task_id"]),
        "fileId": str(row["file_id"]),
        "ruleId": str(row["rule_id"]),
        "version": row["version"],
        "actionName": row["action_name"],
        "attempt": row["attempt"],
        "outcome": row["outcome"],
        "seconds": row["seconds"],
        "errorMsg": row["error_msg"],
    }
