"""Tenants as rows: limits over all of a tenant's lanes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from asynch import db
from asynch.db import Connection, Row


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant's limits as they were set; 0 stands for the default of the installation."""

    tenant_id: int
    max_concurrency: int = 0
    queue_limit: int = 0
    updater: str = ""
    updated_at: datetime | None = None


def find_tenant(conn: Connection, tenant_id: int) -> Tenant | None:
    """A tenant's limits, None where nobody ever set any."""
    r = db.row(conn, "find_tenant", tenant_id=tenant_id)
    return _tenant(r) if r else None


def put_tenant(
    conn: Connection, tenant_id: int, *, updater: str, max_concurrency: int | None, queue_limit: int | None
) -> Tenant:
    """Set a tenant's limits, where None leaves one as it is; returns both."""
    limits = {"max_concurrency": max_concurrency, "queue_limit": queue_limit}
    return _tenant(db.one(conn, "put_tenant", tenant_id=tenant_id, updater=updater, **limits))


def lanes_of(conn: Connection, tenant_id: int) -> list[int]:
    """The living lanes of a tenant."""
    return [r["lane_id"] for r in db.rows(conn, "lanes_of_tenant", tenant_id=tenant_id)]


def _tenant(r: Row) -> Tenant:
    return Tenant(r["tenant_id"], r["max_concurrency"], r["queue_limit"], r["updater"], r["updated_at"])


def ensure_tenant(conn: Connection, tenant_id: int) -> None:
    """Give a tenant a row, and with it the lock key that its limit needs."""
    db.run(conn, "ensure_tenant", tenant_id=tenant_id)
