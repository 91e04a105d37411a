"""/service: how many calls a service may have at once, whichever tenants' models they are for; for admins."""

from __future__ import annotations

from typing import Annotated, Any

from flask import Blueprint
from flask.typing import ResponseReturnValue
from pydantic import Field

from asynch.service.services import Services
from asynch.store.limits import Service
from asynch.web import parts
from asynch.web.auth import caller, principal
from asynch.web.bodies import Body, Page, Text, read_json
from asynch.web.models import MOST_SLOTS, BaseUrl

bp = Blueprint("services", __name__, url_prefix="/service")


class ServiceChange(Body):
    """updateService."""

    base_url: BaseUrl
    max_concurrency: Annotated[int, Field(ge=0, le=MOST_SLOTS)]


class ServiceSearch(Body):
    """listService."""

    page: Page = Page()
    base_url: Text | None = None


def _services() -> Services:
    made_of = parts()
    return Services(made_of.pool, made_of.settings.op_log.payloads)


@bp.put("/updateService")
def update_service() -> ResponseReturnValue:
    """Limit the calls to a base URL; 0 takes the limit away."""
    body = read_json(ServiceChange)
    return _shown(_services().update(caller(), body.base_url, max_concurrency=body.max_concurrency))


@bp.post("/listService")
def list_service() -> ResponseReturnValue:
    """A page of the services that have, or had, a limit."""
    body = read_json(ServiceSearch)
    found, total = _services().search(
        principal(), base_url=body.base_url, limit=body.page.page_size, offset=body.page.offset
    )
    return {"list": [_shown(service) for service in found], "total": total}


def _shown(service: Service) -> dict[str, Any]:
    return {
        "baseUrl": service.base_url,
        "maxConcurrency": service.max_concurrency,
        "updater": service.updater,
        "updatedAt": service.updated_at,
    }
