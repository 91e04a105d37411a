"""Short calls are claimed before a thread is free for them: no thread waits for a claim, no task for long."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from asynch import db
from asynch.domain.states import State
from tests.database import all_rows
from tests.life import Life, living
from tests.model_server import ModelServer
from tests.rows import add_tasks, bend, row_of
from tests.waiting import until

THREADS = 2


@pytest.fixture
def dsn(own_dsn: str) -> str:
    return own_dsn


@pytest.fixture
def life(dsn: str, pool: db.Pool, tmp_path: Path) -> Iterator[Life]:
    """A worker with two threads, and four more for tenants that have nothing running."""
    with ModelServer() as model, living(dsn, tmp_path, threads=THREADS, drain_timeout=1.0) as (setup, _, _, moody):
        yield Life(pool, model, tmp_path, setup, moody, count(1))


def claimed(life: Life) -> list[int]:
    """The tasks that are in a worker's hands for their call."""
    return [row["id"] for row in all_rows(life.pool, "SELECT id FROM asynch_task WHERE state = 1 AND phase = 0")]


def test_short_calls_are_claimed_ahead_and_no_more_are_open_than_there_are_threads(life: Life) -> None:
    life.create(life.lane(max_concurrency=50), *[{"sleep": 0.02}] * 200)
    most = 0

    def are_over() -> bool:
        nonlocal most
        most = max(most, len(claimed(life)))
        return not all_rows(life.pool, "SELECT FROM asynch_task WHERE NOT final")

    until(are_over, 60.0)

    assert most > THREADS
    assert life.model.ledger.max_open <= THREADS


def test_long_calls_are_not_claimed_ahead(life: Life) -> None:
    ids = life.create(life.lane(max_concurrency=50), *[{"sleep": 0.5}] * 8)
    ledger, seen, ahead = life.model.ledger, 0, 0

    def are_over() -> bool:
        """Look at what is claimed while every thread is in a call, and in the same one before and after."""
        nonlocal seen, ahead
        before = len(ledger.calls), ledger.open
        waiting = [task for task in claimed(life) if not ledger.of(str(task))]
        if before == (len(ledger.calls), THREADS) and ledger.open == THREADS:
            seen, ahead = seen + 1, ahead + len(waiting)
        return all(row_of(life.pool, task)["final"] for task in ids)

    until(are_over, 20.0)

    assert seen
    assert ahead == 0


def test_what_was_claimed_ahead_of_long_calls_goes_back_untouched(life: Life) -> None:
    lane = life.lane(max_concurrency=50)
    short = life.create(lane, *[{}] * 100)
    long = life.create(lane, *[{"hang": True}] * 20)
    until(lambda: all(row_of(life.pool, task)["final"] for task in short), 60.0)
    until(lambda: life.model.ledger.open == THREADS)

    until(lambda: len(claimed(life)) == THREADS)

    back = [row for task in long if (row := row_of(life.pool, task))["state"] == State.PENDING]
    assert len(back) == len(long) - THREADS
    for row in back:
        assert (row["retry_count"], row["crash_count"], row["error_code"]) == (0, 0, "")
        assert {record["outcome"] for record in row["attempts"]} <= {"released"}
    assert life.model.ledger.max_open <= THREADS


def test_another_tenant_s_call_starts_beside_what_waits_for_a_thread(life: Life) -> None:
    lane, other = life.lane(max_concurrency=50), life.lane(max_concurrency=50)
    life.create(lane, *[{}] * 100, *[{"hang": True}] * 20)
    until(lambda: life.model.ledger.open == THREADS, 60.0)
    (task,) = add_tasks(life.pool, other[0], model_name=other[1], payload="{}")
    bend(life.pool, [task], tenant_id=77)
    with db.connection(life.pool) as conn:
        conn.execute("UPDATE asynch_models SET tenant_id = 77 WHERE lane_id = %s", (other[0],))

    until(
        lambda: (
            [row["final"] for row in all_rows(life.pool, "SELECT final FROM asynch_task WHERE tenant_id = 77")]
            == [True]
        )
    )
