"""What becomes of tasks that failed, waited too long, or whose results wait on a host that is gone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from asynch import db
from asynch.cleaner.expire import expire
from asynch.cleaner.lose import lose
from asynch.cleaner.retry import retry
from asynch.domain.states import State
from asynch.storage import Storage
from asynch.storage.local import LocalStorage
from asynch.store import queue
from asynch.store import tasks as store
from asynch.worker import outcomes
from tests.cleaning import BROKEN, TERMS, Stubborn, put_object, silent_host
from tests.database import all_rows
from tests.rows import HOST, QUEUE_TIMEOUT_S, add_model, add_task, add_tasks, ago, bend, row_of, save, state_of, worker


def hear(dsn: str) -> db.Connection:
    session = db.open_session(dsn, name="tests")
    session.execute("LISTEN asynch_lane")
    return session


# -- retry ---------------------------------------------------------------------------------------------------------


def fail_one(pool: db.Pool, dsn: str, lane: int) -> int:
    """Claim the next task of a lane and fail it as a worker would; its id."""
    terms = outcomes.Terms("tests", failed_retention_s=60.0, unfetched_retention_s=0.0)
    with worker(dsn) as me:
        claim = me.claim_one(lane)
        queue.settle(me.session, [outcomes.call_failed(terms, claim, BROKEN)], queue_timeout_s=QUEUE_TIMEOUT_S)
    return claim.id


def order(dsn: str, lane: int) -> list[int]:
    """The tasks of a lane in the order in which they run now."""
    with worker(dsn) as me:
        return [c.id for c in me.claim(lane, 100)]


def test_retries_at_the_head_run_before_all_others_the_first_failed_first(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool, retry_times=3, retry_queue_max_seconds=0)
    younger, older, waiting = (add_task(pool, lane) for _ in range(3))
    bend(pool, [older], enqueue_at=ago(60))
    assert [fail_one(pool, dsn, lane) for _ in range(2)] == [older, younger]
    bend(pool, [waiting], enqueue_at=ago(60))

    retry(pool, TERMS)

    assert order(dsn, lane) == [older, younger, waiting]


def test_retries_at_the_tail_run_after_all_that_wait(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool, retry_times=3, retry_queue_max_seconds=-1)
    add_tasks(pool, lane, 2)
    failed = [fail_one(pool, dsn, lane) for _ in range(2)]
    waiting = add_tasks(pool, lane, 2)
    bend(pool, waiting, enqueue_at=ago(60))

    retry(pool, TERMS)

    assert order(dsn, lane) == [*waiting, *failed]


def test_a_task_old_enough_retries_at_the_head(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool, retry_times=3, retry_queue_max_seconds=100)
    old, young = add_task(pool, lane, priority=1), add_task(pool, lane)
    bend(pool, [old], created_at=ago(100))
    failed = [fail_one(pool, dsn, lane) for _ in range(2)]
    assert failed == [old, young]
    bend(pool, [old], rank=sql_rank(0, row_of(pool, old)["rank"]))
    waiting = add_task(pool, lane)
    bend(pool, [waiting], enqueue_at=ago(60))

    retry(pool, TERMS)

    assert order(dsn, lane) == [old, waiting, young]


def sql_rank(priority: int, rank: int) -> int:
    """The same place, head or tail, under another priority."""
    return 2 * (9 - priority) + rank % 2


def test_a_retry_at_the_head_never_passes_a_higher_priority(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool, retry_times=3, retry_queue_max_seconds=0)
    add_task(pool, lane, priority=4)
    failed = fail_one(pool, dsn, lane)
    higher, lower = add_task(pool, lane, priority=5), add_task(pool, lane, priority=4)

    retry(pool, TERMS)

    assert order(dsn, lane) == [higher, failed, lower]


def test_a_task_is_called_once_and_then_as_often_as_its_retries(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool, retry_times=2)
    task = add_task(pool, lane)

    for _ in range(3):
        assert state_of(pool, task) is State.PENDING
        fail_one(pool, dsn, lane)
        retry(pool, TERMS)

    row = row_of(pool, task)
    assert (row["state"], row["final"], row["attempt"], row["retry_count"]) == (State.FAILED, True, 3, 2)


def test_a_retry_waits_for_its_back_off(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool, retry_times=1, retry_backoff_seconds=30)
    task = add_task(pool, lane)
    fail_one(pool, dsn, lane)

    assert retry(pool, TERMS) == 0
    row = row_of(pool, task)
    assert row["wake_at"] - row["updated_at"] == timedelta(seconds=30)


def test_retries_are_announced_to_the_workers(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    bend(pool, add_tasks(pool, lane, 2), state=3, wake_at=ago(1))
    with hear(dsn) as session:
        retry(pool, TERMS)
        assert [n.payload for n in session.notifies(timeout=5, stop_after=1)] == [str(lane)]


def test_the_depth_of_a_lane_foresees_its_retries(pool: db.Pool) -> None:
    lane = add_model(pool)
    tasks = add_tasks(pool, lane, 4)
    bend(pool, tasks[:1], state=3)
    bend(pool, tasks[1:2], state=3, final=True)

    with db.connection(pool) as conn:
        found = store.lane_depth(conn, lane)
    assert (found.depth, found.returning) == (2, 1)


# -- expire --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "left_s"), [(None, QUEUE_TIMEOUT_S), (5, 5.0), (10**9, 1e9)])
def test_a_task_may_wait_its_own_time_else_the_default(pool: db.Pool, own: int | None, left_s: float) -> None:
    row = row_of(pool, add_task(pool, add_model(pool), queue_timeout_s=own))

    assert row["wake_at"] - row["enqueue_at"] == timedelta(seconds=left_s)


def test_the_time_of_a_delayed_task_runs_from_when_it_is_due(pool: db.Pool) -> None:
    row = row_of(pool, add_task(pool, add_model(pool), queue_timeout_s=5, delay_s=100.0))

    assert row["wake_at"] - row["created_at"] == timedelta(seconds=105)


def test_a_task_that_waited_too_long_fails_for_good(pool: db.Pool) -> None:
    late, other = add_tasks(pool, add_model(pool), 2)
    bend(pool, [late], wake_at=ago(0))

    assert expire(pool, TERMS) == 1

    row = row_of(pool, late)
    assert (row["state"], row["final"], row["error_code"]) == (State.FAILED, True, "queue_expired")
    assert row["wake_at"] - row["updated_at"] == timedelta(seconds=60)
    assert state_of(pool, other) is State.PENDING


@pytest.mark.parametrize("then", ["saved", "running"])
def test_what_has_been_called_waits_for_ever(pool: db.Pool, dsn: str, then: str) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    with worker(dsn) as me:
        claim = me.claim_one(lane)
        if then == "saved":
            terms = outcomes.Terms("tests", 60.0, 0.0)
            result = queue.Saved("f", HOST, "k")
            outcome = outcomes.saved(terms, claim, result)
            queue.settle(me.session, [outcome], queue_timeout_s=QUEUE_TIMEOUT_S)
            held = claim._replace(phase=outcome.phase, saved=result)
            queue.settle(me.session, [outcomes.released(terms, held, "x")], queue_timeout_s=QUEUE_TIMEOUT_S)

    assert row_of(pool, task)["wake_at"] is None
    assert expire(pool, TERMS) == 0


# -- lose ----------------------------------------------------------------------------------------------------------


def test_results_of_a_silent_host_are_called_again(pool: db.Pool, dsn: str, storage: LocalStorage) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    save(pool, task, tmp_host="gone")
    silent_host(pool, "gone", 601)

    assert lose(pool, TERMS, storage) == 1

    assert order(dsn, lane) == [task]
    row = row_of(pool, task)
    assert (row["phase"], row["tmp_file"], row["tmp_host"], row["oss_file"]) == (0, "", "", "")


def test_an_object_of_a_lost_result_that_cannot_be_removed_now_is_kept_in_mind(
    pool: db.Pool, storage: LocalStorage
) -> None:
    task, other = add_tasks(pool, add_model(pool), 2)
    keys = {}
    for each in (task, other):
        save(pool, each, tmp_host="gone")
        keys[each] = row_of(pool, each)["oss_file"]
    silent_host(pool, "gone", 601)

    assert lose(pool, TERMS, cast(Storage, Stubborn(storage, keys[task]))) == 2

    assert [row["key"] for row in all_rows(pool, "SELECT key FROM asynch_unneeded")] == [keys[task]]


@pytest.mark.parametrize(("known", "name"), [(True, "gone"), (False, None)])
def test_an_attempt_tells_that_its_result_was_lost(
    pool: db.Pool, storage: LocalStorage, known: bool, name: str | None
) -> None:
    task = add_task(pool, add_model(pool))
    save(pool, task, tmp_host="gone")
    bend(pool, [task], attempt=3)
    if known:
        silent_host(pool, "gone", 601)

    lose(pool, TERMS, storage)

    record = row_of(pool, task)["attempts"][-1]
    assert (record["attempt"], record["host"], record["phase"], record["outcome"]) == (3, name, 1, "lost")


def test_results_of_a_host_that_was_heard_of_in_time_stay(pool: db.Pool, storage: LocalStorage) -> None:
    save(pool, add_task(pool, add_model(pool)), tmp_host="here")
    silent_host(pool, "here", 590)

    assert lose(pool, TERMS, storage) == 0


def test_results_of_a_host_nobody_knows_are_called_again(pool: db.Pool, storage: LocalStorage) -> None:
    save(pool, add_task(pool, add_model(pool)), tmp_host="forgotten")

    assert lose(pool, TERMS, storage) == 1


def test_a_host_that_comes_back_is_heard_of_before_its_first_beat(
    pool: db.Pool, dsn: str, storage: LocalStorage
) -> None:
    save(pool, add_task(pool, add_model(pool)), tmp_host="back")
    silent_host(pool, "back", 10_000)

    with worker(dsn, tmp_host="back"):
        assert lose(pool, TERMS, storage) == 0


def test_an_object_that_a_lost_host_has_stored_is_removed(pool: db.Pool, storage: LocalStorage, tmp_path: Path) -> None:
    task = add_task(pool, add_model(pool))
    save(pool, task, tmp_host="gone")
    file = put_object(storage, tmp_path, f"k/{task}")

    lose(pool, TERMS, storage)

    assert not file.exists()


def test_an_object_that_cannot_be_removed_keeps_no_task_from_running(pool: db.Pool, storage: LocalStorage) -> None:
    tasks = add_tasks(pool, add_model(pool), 2)
    for task in tasks:
        save(pool, task, tmp_host="gone")

    assert lose(pool, TERMS, Stubborn(storage, f"k/{tasks[0]}")) == 2
