"""Services shared by many lanes, and the breakers of services that fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from asynch import db
from asynch.db import Connection, Row


@dataclass(frozen=True, slots=True)
class Service:
    """A limit over all calls to one base URL, whichever tenants they are for; 0 is none."""

    base_url: str
    max_concurrency: int
    updater: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Breaker:
    """How a tenant's calls to a base URL went lately."""

    state: str = "closed"  #: closed | open | half_open
    calls: int = 0
    failures: int = 0
    open_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """When a breaker opens: `least` failures and a `share` of all calls within `window_s`; and for how long."""

    least: int = 20
    share: float = 0.5
    window_s: float = 60.0
    pause_s: float = 5.0  #: doubled with each failure after it
    longest_s: float = 60.0


def put_service(conn: Connection, base_url: str, *, max_concurrency: int, updater: str) -> Service:
    """Set a service's limit."""
    found = db.one(conn, "put_service", base_url=base_url, max_concurrency=max_concurrency, updater=updater)
    return _service(found)


def list_services(conn: Connection, *, base_url: str | None, limit: int, offset: int) -> tuple[list[Service], int]:
    """A page, newest first, and how many there are; `base_url` is contained in theirs."""
    found = db.rows(conn, "list_services", base_url=base_url, limit=limit, offset=offset)
    return [_service(r) for r in found], db.one(conn, "count_services", base_url=base_url)["total"]


def _service(r: Row) -> Service:
    return Service(r["base_url"], r["max_concurrency"], r["updater"], r["updated_at"])


def find_breaker(conn: Connection, *, tenant_id: int, base_url: str) -> Breaker:
    """The breaker of a tenant's calls to this URL; closed where none ever failed."""
    found = db.row(conn, "find_breaker", tenant_id=tenant_id, base_url=base_url)
    return Breaker(found["state"], found["calls"], found["failures"], found["open_until"]) if found else Breaker()


def tell_breakers(conn: Connection, told: Mapping[tuple[int, str], tuple[int, int]], rule: BreakerRule) -> None:
    """Add (calls, failures) by tenant and base URL."""
    db.run(
        conn,
        "tell_breakers",
        tenants=[tenant for tenant, _ in told],
        urls=[url for _, url in told],
        calls=[calls for calls, _ in told.values()],
        failures=[failures for _, failures in told.values()],
        least=rule.least,
        share=rule.share,
        window_s=rule.window_s,
        pause_s=rule.pause_s,
        longest_s=rule.longest_s,
    )
