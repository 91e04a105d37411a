"""Which calls the slots won allow."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from asynch.store.slots import Lane, Permit, Slot
from asynch.worker.matching import match

PERMITS = [Permit(100 + n, 5) for n in range(3)]


@st.composite
def wants(draw: st.DrawFn) -> dict[Lane, int]:
    """Lanes, each with some of the permits, and how many calls each should start."""
    some = st.lists(st.sampled_from(PERMITS), unique=True).map(tuple)
    lanes = draw(st.lists(some, max_size=5))
    return {Lane(n, 1, 9, permits): draw(st.integers(1, 5)) for n, permits in enumerate(lanes)}


slots = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4, 100, 101, 102]), st.integers(0, 9)), unique=True).map(
    lambda pairs: [Slot(*pair) for pair in pairs]
)


@given(wants(), slots)
def test_each_call_has_a_slot_of_its_lane_and_of_each_permit(wanted: dict[Lane, int], won: list[Slot]) -> None:
    found = match(won, wanted)

    for lane in wanted:
        keys = [lane.lane_id, *(permit.id for permit in lane.permits)]
        assert all([slot.lane_id for slot in held] == keys for held in found.held.get(lane.lane_id, []))


@given(wants(), slots)
def test_every_slot_is_held_once_or_unused(wanted: dict[Lane, int], won: list[Slot]) -> None:
    found = match(won, wanted)

    held = [slot for sets in found.held.values() for slots in sets for slot in slots]
    assert Counter(held + found.unused) == Counter(won)


@given(wants(), slots)
def test_a_lane_that_got_less_lacks_something_that_is_all_used(wanted: dict[Lane, int], won: list[Slot]) -> None:
    found = match(won, wanted)

    left = {slot.lane_id for slot in found.unused}
    for lane, n in wanted.items():
        got = len(found.held.get(lane.lane_id, []))
        assert got <= n
        if got < n:
            lacking = [key for key, lanes in found.waiting.items() if lane.lane_id in lanes]
            assert lacking
            assert not left & set(lacking)


def test_lanes_under_one_permit_take_turns() -> None:
    (permit,) = PERMITS[:1]
    wanted = {Lane(n, 1, 9, (permit,)): 4 for n in range(2)}
    won = [Slot(key, n) for key in (0, 1, permit.id) for n in range(4)]

    assert {lane: len(sets) for lane, sets in match(won, wanted).held.items()} == {0: 2, 1: 2}
