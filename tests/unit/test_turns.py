"""Whose turn it is: threads are dealt out by tenant, then by lane, and no backlog buys more turns."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from asynch.domain.turns import Seat, deal

TENANTS = 5


@st.composite
def tables(draw: st.DrawFn) -> list[Seat]:
    """Seats with lanes of their own, in any order."""
    rooms = draw(st.lists(st.tuples(st.integers(1, TENANTS), st.integers(-2, 6)), max_size=25))
    return [Seat(lane_id, tenant, room) for lane_id, (tenant, room) in enumerate(rooms)]


budgets = st.integers(0, 40)
past = st.dictionaries(
    st.tuples(st.sampled_from(["tenant", "lane"]), st.integers(0, 25)), st.integers(1, 1000), max_size=30
)
caps = st.none() | st.integers(1, 4)


def by_tenant(seats: list[Seat], dealt: dict[int, int]) -> Counter[int]:
    tenants = {seat.lane_id: seat.tenant_id for seat in seats}
    count: Counter[int] = Counter()
    for lane, n in dealt.items():
        count[tenants[lane]] += n
    return count


@given(tables(), budgets, past, caps)
def test_nobody_gets_more_than_there_is(
    seats: list[Seat], budget: int, served: dict[tuple[str, int], int], cap: int | None
) -> None:
    dealt = deal(seats, budget, served=served, per_tenant=cap)

    assert sum(dealt.values()) <= budget
    assert all(0 < n <= seats[lane].room for lane, n in dealt.items())
    assert all(n <= (cap or budget) for n in by_tenant(seats, dealt).values())


@given(tables(), budgets, past, caps)
def test_nothing_is_kept_back_that_somebody_could_use(
    seats: list[Seat], budget: int, served: dict[tuple[str, int], int], cap: int | None
) -> None:
    room: Counter[int] = Counter()
    for seat in seats:
        room[seat.tenant_id] += max(0, seat.room)
    usable = sum(min(n, cap) if cap else n for n in room.values())

    assert sum(deal(seats, budget, served=served, per_tenant=cap).values()) == min(budget, usable)


@given(tables(), budgets, past)
def test_tenants_that_want_more_get_alike(seats: list[Seat], budget: int, served: dict[tuple[str, int], int]) -> None:
    got = by_tenant(seats, deal(seats, budget, served=served))
    room: Counter[int] = Counter()
    for seat in seats:
        room[seat.tenant_id] += max(0, seat.room)

    hungry = [got[tenant] for tenant in room if got[tenant] < room[tenant]]
    assert all(got[tenant] <= least + 1 for least in hungry for tenant in room)


@given(tables(), budgets, past)
def test_lanes_of_a_tenant_that_want_more_get_alike(
    seats: list[Seat], budget: int, served: dict[tuple[str, int], int]
) -> None:
    dealt = deal(seats, budget, served=served)

    for hungry in seats:
        if 0 <= dealt.get(hungry.lane_id, 0) < hungry.room:
            others = [s for s in seats if s.tenant_id == hungry.tenant_id]
            assert all(dealt.get(s.lane_id, 0) <= dealt.get(hungry.lane_id, 0) + 1 for s in others)


@given(tables(), budgets)
def test_the_order_of_the_seats_decides_nothing_between_those_served_at_different_times(
    seats: list[Seat], budget: int
) -> None:
    told = {
        **{("lane", s.lane_id): 10_000 + s.lane_id for s in seats},
        **{("tenant", t): t for t in range(TENANTS + 1)},
    }

    assert deal(seats[::-1], budget, served=told) == deal(seats, budget, served=told)


def test_the_tenant_that_waited_longest_comes_first() -> None:
    seats = [Seat(lane, tenant, 9) for lane, tenant in ((1, 1), (2, 2), (3, 3))]

    assert deal(seats, 1, served={("tenant", 1): 3, ("tenant", 2): 1, ("tenant", 3): 2}) == {2: 1}


def test_a_tenant_that_was_never_served_comes_before_all() -> None:
    seats = [Seat(1, 1, 9), Seat(2, 2, 9)]

    assert deal(seats, 1, served={("tenant", 1): 1}) == {2: 1}


def test_the_lane_that_waited_longest_comes_first_in_its_tenant() -> None:
    seats = [Seat(1, 1, 9), Seat(2, 1, 9)]

    assert deal(seats, 1, served={("lane", 1): 2, ("lane", 2): 1}) == {2: 1}


def test_a_thousand_lanes_buy_no_more_turns_than_one() -> None:
    seats = [Seat(lane, 1, 9) for lane in range(1000)] + [Seat(1000, 2, 9)]

    assert by_tenant(seats, deal(seats, 10, served={})) == {1: 5, 2: 5}


def test_turns_rotate_over_all_lanes_of_all_tenants() -> None:
    seats = [Seat(lane, lane % 3, 9) for lane in range(9)]
    served: dict[tuple[str, int], int] = {}
    turns: Counter[int] = Counter()
    for turn in range(1, 28):
        ((lane, _),) = deal(seats, 1, served=served).items()
        turns[lane] += 1
        served["lane", lane] = served["tenant", lane % 3] = turn

    assert turns == dict.fromkeys(range(9), 3)


def test_the_reserve_is_one_call_a_tenant() -> None:
    seats = [Seat(lane, lane % 3, 9) for lane in range(9)]

    assert by_tenant(seats, deal(seats, 8, served={}, per_tenant=1)) == {0: 1, 1: 1, 2: 1}


def test_without_a_budget_or_seats_nothing_is_dealt() -> None:
    assert deal([Seat(1, 1, 9)], 0, served={}) == {}
    assert deal([], 9, served={}) == {}


@given(tables(), budgets, past, caps, st.lists(st.integers(-1, 8), min_size=2, max_size=2))
def test_no_permit_is_dealt_more_often_than_it_allows(
    seats: list[Seat], budget: int, served: dict[tuple[str, int], int], cap: int | None, allowed: list[int]
) -> None:
    limited = [seat._replace(permits=tuple(p for p in (0, 1) if seat.lane_id & 1 << p)) for seat in seats]
    permits = dict(enumerate(allowed))
    dealt = deal(limited, budget, served=served, per_tenant=cap, permits=permits)

    used = Counter(p for seat in limited for p in seat.permits for _ in range(dealt.get(seat.lane_id, 0)))
    assert all(used[permit] <= max(0, most) for permit, most in permits.items())
    free = [seat for seat in limited if not seat.permits]
    assert deal(free, budget, served=served, per_tenant=cap) == deal(
        free, budget, served=served, per_tenant=cap, permits=permits
    )


def test_a_tenant_whose_permit_is_used_up_leaves_its_turns_to_others() -> None:
    seats = [Seat(1, 1, 9, (5,)), Seat(2, 1, 9, (5,)), Seat(3, 2, 9)]

    assert deal(seats, 6, served={}, permits={5: 2}) == {1: 1, 2: 1, 3: 4}
