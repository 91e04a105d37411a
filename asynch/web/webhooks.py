"""/webhook: the secret of a tenant's callbacks, and what became of their deliveries; for admins."""

from __future__ import annotations

from typing import Annotated, Any

from flask import Blueprint
from flask.typing import ResponseReturnValue
from pydantic import Field

from asynch.db import Row
from asynch.domain import callbacks
from asynch.domain.ids import number_of
from asynch.domain.states import State, status_of
from asynch.service.webhooks import Webhooks
from asynch.store.webhooks import DeliveryFilter
from asynch.web import parts
from asynch.web.auth import caller, named_tenant, principal
from asynch.web.bodies import Body, Page, TenantId, read_json
from asynch.web.task_bodies import CallbackUrl, TaskId

bp = Blueprint("webhooks", __name__, url_prefix="/webhook")


class TestIn(Body):
    """testDelivery."""

    callback_url: CallbackUrl


class DeliveriesIn(Body):
    """listDelivery; null and empty texts narrow nothing."""

    page: Page = Page()
    task_id: TaskId | None = None
    type: callbacks.Event | None = Field(None, strict=False)
    state: Annotated[int, Field(ge=0, le=5)] | None = None
    final: bool | None = None
    tenant_id: TenantId | None = None


@bp.before_request
def _admins_only() -> None:
    principal().expect_admin()


@bp.post("/rotateSecret")
def rotate_secret() -> ResponseReturnValue:
    """A new secret, told once; the former one signs too for a day."""
    secret = _webhooks().rotate_secret(caller())
    return {"secret": secret.text, "formerValidUntil": secret.former_until}


@bp.post("/listDelivery")
def list_delivery() -> ResponseReturnValue:
    """A page of deliveries, newest first, each with its attempts."""
    asked = read_json(DeliveriesIn)
    wanted = DeliveryFilter(number_of(asked.task_id) if asked.task_id else None, asked.type, asked.state, asked.final)
    found = _webhooks().search(
        named_tenant(asked.tenant_id), wanted, limit=asked.page.page_size, offset=asked.page.offset
    )
    return {"list": [_shown(row) for row in found.rows], "total": found.total, "totalCapped": found.capped}


@bp.post("/<id:delivery_id>/redeliver")
def redeliver(delivery_id: str) -> ResponseReturnValue:
    """The same message once more, now; 202 with the id of the new delivery."""
    return {"id": str(_webhooks().redeliver(caller(), number_of(delivery_id)))}, 202


@bp.post("/testDelivery")
def test_delivery() -> ResponseReturnValue:
    """A signed message to try a receiver with; 202 with the id of its delivery."""
    return {"id": str(_webhooks().test(caller(), read_json(TestIn).callback_url))}, 202


def _webhooks() -> Webhooks:
    return parts().webhooks


def _shown(row: Row) -> dict[str, Any]:
    code = row["error_code"]
    return {
        "id": str(row["id"]),
        "messageId": row["message_id"],
        "taskId": str(row["parent_id"]) if row["parent_id"] is not None else None,
        "type": row["biz_name"],
        "callbackUrl": row["input_ref"],
        "state": row["state"],
        "status": status_of(State(row["state"]), row["final"]),
        "final": row["final"],
        "attempt": row["attempt"],
        "nextAttemptAt": row["next_attempt_at"],
        "createdAt": row["created_at"],
        "finishedAt": row["finished_at"] if row["final"] else None,
        "error": {"code": code, "detail": row["error_msg"]} if code else None,
        "attempts": row["attempts"],
    }
