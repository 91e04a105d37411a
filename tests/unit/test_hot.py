"""Lanes that may have work: each has its turn, however many there are, and nobody's crowd keeps another out."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from asynch.worker.hot import Hot

crowds = st.dictionaries(st.integers(1, 6), st.integers(1, 30), min_size=1)


def heated(lanes_by_tenant: dict[int, int]) -> Hot:
    """Tenant t with lanes 100 t, 100 t + 1 ..."""
    hot = Hot()
    for tenant, count in lanes_by_tenant.items():
        for n in range(count):
            hot.add(tenant, 100 * tenant + n)
    return hot


@given(crowds, st.integers(1, 20), st.integers(1, 20))
def test_every_lane_has_its_turn_before_nothing_is_unseen(crowd: dict[int, int], most: int, each: int) -> None:
    hot = heated(crowd)
    every = {100 * tenant + n for tenant, count in crowd.items() for n in range(count)}
    seen: set[int] = set()
    rounds = 0
    while not every <= seen:
        turn = hot.turn(most, each=each, busy=())
        assert turn
        assert len(set(turn)) == len(turn)
        assert len(turn) < most + each
        seen |= set(turn)
        rounds += 1
        assert rounds <= len(crowd) * 30


@given(crowds, st.integers(1, 20))
def test_as_long_as_something_is_unseen_the_turns_go_on_and_then_they_end(crowd: dict[int, int], most: int) -> None:
    hot = heated(crowd)
    hot.begin()
    rounds = 0
    while hot.is_unseen:
        hot.turn(most, each=5, busy=())
        rounds += 1
        assert rounds <= sum(crowd.values())
    hot.begin()
    assert hot.is_unseen


@given(st.integers(1, 40))
def test_a_tenant_with_a_crowd_leaves_the_others_their_turn(crowd: int) -> None:
    hot = heated({1: crowd, 2: 1, 3: 1})
    turns: Counter[int] = Counter()
    for _ in range(10):
        turns.update(lane // 100 for lane in hot.turn(4, each=2, busy=()))
    assert min(turns[2], turns[3]) >= 5


def test_busy_tenants_have_no_turn_and_are_not_waited_for() -> None:
    hot = heated({1: 5, 2: 2})
    hot.begin()
    assert sorted(hot.turn(10, each=10, busy={1})) == [200, 201]
    assert not hot.is_unseen


def test_what_is_dropped_has_no_turn_and_may_come_again() -> None:
    hot = heated({1: 2})
    hot.drop(1, 100)
    hot.drop(1, 100)
    hot.drop(9, 1)
    assert hot.turn(10, each=10, busy=()) == [101]
    hot.drop(1, 101)
    assert hot.turn(10, each=10, busy=()) == []
    assert not hot.is_unseen
    hot.add(1, 100)
    hot.add(1, 100)
    assert hot.turn(10, each=10, busy=()) == [100]
