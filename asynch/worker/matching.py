"""Which calls the slots won allow: each needs one of its lane and one of every permit the lane has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from asynch.store.slots import Lane, Slot

#: What one call holds: a slot of its lane, and one of each permit the lane has.
Held: TypeAlias = tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Matched:
    """Sets of slots by lane, the slots that made none, and the lanes that want more of a lane or permit."""

    held: dict[int, list[Held]]
    unused: list[Slot]
    waiting: dict[int, set[int]]


def match(won: Sequence[Slot], wanted: Mapping[Lane, int]) -> Matched:
    """As many sets as `wanted` says of each lane, as far as the slots go; lane after lane in turns."""
    free: dict[int, list[Slot]] = defaultdict(list)
    for slot in won:
        free[slot.lane_id].append(slot)
    held: dict[int, list[Held]] = defaultdict(list)
    waiting: dict[int, set[int]] = defaultdict(set)
    turn = list(wanted)
    while turn:
        still = []
        for lane in turn:
            keys = [lane.lane_id, *(permit.id for permit in lane.permits)]
            if short := [key for key in keys if not free[key]]:
                for key in short:
                    waiting[key].add(lane.lane_id)
                continue
            held[lane.lane_id].append(tuple(free[key].pop() for key in keys))
            if len(held[lane.lane_id]) < wanted[lane]:
                still.append(lane)
        turn = still
    return Matched(dict(held), [slot for slots in free.values() for slot in slots], waiting)
