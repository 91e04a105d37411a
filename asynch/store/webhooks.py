"""Callbacks as rows: receivers, which are lanes, the keys that messages are signed with, and deliveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from asynch import db
from asynch.db import Connection, Row
from asynch.domain import callbacks


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """What a list of deliveries may be narrowed by; None narrows nothing."""

    parent_id: int | None = None
    event: str | None = None
    state: int | None = None
    final: bool | None = None


def find_lanes(conn: Connection, *, tenant_id: int, names: Sequence[str]) -> dict[str, int]:
    """Lane by name, of those that are there."""
    found = db.rows(conn, "find_lanes", tenant_id=tenant_id, names=list(names))
    return {r["model_name"]: r["lane_id"] for r in found}


def count_receivers(conn: Connection, *, tenant_id: int, most: int) -> int:
    """How many a tenant has, counted no further than `most`."""
    known: int = db.one(conn, "count_receivers", tenant_id=tenant_id, most=most)["known"]
    return known


def insert_receivers(conn: Connection, *, tenant_id: int, base_urls: Mapping[str, str]) -> None:
    """Add lanes (name -> target); one that another transaction adds meanwhile is that one's."""
    db.run(
        conn,
        "insert_receivers",
        tenant_id=tenant_id,
        names=list(base_urls),
        base_urls=list(base_urls.values()),
        at_once=callbacks.AT_ONCE,
        timeout_s=callbacks.TIMEOUT_S,
        schedule=list(callbacks.SCHEDULE_S),
    )


def list_keys(conn: Connection, *, tenant_id: int) -> list[str]:
    """The sealed secrets that are valid now, the newest first."""
    return [r["secret"] for r in db.rows(conn, "list_webhook_keys", tenant_id=tenant_id)]


def insert_key(conn: Connection, *, tenant_id: int, creator: str, secret: str) -> bool:
    """Make this the current secret of a tenant; False when it has one, such as one that was made meanwhile."""
    return db.run(conn, "insert_webhook_key", tenant_id=tenant_id, creator=creator, secret=secret) > 0


def retire_keys(conn: Connection, *, tenant_id: int, valid_s: float) -> datetime | None:
    """Leave the current secret so much time; until when that is, None where there was none."""
    found = db.row(conn, "retire_webhook_keys", tenant_id=tenant_id, valid_s=valid_s)
    return found["expire_at"] if found else None


def notify_expiring(conn: Connection, *, most: int) -> list[int]:
    """Have it told of tasks that they are about to go; the lane of each."""
    return [r["lane_id"] for r in db.rows(conn, "notify_expiring", most=most)]


def insert_delivery(
    conn: Connection, *, lane_id: int, parent_id: int | None, creator: str, event: str, url: str, snapshot: str | None
) -> int:
    """Have something delivered that no task's end asks for; its id. Without a snapshot it tells of no task."""
    created: int = db.one(
        conn,
        "insert_delivery",
        lane_id=lane_id,
        parent_id=parent_id,
        creator=creator,
        event=event,
        url=url,
        snapshot=snapshot,
    )["id"]
    return created


def find_delivery(conn: Connection, *, tenant_id: int, delivery_id: int) -> Row | None:
    """What was to be delivered, and where."""
    return db.row(conn, "find_delivery", tenant_id=tenant_id, id=delivery_id)


def list_deliveries(
    conn: Connection, *, tenant_id: int, wanted: DeliveryFilter, limit: int, offset: int, cap: int
) -> tuple[list[Row], int]:
    """A page, newest first, and how many there are, counted no further than `cap`."""
    which: dict[str, Any] = {"tenant_id": tenant_id, **asdict(wanted)}
    page, count = db.pipelined(
        conn,
        [
            ("list_deliveries", {**which, "limit": limit, "offset": offset}),
            ("count_deliveries", {**which, "cap": cap}),
        ],
    )
    return page, count[0]["total"]
