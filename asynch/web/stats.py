"""/stat: how much was called and created, by day."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any

from flask import Blueprint
from flask.typing import ResponseReturnValue
from pydantic import BeforeValidator

from asynch.db import Row
from asynch.service.reports import Reports
from asynch.store.stats import StatFilter
from asynch.web import parts
from asynch.web.auth import named_tenant
from asynch.web.bodies import Body, Page, TenantId, Text, read_json

bp = Blueprint("stats", __name__, url_prefix="/stat")

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _day(value: object) -> object:
    """fromisoformat knows more forms of a day than the contract."""
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise ValueError("there is no such day") from None
    raise ValueError("expected a day as YYYY-MM-DD")


Day = Annotated[date, BeforeValidator(_day)]


class Days(Body):
    """What both lists are narrowed by; null and empty texts narrow nothing."""

    page: Page = Page()
    start_day: Day | None = None
    end_day: Day | None = None
    tenant_id: TenantId | None = None
    creator: Text | None = None

    def wanted(self, name: str | None) -> StatFilter:
        """As the service takes it."""
        return StatFilter(self.start_day, self.end_day, self.creator or None, name or None)


class ModelDaysIn(Days):
    """listModelStat."""

    model_name: Text | None = None


class BizDaysIn(Days):
    """listBizStat."""

    biz_name: Text | None = None


@bp.post("/listModelStat")
def list_model_stat() -> ResponseReturnValue:
    """Calls started a day, creator and model."""
    body = read_json(ModelDaysIn)
    found = Reports(parts().pool).model_stats(
        named_tenant(body.tenant_id),
        body.wanted(body.model_name),
        limit=body.page.page_size,
        offset=body.page.offset,
    )
    listed = [_counted(row) | {"modelName": row["model_name"]} for row in found.rows]
    return {"list": listed, "total": found.total, "totalCapped": found.capped}


@bp.post("/listBizStat")
def list_biz_stat() -> ResponseReturnValue:
    """Tasks created a day, creator and bizName."""
    body = read_json(BizDaysIn)
    found = Reports(parts().pool).biz_stats(
        named_tenant(body.tenant_id), body.wanted(body.biz_name), limit=body.page.page_size, offset=body.page.offset
    )
    listed = [_counted(row) | {"bizName": row["biz_name"]} for row in found.rows]
    return {"list": listed, "total": found.total, "totalCapped": found.capped}


def _counted(row: Row) -> dict[str, Any]:
    return {
        "day": row["day"].isoformat(),
        "tenantId": str(row["tenant_id"]),
        "creator": row["creator"],
        "requestCount": row["request_count"],
    }
