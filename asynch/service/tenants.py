"""A tenant's limits over all of its lanes: read and changed by admins, each change with its op log row."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from asynch import db
from asynch.db import Pool
from asynch.domain.principal import Caller, Principal
from asynch.store import news
from asynch.store import tenants as store
from asynch.store.oplog import Operation, insert_op_logs
from asynch.store.tenants import Tenant


@dataclass(frozen=True, slots=True)
class Tenants:
    """The use cases and the database they work on."""

    pool: Pool
    log_payloads: bool

    def get(self, asker: Principal, tenant_id: int) -> Tenant:
        """A tenant's limits; any number is a tenant. Forbidden unless an admin asks."""
        asker.expect_admin()
        with db.connection(self.pool) as conn:
            return store.find_tenant(conn, tenant_id) or Tenant(tenant_id)

    def update(self, caller: Caller, tenant_id: int, *, max_concurrency: int | None, queue_limit: int | None) -> Tenant:
        """Change what is not None, and have the workers look at the tenant's lanes again. Forbidden as `get`."""
        caller.principal.expect_admin()
        asked = {"tenantId": str(tenant_id), "maxConcurrency": max_concurrency, "queueLimit": queue_limit}
        request = orjson.dumps({name: value for name, value in asked.items() if value is not None}).decode()
        with db.transaction(self.pool) as conn:
            tenant = store.put_tenant(
                conn,
                tenant_id,
                updater=caller.principal.user,
                max_concurrency=max_concurrency,
                queue_limit=queue_limit,
            )
            news.announce(conn, store.lanes_of(conn, tenant_id))
            insert_op_logs(conn, caller, "updateTenant", [Operation(request=request if self.log_payloads else "")])
        return tenant
