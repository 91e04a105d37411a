"""The completer: each outcome is answered by itself, whatever becomes of those it was written with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime

import psycopg
import pytest

from asynch import db, metrics
from asynch.domain.states import Event, Phase, State
from asynch.errors import SessionLost, StaleClaim
from asynch.store.queue import Claim, Outcome, Saved
from asynch.worker import outcomes
from asynch.worker.completer import Completer
from tests.database import all_rows
from tests.rows import QUEUE_TIMEOUT_S, a_claim, add_model, add_tasks, bend, row_of, rows_of, state_of, worker
from tests.waiting import until

TERMS = outcomes.Terms("tests", 60.0, 60.0)


@pytest.fixture
def lost() -> threading.Event:
    return threading.Event()


@pytest.fixture
def own_pool(dsn: str) -> Iterator[db.Pool]:
    """The completer's pool, whose connections a test can end by name."""
    with db.open_pool(dsn, size=3, name="completer", pinned=True) as opened:
        yield opened


@pytest.fixture
def completer(own_pool: db.Pool, lost: threading.Event) -> Iterator[Completer]:
    made = Completer(own_pool, queue_timeout_s=QUEUE_TIMEOUT_S, lost=lost)
    yield made
    made.close()


@pytest.fixture
def claims(pool: db.Pool, dsn: str) -> list[Claim]:
    """Forty claimed tasks."""
    lane = add_model(pool)
    add_tasks(pool, lane, 40)
    with worker(dsn) as me:
        return me.claim(lane, 40)


def unstorable(claim: Claim) -> Outcome:
    """One that Postgres refuses: a NUL in a JSON text."""
    return outcomes.saved(TERMS, claim, Saved("f\0", "h", "k"))


def write_all(completer: Completer, written: list[Outcome]) -> list[Future[datetime]]:
    """Hand all in at once, each from a thread of its own, as the call threads do; their answers."""
    with ThreadPoolExecutor(len(written)) as threads:
        return [threads.submit(completer.write, outcome) for outcome in written]


def held_up(pool: db.Pool, claim: Claim) -> threading.Event:
    """Have the row of a claim locked by someone else until the event is set."""
    locked, release = threading.Event(), threading.Event()

    def hold() -> None:
        with db.transaction(pool) as conn:
            conn.execute("SELECT 1 FROM asynch_task WHERE id = %s FOR UPDATE", (claim.id,))
            locked.set()
            release.wait(20)

    threading.Thread(target=hold).start()
    assert locked.wait(10)
    return release


def waits_for_a_row(pool: db.Pool) -> bool:
    return bool(
        all_rows(
            pool, "SELECT 1 FROM pg_stat_activity WHERE application_name = 'completer' AND wait_event_type = 'Lock'"
        )
    )


def end_connections(pool: db.Pool, name: str) -> int:
    """Terminate the backends of this name; how many there were."""
    with db.connection(pool) as conn:
        found = conn.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s", (name,)
        ).fetchall()
    return len(found)


def test_an_outcome_is_written_and_its_time_told(completer: Completer, pool: db.Pool, claims: list[Claim]) -> None:
    at = completer.write(outcomes.delivered(TERMS, claims[0]))

    row = row_of(pool, claims[0].id)
    assert (row["state"], row["updated_at"]) == (State.SUCCEEDED, at)


def test_all_that_come_together_are_written(completer: Completer, pool: db.Pool, claims: list[Claim]) -> None:
    answers = write_all(completer, [outcomes.delivered(TERMS, claim) for claim in claims])

    assert all(answer.exception() is None for answer in answers)
    assert {row["state"] for row in rows_of(pool).values()} == {State.SUCCEEDED}


def test_what_comes_during_a_write_goes_together_with_the_next(
    completer: Completer, pool: db.Pool, claims: list[Claim]
) -> None:
    release = held_up(pool, claims[0])
    with ThreadPoolExecutor(len(claims)) as threads:
        answers = [threads.submit(completer.write, outcomes.delivered(TERMS, claims[0]))]
        until(lambda: waits_for_a_row(pool))
        answers += [threads.submit(completer.write, outcomes.delivered(TERMS, claim)) for claim in claims[1:]]
        until(lambda: completer._queue.qsize() == len(claims) - 1)
        release.set()

    assert len({answer.result() for answer in answers}) == 2  # two statements, by their times


def test_a_claim_that_is_stale_is_told_alone(completer: Completer, pool: db.Pool, claims: list[Claim]) -> None:
    bend(pool, [claims[1].id], attempt=9)

    answers = write_all(completer, [outcomes.delivered(TERMS, claim) for claim in claims[:3]])

    assert [type(answer.exception()) for answer in answers] == [type(None), StaleClaim, type(None)]


def test_an_older_attempt_of_a_task_in_the_same_batch_is_stale(
    completer: Completer, pool: db.Pool, claims: list[Claim]
) -> None:
    release = held_up(pool, claims[0])
    bend(pool, [claims[1].id], attempt=2)
    now = claims[1]._replace(attempt=2)
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(completer.write, outcomes.delivered(TERMS, claims[0]))
        until(lambda: waits_for_a_row(pool))
        both = [threads.submit(completer.write, outcomes.delivered(TERMS, claim)) for claim in (claims[1], now)]
        until(lambda: completer._queue.qsize() == 2)
        release.set()
        first.result()

    assert [type(answer.exception()) for answer in both] == [StaleClaim, type(None)]


def test_a_row_that_postgres_refuses_fails_no_other(completer: Completer, pool: db.Pool, claims: list[Claim]) -> None:
    release = held_up(pool, claims[0])
    mixed = [outcomes.delivered(TERMS, claim) for claim in claims[1:]]
    mixed[17] = unstorable(claims[18])
    with ThreadPoolExecutor(len(claims)) as threads:
        first = threads.submit(completer.write, outcomes.delivered(TERMS, claims[0]))
        until(lambda: waits_for_a_row(pool))
        answers = [threads.submit(completer.write, outcome) for outcome in mixed]
        until(lambda: completer._queue.qsize() == len(mixed))  # one batch
        release.set()
        first.result()

    refused = [n for n, answer in enumerate(answers) if answer.exception() is not None]
    assert refused == [17]
    assert isinstance(answers[17].exception(), psycopg.Error)
    assert [state_of(pool, c.id) for c in claims].count(State.SUCCEEDED) == len(claims) - 1
    assert state_of(pool, claims[18].id) is State.RUNNING


def test_an_outcome_after_a_refused_one_is_written(completer: Completer, claims: list[Claim]) -> None:
    with pytest.raises(psycopg.Error):
        completer.write(unstorable(claims[0]))

    assert completer.write(outcomes.released(TERMS, claims[0], "x"))


def test_a_connection_that_is_cut_during_a_write_loses_nothing(
    completer: Completer, pool: db.Pool, claims: list[Claim]
) -> None:
    release = held_up(pool, claims[0])
    with ThreadPoolExecutor(len(claims)) as threads:
        answers = [threads.submit(completer.write, outcomes.delivered(TERMS, claims[0]))]
        until(lambda: waits_for_a_row(pool))
        answers += [threads.submit(completer.write, outcomes.delivered(TERMS, claim)) for claim in claims[1:]]
        until(lambda: waits_for_a_row(pool))
        assert end_connections(pool, "completer") > 0
        release.set()

    assert all(answer.exception() is None for answer in answers)
    assert {row["state"] for row in rows_of(pool).values()} == {State.SUCCEEDED}


def test_connections_that_are_cut_again_and_again_lose_nothing(
    completer: Completer, pool: db.Pool, claims: list[Claim]
) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(completer.write, outcomes.delivered(TERMS, claim)) for claim in claims]
        while not all(answer.done() for answer in answers):
            end_connections(pool, "completer")

    # A commit whose answer was cut off is written, and its repetition stale: never lost, never told as written twice.
    assert {type(answer.exception()) for answer in answers} <= {type(None), StaleClaim}
    assert {row["state"] for row in rows_of(pool).values()} == {State.SUCCEEDED}


def test_a_lost_session_ends_the_wait_for_a_database(lost: threading.Event) -> None:
    nowhere = db.open_pool("host=127.0.0.1 port=1 dbname=none", size=1, name="tests")
    completer = Completer(nowhere, queue_timeout_s=1.0, lost=lost)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(completer.write, outcomes.delivered(TERMS, a_claim()))
        until(lambda: not completer._queue.qsize())
        lost.set()
        nowhere.close()

        assert isinstance(answer.exception(20), SessionLost)
    completer.close()


def test_after_the_loss_of_the_session_nothing_is_written(
    completer: Completer, pool: db.Pool, claims: list[Claim], lost: threading.Event
) -> None:
    lost.set()

    with pytest.raises(SessionLost):
        completer.write(outcomes.delivered(TERMS, claims[0]))
    assert state_of(pool, claims[0].id) is State.RUNNING


def test_closing_writes_what_was_handed_in(
    own_pool: db.Pool, pool: db.Pool, claims: list[Claim], lost: threading.Event
) -> None:
    completer = Completer(own_pool, queue_timeout_s=QUEUE_TIMEOUT_S, lost=lost)
    release = held_up(pool, claims[0])
    with ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(completer.write, outcomes.delivered(TERMS, claims[0]))]
        until(lambda: waits_for_a_row(pool))
        answers += [threads.submit(completer.write, outcomes.delivered(TERMS, claim)) for claim in claims[1:4]]
        until(lambda: completer._queue.qsize() == 3)
        release.set()
        completer.close()

    assert all(answer.exception() is None for answer in answers)


def test_what_comes_after_the_end_is_void(own_pool: db.Pool, claims: list[Claim], lost: threading.Event) -> None:
    completer = Completer(own_pool, queue_timeout_s=QUEUE_TIMEOUT_S, lost=lost)
    completer.close()

    with pytest.raises(SessionLost):
        completer.write(outcomes.delivered(TERMS, claims[0]))


def test_of_two_moves_at_once_the_first_is_heard_and_both_are_counted(own_pool: db.Pool, claims: list[Claim]) -> None:
    heard: list[tuple[Event, Phase]] = []
    completer = Completer(
        own_pool,
        queue_timeout_s=QUEUE_TIMEOUT_S,
        lost=threading.Event(),
        note=lambda outcome, _: heard.append((outcome.event, outcome.claim.phase)),
    )
    both = outcomes.saved_and_delivered(TERMS, claims[0], Saved("f", "h", "k"))
    counted = [("call", "save"), ("upload", "deliver"), ("call", "stale"), ("upload", "stale")]
    before = [attempts(phase, event) for phase, event in counted]

    completer.write(both)
    with pytest.raises(StaleClaim):
        completer.write(both)
    completer.close()

    assert heard == [(Event.SAVE, Phase.CALL)]
    assert [attempts(*which) - old for which, old in zip(counted, before, strict=True)] == [1, 1, 1, 0]


def attempts(phase: str, event: str) -> float:
    found = metrics.WORKER.get_sample_value("asynch_attempts_total", {"phase": phase, "event": event, "code": ""})
    return found or 0.0
