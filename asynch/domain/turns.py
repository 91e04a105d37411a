"""Whose turn it is: deals free threads out by tenant, then by lane, so that no backlog can buy more turns."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Seat(NamedTuple):
    """A lane that could run more here: `room` calls at most."""

    lane_id: int
    tenant_id: int
    room: int
    permits: tuple[int, ...] = ()  #: each allows a number of calls to all lanes that have it


def deal(
    seats: Iterable[Seat],
    budget: int,
    *,
    served: Mapping[tuple[str, int], int],
    per_tenant: int | None = None,
    permits: Mapping[int, int] | None = None,
) -> dict[int, int]:
    """How many calls each lane may start, `budget` in all, at most `per_tenant` a tenant and `permits` says of each.

    `served` tells when ("tenant", id) and ("lane", id) had their last turn, in any rising count: who waited longest
    comes first. One call a turn, so the order of seats decides nothing.
    """
    lanes: dict[int, list[Seat]] = defaultdict(list)
    for seat in seats:
        if seat.room > 0:
            lanes[seat.tenant_id].append(seat)
    turns = {
        tenant: deque(sorted(of_tenant, key=lambda seat: served.get(("lane", seat.lane_id), 0)))
        for tenant, of_tenant in lanes.items()
    }
    queue = sorted(turns, key=lambda tenant: served.get(("tenant", tenant), 0))
    left = dict.fromkeys(queue, per_tenant if per_tenant is not None else budget)
    allowed = dict(permits or {})
    dealt: dict[int, int] = {}
    while budget > 0 and queue:
        still = []
        for tenant in queue:
            if budget == 0:
                break
            turn = _next(turns[tenant], allowed)
            if turn is None:
                continue
            for permit in turn.permits:
                allowed[permit] -= 1
            dealt[turn.lane_id] = dealt.get(turn.lane_id, 0) + 1
            budget -= 1
            left[tenant] -= 1
            if dealt[turn.lane_id] < turn.room:
                turns[tenant].append(turn)
            if turns[tenant] and left[tenant] > 0:
                still.append(tenant)
        queue = still
    return dealt


def _next(seats: deque[Seat], allowed: Mapping[int, int]) -> Seat | None:
    """Take the first seat out that no permit keeps from running; those before it have had all their turns."""
    while seats:
        seat = seats.popleft()
        if not seat.permits or all(allowed[permit] > 0 for permit in seat.permits):
            return seat
    return None
