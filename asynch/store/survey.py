"""The whole queue at a glance, as /metrics tells it: every question reads a bounded number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asynch import db
from asynch.db import Connection, Row
from asynch.store.workers import FROZEN_S

#: Lanes that are told by name; the rest is one sum.
TOP_LANES = 20
#: Up to so many waiting tasks are counted: 10 ms on the machine where 1,000,000 took 90.
COUNTED = 50_000
#: Lanes times priorities whose oldest task is looked up in a deeper queue: 9,500 lanes of two took 90 ms.
_PROBES = 50_000
_LANE_COUNTED = 10_000
_SAMPLED_PAGES = 500
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in one lane."""

    tenant_id: int
    model_name: str
    depth: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """The deepest lanes, and all others together; `estimated` where there was too much to count."""

    lanes: Sequence[Backlog]
    other_depth: int
    other_oldest_s: float
    estimated: bool


@dataclass(frozen=True, slots=True)
class InHand:
    """What is neither waiting for its call nor final; 10,000 of each kind are counted at most."""

    calls: int
    uploads: int
    oldest_upload_s: float
    retries: int
    workers: int


@dataclass(frozen=True, slots=True)
class Locks:
    """Slots and the lock table they are entries of."""

    capacity: int
    held: int
    slots_configured: int
    slots_held: int


def waiting(conn: Connection) -> Waiting:
    """Who waits for a call, and since when."""
    found = db.rows(conn, "waiting_counted", most=COUNTED, top=TOP_LANES)
    if sum(r["depth"] for r in found) < COUNTED:
        return _waiting(found, estimated=False)
    return estimate_waiting(conn)


def estimate_waiting(conn: Connection) -> Waiting:
    """The same for a queue that is too deep to be counted."""
    size = db.one(conn, "queue_size")
    found = db.rows(
        conn,
        "waiting_estimated",
        probes=_PROBES,
        share=min(1.0, _SAMPLED_PAGES / size["pages"]),
        top=TOP_LANES,
        cap=_LANE_COUNTED,
    )
    return _waiting(found, estimated=True, total=max(COUNTED, size["waiting"]))


def _waiting(found: Sequence[Row], *, estimated: bool, total: int = 0) -> Waiting:
    """`total` counts the other lanes where the rows do not."""
    lanes = [
        Backlog(r["tenant_id"], r["model_name"], r["depth"], r["oldest_s"]) for r in found if r["tenant_id"] is not None
    ]
    other = next((r for r in found if r["tenant_id"] is None), None)
    uncounted = max(0, total - sum(lane.depth for lane in lanes))
    return Waiting(
        lanes,
        other_depth=max(uncounted, other["depth"]) if other else 0,
        other_oldest_s=other["oldest_s"] if other else 0.0,
        estimated=estimated,
    )


def in_hand(conn: Connection) -> InHand:
    """What runs, uploads and waits for a retry, and how many workers live."""
    return InHand(**db.one(conn, "in_hand", most=_MOST, silence_s=FROZEN_S))


def locks(conn: Connection) -> Locks:
    """How much of the lock table is taken, and by how many slots."""
    room, taken = db.one(conn, "lock_capacity"), db.one(conn, "locks_held")
    return Locks(room["capacity"], taken["held"], room["slots"], taken["slots"])


def oldest_snapshot_s(conn: Connection) -> float:
    """Age of the oldest transaction that keeps dead rows alive, 0 without one."""
    age: float = db.one(conn, "oldest_snapshot")["age_s"]
    return age
