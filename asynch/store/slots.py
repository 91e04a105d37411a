"""Lanes and slots, as claim sessions ask for them: where tasks wait, how many calls may start, and who died."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from asynch import db
from asynch.db import Connection, Row
from asynch.errors import SessionLost

#: Slots of a worker that ended abnormally are used again after this; a living one has cut its calls by then.
MOURNING_S = 1.0
#: A session that has not answered for this long is taken for lost, well before others take its slots.
SILENCE_S = 8.0
_MOST_TRIES = 2000
#: where no lane has a mark
_NONE: Mapping[int, Mapping[int, datetime]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Permit:
    """What calls of several lanes share, such as a tenant's limit: a lock key, and how many calls may hold it."""

    id: int
    most: int


@dataclass(frozen=True, slots=True)
class Lane:
    """What a round must know of a lane."""

    lane_id: int
    tenant_id: int
    max_concurrency: int
    permits: tuple[Permit, ...] = ()  #: a call holds one slot of each besides the lane's


@dataclass(frozen=True, slots=True)
class Slot:
    """One of the calls that a lane, or a permit of several lanes, allows: an advisory lock of the claim session."""

    lane_id: int
    slot: int


def by_rank(starts: Mapping[int, datetime]) -> str:
    """An array with a time or NULL for each rank."""
    times = (starts.get(rank) for rank in range(max(starts, default=-1) + 1))
    return "{" + ",".join(at.isoformat() if at else "NULL" for at in times) + "}"


def scan_lanes(
    conn: Connection,
    *,
    after: int,
    most: int,
    starts: Mapping[int, Mapping[int, datetime]] = _NONE,
    tenant_most: int = 0,
    tmp_host: str = "",
) -> tuple[list[Lane], int | None]:
    """The next open lanes with waiting tasks after a cursor, and the new cursor (None at the end).

    `starts` (lane -> rank -> time) leaves out what was enqueued before. `tenant_most` is how many calls a tenant may
    have that has no limit of its own; 0 any number.
    """
    found = db.rows(
        conn,
        "scan_lanes",
        after=after,
        most=most,
        known=list(starts),
        starts=[by_rank(of_lane) for of_lane in starts.values()],
        tenant_most=tenant_most,
        tmp_host=tmp_host,
    )
    cursor = found[-1]["lane_id"] if len(found) == most else None
    return [_lane(r) for r in found if r["open"]], cursor


def lanes_named(conn: Connection, lanes: Collection[int], *, tenant_most: int = 0, tmp_host: str = "") -> list[Lane]:
    """Those of the named lanes that exist and are open."""
    found = db.rows(conn, "lanes_named", lanes=list(lanes), tenant_most=tenant_most, tmp_host=tmp_host)
    return [_lane(r) for r in found if r["open"]]


def _lane(r: Row) -> Lane:
    permits = tuple(map(Permit, r["permits"], r["most"]))
    return Lane(r["lane_id"], r["tenant_id"], r["max_concurrency"], permits)


def tries(most: int, held: Collection[int] = ()) -> list[int]:
    """Every slot number but those `held`, in random order: fewer tries would miss the last free one."""
    free = [n for n in range(most) if n not in held]
    return random.sample(free, min(len(free), _MOST_TRIES))


def swap_slots(
    conn: Connection, *, give_back: Sequence[Slot], wants: Sequence[tuple[int, int, Sequence[int]]]
) -> list[Slot]:
    """Give slots back, then try to win others (lane, how many, in which order); returns those won.

    Raises SessionLost when a slot was not held: then this session is not what its owner believes.
    """
    found = db.rows(
        conn,
        "swap_slots",
        given_lanes=[s.lane_id for s in give_back],
        given_slots=[s.slot for s in give_back],
        lanes=[lane for lane, _, _ in wants],
        wants=[n for _, n, _ in wants],
        tries=["{" + ",".join(map(str, tries)) + "}" for _, _, tries in wants],
    )
    if found[0]["missing"]:
        raise SessionLost("a slot was given back that this session did not hold")
    return [Slot(r["lane_id"], r["slot"]) for r in found if r["lane_id"] is not None]


def own_slots(conn: Connection) -> set[Slot]:
    """The slots that this session holds, as the server knows them."""
    return {Slot(r["lane_id"], r["slot"]) for r in db.rows(conn, "own_slots")}


def find_dead(conn: Connection, *, worker_id: int) -> dict[int, bool]:
    """Workers whose own lock is free, and whether the time of mourning is over."""
    return {r["id"]: r["mourned"] for r in db.rows(conn, "find_dead", worker_id=worker_id, grace_s=MOURNING_S)}


def mark_dead(conn: Connection, workers: Collection[int]) -> None:
    """Note when these workers were first seen dead."""
    db.run(conn, "mark_dead", workers=list(workers))


def lanes_in_mourning(
    conn: Connection, workers: Collection[int], dead: Collection[int] = (), *, tenant_most: int = 0
) -> dict[int, int]:
    """How many calls of these workers may still be open, in each lane and under each permit that has any.

    Of all the `dead` those count whose model works on by itself.
    """
    everyone = sorted({*workers, *dead})
    found = db.rows(conn, "lanes_in_mourning", workers=list(workers), dead=everyone, tenant_most=tenant_most)
    return {r["id"]: r["calls"] for r in found}


def mourn(conn: Connection, dead: Mapping[int, bool], *, tenant_most: int = 0) -> dict[int, int]:
    """Note who of these is seen dead for the first time; what `lanes_in_mourning` says until their mourning is over."""
    fresh = [worker for worker, over in dead.items() if not over]
    mark_dead(conn, fresh)
    return lanes_in_mourning(conn, fresh, dead, tenant_most=tenant_most)


def polled_waiting(conn: Connection, lane_id: int) -> int:
    """How many tasks of a lane have a model that works on, and no worker that asks for the result."""
    waiting: int = db.one(conn, "polled_waiting", lane_id=lane_id)["waiting"]
    return waiting
