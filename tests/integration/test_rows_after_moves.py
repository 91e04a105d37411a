"""What a move leaves in the row: phase and file, counters, times, records, and the places of others as they were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from asynch import db
from asynch.domain.states import State
from asynch.store import queue, workers
from asynch.store import tasks as store
from asynch.worker import outcomes
from tests.moving import KEEP, OWNER, RESULT, TERMS, failed, rescue, settled
from tests.rows import (
    QUEUE_TIMEOUT_S,
    TENANT,
    add_model,
    add_task,
    add_tasks,
    ago,
    bend,
    row_of,
    rows_of,
    save,
    state_of,
    worker,
)


def test_saving_moves_to_the_upload_and_keeps_the_claim(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    with worker(dsn) as me:
        claim = me.claim_one(lane)

    settled(pool, outcomes.saved(TERMS, claim, RESULT))

    row = row_of(pool, task)
    assert (row["phase"], row["attempt"], row["worker_id"], row["tmp_file"]) == (1, 1, claim.worker_id, "f")


def test_a_failed_upload_keeps_phase_and_file(pool: db.Pool, dsn: str) -> None:
    task = add_task(pool, add_model(pool))
    save(pool, task)
    with worker(dsn) as me:
        (claim,) = me.claim_upload()

    settled(pool, outcomes.upload_failed(TERMS, claim, "store is down"))

    row = row_of(pool, task)
    assert (row["state"], row["phase"], row["tmp_file"], row["upload_failures"], row["retry_count"]) == (
        State.FAILED, 1, f"1_{task}_1", 1, 0,
    )  # fmt: skip


def test_a_delivered_task_has_no_tmp_file(pool: db.Pool, dsn: str) -> None:
    task = add_task(pool, add_model(pool))
    save(pool, task)
    with worker(dsn) as me:
        (claim,) = me.claim_upload()

    settled(pool, outcomes.delivered(TERMS, claim))

    row = row_of(pool, task)
    assert (row["state"], row["phase"], row["tmp_file"], row["oss_file"]) == (State.SUCCEEDED, 0, "", f"k/{task}")


def test_a_released_task_keeps_its_place_and_uses_no_retry(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane, priority=3)
    before = row_of(pool, task)
    with worker(dsn) as me:
        settled(pool, outcomes.released(TERMS, me.claim_one(lane), "the worker was stopping"))

    row = row_of(pool, task)
    place = ("rank", "enqueue_at", "state", "retry_count", "crash_count")
    assert [row[name] for name in place] == [before[name] for name in place]


def test_a_retry_of_a_call_counts_and_one_of_an_upload_does_not(pool: db.Pool) -> None:
    call, upload = add_tasks(pool, add_model(pool), 2)
    save(pool, upload)
    bend(pool, [call, upload], state=3, wake_at=ago(1))

    with db.transaction(pool) as conn:
        queue.retry_due(conn, most=10, queue_timeout_s=QUEUE_TIMEOUT_S)

    assert [row_of(pool, t)["retry_count"] for t in (call, upload)] == [1, 0]


def test_a_failure_before_its_back_off_ends_is_not_put_back(pool: db.Pool) -> None:
    task = add_task(pool, add_model(pool))
    bend(pool, [task], state=3, wake_at=ago(-60))

    with db.transaction(pool) as conn:
        assert queue.retry_due(conn, most=10, queue_timeout_s=QUEUE_TIMEOUT_S) == []


@pytest.mark.parametrize(("phase", "charged", "counted"), [(0, True, 1), (0, False, 0), (1, True, 0)])
def test_a_rescue_charges_calls_of_a_worker_that_crashed(
    pool: db.Pool, phase: int, charged: bool, counted: int
) -> None:
    task = add_task(pool, add_model(pool))
    save(pool, task)
    bend(pool, [task], state=1, phase=phase, worker_id=OWNER)

    with db.transaction(pool) as conn:
        rescue(charged, 3)(conn, [], [])

    row = row_of(pool, task)
    assert (row["crash_count"], row["retry_count"]) == (counted, 0)


def test_the_last_allowed_crash_fails_the_task(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)

    for _ in range(3):
        assert state_of(pool, task) is State.PENDING
        with worker(dsn) as me:
            me.claim_one(lane)
        with db.transaction(pool) as conn:
            workers.rescue(conn, workers=[me.id], host="h", charged=True, max_crashes=3, keep=KEEP, most=10)

    row = row_of(pool, task)
    assert (row["state"], row["final"], row["error_code"], row["error_retryable"]) == (3, True, "crashed", False)


def test_a_rescue_takes_no_more_than_its_batch(pool: db.Pool) -> None:
    tasks = add_tasks(pool, add_model(pool), 5)
    bend(pool, tasks, state=1, worker_id=OWNER)

    with db.transaction(pool) as conn:
        taken = workers.rescue(conn, workers=[OWNER], host="h", charged=True, max_crashes=3, keep=KEEP, most=2)

    assert len(taken) == 2


def test_a_rerun_of_an_upload_has_as_long_as_the_first_run_had(pool: db.Pool) -> None:
    called, saved = add_tasks(pool, add_model(pool), 2)
    save(pool, saved)
    bend(pool, [called, saved], state=3, final=True, started_at=ago(3600))
    with db.transaction(pool) as conn:
        store.rerun(conn, tenant_id=TENANT, ids=[called, saved], updater="u", queue_timeout_s=1.0)

    age = {i: datetime.now(UTC) - row_of(pool, i)["started_at"] for i in (called, saved)}
    assert age[saved] < timedelta(minutes=1) < age[called]


def test_a_rerun_starts_with_its_retries_renewed_and_its_phase_kept(pool: db.Pool) -> None:
    task = add_task(pool, add_model(pool))
    save(pool, task)
    bend(pool, [task], state=3, final=True, retry_count=3, crash_count=2, upload_failures=4, error_code="x", rank=18)

    with db.transaction(pool) as conn:
        store.rerun(conn, tenant_id=TENANT, ids=[task], updater="u", queue_timeout_s=QUEUE_TIMEOUT_S)

    row = row_of(pool, task)
    assert (row["state"], row["phase"], row["final"], row["rank"]) == (0, 1, False, 19)
    assert (row["retry_count"], row["crash_count"], row["upload_failures"], row["error_code"]) == (0, 0, 0, "")


def test_a_task_whose_time_is_over_does_not_run_again(pool: db.Pool) -> None:
    task = add_task(pool, add_model(pool))
    bend(pool, [task], state=3, final=True, wake_at=ago(1))

    with db.transaction(pool) as conn:
        assert store.rerun(conn, tenant_id=TENANT, ids=[task], updater="u", queue_timeout_s=1.0) == []


def test_a_task_of_a_deleted_model_does_not_run_again(pool: db.Pool) -> None:
    task = add_task(pool, add_model(pool))
    bend(pool, [task], state=3, final=True)
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_models SET deleted_at = now()")

        assert store.rerun(conn, tenant_id=TENANT, ids=[task], updater="u", queue_timeout_s=1.0) == []


def test_the_first_fetch_reports_success_and_the_next_that_it_was_fetched(pool: db.Pool) -> None:
    task = add_task(pool, add_model(pool, auto_clean_seconds=100))
    bend(pool, [task], state=2, final=True)

    with db.transaction(pool) as conn:
        first = store.fetch(conn, tenant_id=TENANT, ids=[task], mark=True)[task]
    with db.transaction(pool) as conn:
        second = store.fetch(conn, tenant_id=TENANT, ids=[task], mark=True)[task]

    assert (first["state"], second["state"]) == (State.SUCCEEDED, State.FETCHED)
    assert first["expire_at"] == second["expire_at"] is not None


def test_another_tenants_tasks_are_not_touched(pool: db.Pool) -> None:
    tasks = [add_task(pool, add_model(pool, f"m{s}")) for s in (0, 2, 3)]
    bend(pool, [tasks[1]], state=2, final=True)
    bend(pool, [tasks[2]], state=3, final=True)
    before = rows_of(pool)

    with db.transaction(pool) as conn:
        store.cancel(conn, tenant_id=2, ids=tasks, updater="u", failed_retention_s=1.0)
        store.rerun(conn, tenant_id=2, ids=tasks, updater="u", queue_timeout_s=1.0)
        assert store.fetch(conn, tenant_id=2, ids=tasks, mark=True) == {}

    assert rows_of(pool) == before


def test_a_task_keeps_the_records_of_its_last_twenty_attempts(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    with worker(dsn) as me:
        for _ in range(22):
            settled(pool, outcomes.released(TERMS, me.claim_one(lane), "x"))

    kept = row_of(pool, task)["attempts"]
    assert [record["attempt"] for record in kept] == list(range(3, 23))


def test_a_claim_ends_the_wait_and_a_retry_starts_it_anew(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane, queue_timeout_s=100)
    with worker(dsn) as me:
        claim = me.claim_one(lane)
    assert row_of(pool, task)["wake_at"] is None

    settled(pool, failed(claim, times=1))
    with db.transaction(pool) as conn:
        queue.retry_due(conn, most=10, queue_timeout_s=QUEUE_TIMEOUT_S)

    row = row_of(pool, task)
    assert row["wake_at"] - row["updated_at"] == timedelta(seconds=100)
