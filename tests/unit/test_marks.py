"""Marks: where claims begin, and when a lane is looked at from its beginning."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from asynch.store.queue import Claim
from asynch.worker import marks
from asynch.worker.marks import Marks
from tests.rows import a_claim

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
COST_S = 0.2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(marks, "monotonic", lambda: now[0])
    return now


def claimed(at_s: float, *, rank: int = 19, lane_id: int = 1) -> Claim:
    """A claim of a task enqueued so many seconds after noon."""
    return a_claim(lane_id=lane_id, rank=rank, claimed_at=NOON + timedelta(seconds=at_s + 5), waited_s=5.0)


def ask(
    known: Marks, *claims: Claim, wanted: int = 1, lane: int = 1, took_s: float = COST_S
) -> tuple[dict[int, float], set[int]]:
    """One claim of a lane: where it began (rank -> seconds after noon), and which lanes it should look at again."""
    starts = known.starts([lane])
    again = known.learn({lane: wanted}, starts, claims, took_s=took_s)
    return {rank: (at - NOON).total_seconds() for rank, at in starts[lane].items()}, again


def test_a_lane_is_first_looked_at_from_its_beginning(clock: list[float]) -> None:
    assert ask(Marks()) == ({}, set())


def test_the_next_claim_begins_a_little_before_the_last_task_of_each_rank(clock: list[float]) -> None:
    known = Marks()
    ask(known, claimed(1), claimed(2), claimed(7, rank=3), wanted=3)

    assert ask(known, claimed(3))[0] == pytest.approx({19: 1.9, 3: 6.9})


def test_after_a_while_a_lane_is_looked_at_from_its_beginning_again(clock: list[float]) -> None:
    known = Marks()
    ask(known, claimed(1))
    clock[0] += 2 * COST_S
    assert ask(known, claimed(2))[0]
    clock[0] += 5 * COST_S + 1

    assert ask(known, claimed(3))[0] == {}


def test_looks_from_the_beginning_take_a_twentieth_of_the_time(clock: list[float]) -> None:
    known = Marks()
    ask(known, claimed(1))
    clock[0] += marks._WHOLE_S + 0.1
    assert ask(known, claimed(2))[0] == {}
    clock[0] += marks._WHOLE_S + 0.1
    assert ask(known, claimed(3))[0], "too soon after one that took long"
    clock[0] += 20 * COST_S

    assert ask(known, claimed(4))[0] == {}


def test_lanes_that_are_always_new_do_not_keep_the_others_from_their_turn(clock: list[float]) -> None:
    known = Marks()
    ask(known, claimed(1))
    for lane in range(2, 30):
        clock[0] += 0.1
        ask(known, claimed(1, lane_id=lane), lane=lane)

    assert ask(known)[0] == {}


def test_a_lane_with_too_few_tasks_is_looked_at_again_as_soon_as_there_is_time(clock: list[float]) -> None:
    known = Marks()
    ask(known, claimed(1))
    clock[0] += marks._WHOLE_S + 0.1
    ask(known, claimed(2), took_s=0.05)
    clock[0] += 0.9
    assert ask(known, wanted=2) == (pytest.approx({19: 1.9}), set())
    clock[0] += 0.2

    assert ask(known)[0] == {}


def test_a_lane_with_too_few_tasks_is_named_where_looks_are_cheap(clock: list[float]) -> None:
    known = Marks()
    starts = known.starts([1])
    known.learn({1: 1}, starts, [claimed(1)], took_s=0.001)
    clock[0] += 0.5
    starts = known.starts([1])

    assert known.learn({1: 2}, starts, [claimed(2)], took_s=0.001) == {1}
    assert known.starts([1]) == {1: {}}


def test_a_task_found_before_the_mark_moves_it_back(clock: list[float]) -> None:
    known = Marks()
    ask(known, claimed(9))
    clock[0] += 20 * COST_S
    ask(known, claimed(4))
    clock[0] += 0.1

    assert ask(known)[0] == pytest.approx({19: 3.9})


def test_lanes_have_marks_of_their_own(clock: list[float]) -> None:
    known = Marks()
    ask(known, claimed(5))

    assert ask(known, lane=2)[0] == {}


def test_a_lane_that_is_forgotten_begins_anew(clock: list[float]) -> None:
    known = Marks()
    ask(known, claimed(5))
    known.forget(1)

    assert ask(known)[0] == {}
