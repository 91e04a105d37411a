"""The states of a task and the only moves between them, as data."""

from __future__ import annotations

import pytest

from asynch.domain.states import MOVES, Event, Move, State, status_of

#: (state, final): every place a task can be in
PLACES = [
    (State.PENDING, False),
    (State.RUNNING, False),
    (State.SUCCEEDED, True),
    (State.FAILED, False),
    (State.FAILED, True),
    (State.FETCHED, True),
    (State.CANCELLED, True),
]


def reachable(start: State, *, without: frozenset[Event] = frozenset()) -> set[State]:
    """The states that a task can get into."""
    found, todo = {start}, [start]
    while todo:
        here = todo.pop()
        for event, move in MOVES.items():
            if event not in without and here in move.sources and move.target is not None and move.target not in found:
                found.add(move.target)
                todo.append(move.target)
    return found


@pytest.mark.parametrize(
    ("state", "final", "status"),
    [
        (0, False, "pending"),
        (1, False, "processing"),
        (2, True, "completed"),
        (3, False, "pending"),
        (3, True, "failed"),
        (4, True, "completed"),
        (5, True, "cancelled"),
    ],
)
def test_clients_see_one_word_for_each_place(state: int, final: bool, status: str) -> None:
    assert status_of(State(state), final) == status


def test_there_are_no_other_places() -> None:
    assert {state for state, _ in PLACES} == set(State)


def test_every_event_has_its_move() -> None:
    assert set(MOVES) == set(Event)


def test_every_state_can_be_reached_from_the_start() -> None:
    assert reachable(State.PENDING) == set(State)


def test_every_state_can_be_left_for_good() -> None:
    leaving = MOVES[Event.PURGE].sources

    assert all(reachable(state) & leaving for state in State)


def test_a_move_ends_in_a_place_that_exists() -> None:
    ends = {(move.target, move.final) for move in MOVES.values() if move.target is not None}

    assert ends <= set(PLACES)


def test_only_a_purge_deletes() -> None:
    assert [event for event, move in MOVES.items() if move.target is None] == [Event.PURGE]


def test_what_runs_is_never_purged() -> None:
    assert not MOVES[Event.PURGE].sources & {State.PENDING, State.RUNNING}


def test_only_the_user_brings_back_what_is_cancelled() -> None:
    leaving = {event for event, move in MOVES.items() if State.CANCELLED in move.sources}

    assert leaving == {Event.RERUN, Event.PURGE}


def test_a_success_is_never_lost_again() -> None:
    assert reachable(State.SUCCEEDED) == {State.SUCCEEDED, State.FETCHED}


def test_a_fetched_result_stays_fetched() -> None:
    assert reachable(State.FETCHED) == {State.FETCHED}


def test_every_way_to_a_success_is_fenced() -> None:
    assert all(move.fenced for move in MOVES.values() if move.target is State.SUCCEEDED)


def test_only_what_runs_is_written_by_the_holder_of_a_claim() -> None:
    assert {move.sources for move in MOVES.values() if move.fenced} == {frozenset({State.RUNNING})}


def test_a_task_runs_only_by_being_claimed() -> None:
    into = {e for e, m in MOVES.items() if m.target is State.RUNNING and m.sources != {State.RUNNING}}

    assert into == {Event.CLAIM}


def test_a_move_cannot_be_changed() -> None:
    move = MOVES[Event.CLAIM]

    with pytest.raises(AttributeError):
        move.target = State.SUCCEEDED  # type: ignore[misc]
    assert isinstance(move, Move)
