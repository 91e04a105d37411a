"""/tenant: what a tenant has over all of its models, for admins."""

from __future__ import annotations

from typing import Annotated, Any

from flask import Blueprint
from flask.typing import ResponseReturnValue
from pydantic import Field

from asynch.service.tenants import Tenants
from asynch.store.tenants import Tenant
from asynch.web import parts
from asynch.web.auth import caller, principal
from asynch.web.bodies import INT4_MAX, Body, TenantId, read_json, read_query

bp = Blueprint("tenants", __name__, url_prefix="/tenant")

Limit = Annotated[int, Field(ge=0, le=INT4_MAX)]


class WhichTenant(Body):
    """getTenant; without a tenantId the caller's own."""

    tenant_id: TenantId | None = None


class TenantChanges(WhichTenant):
    """updateTenant; null or absent stays as it is, 0 is the default of the installation."""

    max_concurrency: Limit | None = None
    queue_limit: Limit | None = None


def _tenants() -> Tenants:
    made_of = parts()
    return Tenants(made_of.pool, made_of.settings.op_log.payloads)


@bp.get("/getTenant")
def get_tenant() -> ResponseReturnValue:
    """A tenant's limits; zeros where nobody ever set any."""
    return _shown(_tenants().get(principal(), _named(read_query(WhichTenant))))


@bp.put("/updateTenant")
def update_tenant() -> ResponseReturnValue:
    """Change what is given; answers what holds from now on."""
    body = read_json(TenantChanges)
    tenant = _tenants().update(
        caller(), _named(body), max_concurrency=body.max_concurrency, queue_limit=body.queue_limit
    )
    return _shown(tenant)


def _named(asked: WhichTenant) -> int:
    return principal().tenant_id if asked.tenant_id is None else asked.tenant_id


def _shown(tenant: Tenant) -> dict[str, Any]:
    return {
        "tenantId": str(tenant.tenant_id),
        "maxConcurrency": tenant.max_concurrency,
        "queueLimit": tenant.queue_limit,
        "updater": tenant.updater,
        "updatedAt": tenant.updated_at,
    }
