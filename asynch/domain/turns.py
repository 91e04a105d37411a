"""Whose turn it is: deals free threads out by tenant, then by lane, so that no backlog can buy more turns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Seat:
    """A lane that could run more here: `room` calls at most."""

    lane_id: int
    tenant_id: int
    room: int


def deal(
    seats: Iterable[Seat], budget: int, *, served: Mapping[tuple[str, int], int], per_tenant: int | None = None
) -> dict[int, int]:
    """How many calls each lane may start, `budget` in all and at most `per_tenant` a tenant.

    `served` tells when ("tenant", id) and ("lane", id) had their last turn, in any rising count: who waited longest
    comes first. One call a turn, so the order of seats decides nothing.
    """
    lanes: dict[int, list[Seat]] = defaultdict(list)
    for seat in seats:
        if seat.room > 0:
            lanes[seat.tenant_id].append(seat)
    for of_tenant in lanes.values():
        of_tenant.sort(key=lambda s: served.get(("lane", s.lane_id), 0))
    queue = sorted(lanes, key=lambda t: served.get(("tenant", t), 0))
    left = dict.fromkeys(queue, per_tenant if per_tenant is not None else budget)
    dealt: dict[int, int] = {}
    while budget > 0 and queue:
        still = []
        for tenant in queue:
            if budget == 0:
                break
            seat = lanes[tenant].pop(0)
            dealt[seat.lane_id] = dealt.get(seat.lane_id, 0) + 1
            budget -= 1
            left[tenant] -= 1
            if dealt[seat.lane_id] < seat.room:
                lanes[tenant].append(seat)
            if lanes[tenant] and left[tenant] > 0:
                still.append(tenant)
        queue = still
    return dealt
