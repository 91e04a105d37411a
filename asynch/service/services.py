"""Limits of services that many tenants' models share: set and listed by admins, each change with its op log row."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from asynch import db
from asynch.db import Pool
from asynch.domain import bindings
from asynch.domain.principal import Caller, Principal
from asynch.errors import InvalidInput, Mistake
from asynch.store import limits as store
from asynch.store.limits import Service
from asynch.store.oplog import Operation, insert_op_logs


@dataclass(frozen=True, slots=True)
class Services:
    """The use cases and the database they work on."""

    pool: Pool
    log_payloads: bool

    def update(self, caller: Caller, base_url: str, *, max_concurrency: int) -> Service:
        """Limit the calls to a base URL; 0 is no limit. Forbidden unless an admin asks, InvalidInput for no URL."""
        caller.principal.expect_admin()
        try:
            bindings.check_base_url(base_url)
        except ValueError as exc:
            raise InvalidInput([Mistake("#/baseUrl", str(exc))]) from exc
        request = orjson.dumps({"baseUrl": base_url, "maxConcurrency": max_concurrency}).decode()
        with db.transaction(self.pool) as conn:
            service = store.put_service(conn, base_url, max_concurrency=max_concurrency, updater=caller.principal.user)
            insert_op_logs(conn, caller, "updateService", [Operation(request=request if self.log_payloads else "")])
        return service

    def search(self, asker: Principal, *, base_url: str | None, limit: int, offset: int) -> tuple[list[Service], int]:
        """A page, newest first, and how many there are. Forbidden as `update`."""
        asker.expect_admin()
        with db.connection(self.pool) as conn:
            return store.list_services(conn, base_url=base_url, limit=limit, offset=offset)
