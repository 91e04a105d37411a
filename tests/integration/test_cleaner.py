"""The cleaner: what happens to tasks by themselves, in bounded batches, by one leader among all workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from asynch import db
from asynch.cleaner.expire import expire
from asynch.cleaner.leader import LEADER_LOCK, Leader
from asynch.cleaner.lose import lose
from asynch.cleaner.purge import forget, purge
from asynch.cleaner.retry import retry
from asynch.cleaner.schedule import Cleaner
from asynch.cleaner.terms import Terms
from asynch.cleaner.unneeded import unneeded
from asynch.domain.states import State
from asynch.errors import ErrorCode, ExecutorError, StorageError
from asynch.storage import Storage
from asynch.storage.local import LocalStorage
from asynch.store import queue
from asynch.store import tasks as store
from asynch.store import unneeded as store_unneeded
from asynch.worker import outcomes
from tests.database import all_rows
from tests.rows import (
    HOST,
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
from tests.waiting import until

TERMS = Terms(
    interval_s=0.1,
    queue_timeout_s=QUEUE_TIMEOUT_S,
    failed_retention_s=60.0,
    op_log_retention_s=1000.0,
    tmp_host_grace_s=600.0,
    delete_results=False,
    batch=3,
)
BROKEN = ExecutorError(ErrorCode.MODEL_HTTP_ERROR, "500", transient=True, http_status=500)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(
        tmp_path / "files", base_url="http://127.0.0.1", signing_key=b"k" * 32, url_ttl_s=60, public_base_url=""
    )


def put_object(storage: LocalStorage, tmp_path: Path, key: str) -> Path:
    """Store something under a key; where the file is."""
    source = tmp_path / "source"
    source.write_bytes(b"result")
    storage.put(key, source, "text/plain")
    return tmp_path / "files" / key


class Stubborn:
    """A store that refuses to delete some keys, and otherwise does as it is told."""

    def __init__(self, storage: LocalStorage, *keys: str) -> None:
        self._storage = storage
        self.keys = set(keys)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def delete(self, key: str) -> None:
        if key in self.keys:
            raise StorageError("not now")
        self._storage.delete(key)


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
        assert store.lane_depth(conn, lane) == store.Depth(depth=2, returning=1)


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
            outcome = replace(outcomes.saved(terms, claim, result))
            queue.settle(me.session, [outcome], queue_timeout_s=QUEUE_TIMEOUT_S)
            held = replace(claim, phase=outcome.phase, saved=result)
            queue.settle(me.session, [outcomes.released(terms, held, "x")], queue_timeout_s=QUEUE_TIMEOUT_S)

    assert row_of(pool, task)["wake_at"] is None
    assert expire(pool, TERMS) == 0


# -- lose ----------------------------------------------------------------------------------------------------------


def host(pool: db.Pool, name: str, silent_s: float) -> None:
    with db.transaction(pool) as conn:
        conn.execute(
            "INSERT INTO asynch_host (id, name, seen_at) VALUES (%s, %s, now() - make_interval(secs => %s))",
            (name, name, silent_s),
        )


def test_results_of_a_silent_host_are_called_again(pool: db.Pool, dsn: str, storage: LocalStorage) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    save(pool, task, tmp_host="gone")
    host(pool, "gone", 601)

    assert lose(pool, TERMS, storage) == 1

    assert order(dsn, lane) == [task]
    row = row_of(pool, task)
    assert (row["phase"], row["tmp_file"], row["tmp_host"], row["oss_file"]) == (0, "", "", "")


@pytest.mark.parametrize(("known", "name"), [(True, "gone"), (False, None)])
def test_an_attempt_tells_that_its_result_was_lost(
    pool: db.Pool, storage: LocalStorage, known: bool, name: str | None
) -> None:
    task = add_task(pool, add_model(pool))
    save(pool, task, tmp_host="gone")
    bend(pool, [task], attempt=3)
    if known:
        host(pool, "gone", 601)

    lose(pool, TERMS, storage)

    record = row_of(pool, task)["attempts"][-1]
    assert (record["attempt"], record["host"], record["phase"], record["outcome"]) == (3, name, 1, "lost")


def test_results_of_a_host_that_was_heard_of_in_time_stay(pool: db.Pool, storage: LocalStorage) -> None:
    save(pool, add_task(pool, add_model(pool)), tmp_host="here")
    host(pool, "here", 590)

    assert lose(pool, TERMS, storage) == 0


def test_results_of_a_host_nobody_knows_are_called_again(pool: db.Pool, storage: LocalStorage) -> None:
    save(pool, add_task(pool, add_model(pool)), tmp_host="forgotten")

    assert lose(pool, TERMS, storage) == 1


def test_a_host_that_comes_back_is_heard_of_before_its_first_beat(
    pool: db.Pool, dsn: str, storage: LocalStorage
) -> None:
    save(pool, add_task(pool, add_model(pool)), tmp_host="back")
    host(pool, "back", 10_000)

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


# -- purge ---------------------------------------------------------------------------------------------------------

ENDS = [State.SUCCEEDED, State.FAILED, State.FETCHED, State.CANCELLED]


@pytest.mark.parametrize("state", ENDS)
def test_a_row_whose_time_is_over_goes(pool: db.Pool, storage: LocalStorage, state: State) -> None:
    over, kept = add_tasks(pool, add_model(pool), 2)
    bend(pool, [over], state=int(state), final=True, wake_at=ago(1))
    bend(pool, [kept], state=int(state), final=True, wake_at=ago(-60))

    assert purge(pool, TERMS, storage) == 1
    assert set(rows_of(pool)) == {kept}


@pytest.mark.parametrize("state", ENDS)
def test_a_row_that_is_kept_for_ever_stays(pool: db.Pool, storage: LocalStorage, state: State) -> None:
    task = add_task(pool, add_model(pool))
    bend(pool, [task], state=int(state), final=True, wake_at=None)

    assert purge(pool, TERMS, storage) == 0


@pytest.mark.parametrize("state", [State.PENDING, State.RUNNING, State.FAILED])
def test_a_row_that_is_not_final_is_never_purged(pool: db.Pool, storage: LocalStorage, state: State) -> None:
    task = add_task(pool, add_model(pool))
    bend(pool, [task], state=int(state), wake_at=ago(10_000))

    assert purge(pool, TERMS, storage) == 0


def test_a_purge_leaves_a_word_of_what_was(pool: db.Pool, storage: LocalStorage) -> None:
    task = add_task(pool, add_model(pool), biz_name="b", creator="ann")
    bend(pool, [task], state=3, final=True, wake_at=ago(1), error_code="model_timeout")

    purge(pool, TERMS, storage)

    (word,) = all_rows(pool, "SELECT * FROM asynch_op_log")
    assert (word["op_type"], word["task_id"], word["tenant_id"], word["creator"], word["biz_name"]) == (
        "purgeTask", str(task), TENANT, "ann", "b",
    )  # fmt: skip
    assert json.loads(word["response_payload"]) == {"state": 3, "code": "model_timeout"}


def test_a_purged_task_is_known_to_be_gone(pool: db.Pool, storage: LocalStorage) -> None:
    task = add_task(pool, add_model(pool))
    bend(pool, [task], state=5, final=True, wake_at=ago(1), error_code="cancelled")
    purge(pool, TERMS, storage)

    with db.connection(pool) as conn:
        known = store.purged(conn, tenant_id=TENANT, ids=[task, task + 1])

    assert known == {task: {"state": 5, "code": "cancelled"}}


def test_a_purge_leaves_the_stored_object(pool: db.Pool, storage: LocalStorage, tmp_path: Path) -> None:
    task = add_task(pool, add_model(pool))
    file = put_object(storage, tmp_path, "k/1")
    bend(pool, [task], state=4, final=True, wake_at=ago(1), oss_file="k/1")

    purge(pool, TERMS, storage)

    assert file.exists()


def test_with_delete_results_the_object_goes_with_the_row(pool: db.Pool, storage: LocalStorage, tmp_path: Path) -> None:
    over, kept = add_tasks(pool, add_model(pool), 2)
    files = [put_object(storage, tmp_path, key) for key in ("k/1", "k/2")]
    bend(pool, [over], state=4, final=True, wake_at=ago(1), oss_file="k/1")
    bend(pool, [kept], state=4, final=True, wake_at=ago(-60), oss_file="k/2")

    assert purge(pool, replace(TERMS, delete_results=True), storage) == 1

    assert [file.exists() for file in files] == [False, True]
    assert set(rows_of(pool)) == {kept}


def test_a_row_whose_object_cannot_be_deleted_waits_alone(pool: db.Pool, storage: LocalStorage) -> None:
    stuck, gone = add_tasks(pool, add_model(pool), 2)
    for task in (stuck, gone):
        bend(pool, [task], state=4, final=True, wake_at=ago(1), oss_file=f"k/{task}")
    stubborn = Stubborn(storage, f"k/{stuck}")
    terms = replace(TERMS, delete_results=True)

    assert purge(pool, terms, stubborn) == 1
    assert set(rows_of(pool)) == {stuck}

    stubborn.keys.clear()
    assert purge(pool, terms, stubborn) == 1


def test_rows_without_an_object_go_with_delete_results_too(pool: db.Pool, storage: LocalStorage) -> None:
    task = add_task(pool, add_model(pool))
    bend(pool, [task], state=3, final=True, wake_at=ago(1))

    assert purge(pool, replace(TERMS, delete_results=True), storage) == 1


@pytest.mark.parametrize(("keep_s", "purged"), [(0.0, 1), (60.0, 0)])
def test_a_used_up_failure_is_kept_for_its_retention(
    pool: db.Pool, dsn: str, storage: LocalStorage, keep_s: float, purged: int
) -> None:
    lane = add_model(pool, retry_times=0)
    add_task(pool, lane)
    terms = outcomes.Terms("tests", failed_retention_s=keep_s, unfetched_retention_s=0.0)
    with worker(dsn) as me:
        failure = outcomes.call_failed(terms, me.claim_one(lane), BROKEN)
        queue.settle(me.session, [failure], queue_timeout_s=QUEUE_TIMEOUT_S)

    assert purge(pool, TERMS, storage) == purged


@pytest.mark.parametrize(("keep_s", "wakes"), [(0.0, None), (100.0, timedelta(seconds=100))])
def test_a_result_nobody_fetches_is_kept_for_its_retention(
    pool: db.Pool, dsn: str, keep_s: float, wakes: timedelta | None
) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    terms = outcomes.Terms("tests", failed_retention_s=60.0, unfetched_retention_s=keep_s)
    with worker(dsn) as me:
        queue.settle(me.session, [outcomes.delivered(terms, me.claim_one(lane))], queue_timeout_s=QUEUE_TIMEOUT_S)

    row = row_of(pool, task)
    assert (row["wake_at"] and row["wake_at"] - row["updated_at"]) == wakes


def test_a_fetched_result_goes_when_it_expires(pool: db.Pool, storage: LocalStorage) -> None:
    task = add_task(pool, add_model(pool, auto_clean_seconds=100))
    bend(pool, [task], state=2, final=True, wake_at=None)
    with db.transaction(pool) as conn:
        store.fetch(conn, tenant_id=TENANT, ids=[task], mark=True)

    row = row_of(pool, task)
    assert row["wake_at"] == row["expire_at"] == row["updated_at"] + timedelta(seconds=100)


# -- forget --------------------------------------------------------------------------------------------------------


def test_idempotency_keys_are_forgotten_after_a_day(pool: db.Pool) -> None:
    with db.transaction(pool) as conn:
        for key, hours in (("old", 25), ("young", 23)):
            conn.execute(
                "INSERT INTO asynch_idempotency (tenant_id, path, key, body_hash, created_at) "
                "VALUES (1, 'p', %s, 'h', now() - make_interval(hours => %s))",
                (key, hours),
            )

    assert forget(pool, TERMS) == 1
    assert all_rows(pool, "SELECT key FROM asynch_idempotency") == [{"key": "young"}]


def test_the_op_log_is_kept_for_its_retention(pool: db.Pool) -> None:
    with db.transaction(pool) as conn:
        for name, age_s in (("old", 1001), ("young", 990)):
            conn.execute(
                "INSERT INTO asynch_op_log (tenant_id, op_type, created_at) "
                "VALUES (1, %s, now() - make_interval(secs => %s))",
                (name, age_s),
            )

    assert forget(pool, TERMS) == 1
    assert all_rows(pool, "SELECT op_type FROM asynch_op_log") == [{"op_type": "young"}]


def test_hosts_of_long_ago_are_forgotten(pool: db.Pool) -> None:
    host(pool, "old", 31 * 86400)
    host(pool, "young", 29 * 86400)

    assert forget(pool, TERMS) == 1
    assert all_rows(pool, "SELECT id FROM asynch_host") == [{"id": "young"}]


def test_breakers_and_paces_of_long_ago_are_forgotten(pool: db.Pool) -> None:
    with db.transaction(pool) as conn:
        for url, days, until in (("old", 2, None), ("young", 0, None), ("open", 2, "epoch")):
            conn.execute(
                "INSERT INTO asynch_breaker (tenant_id, base_url, since, open_until) "
                "VALUES (1, %s, now() - make_interval(days => %s), %s)",
                (url, days, until),
            )
        for lane, days in ((1, 31), (2, 29)):
            conn.execute(
                "INSERT INTO asynch_pace (lane_id, call_s, updated_at) VALUES (%s, 1, now() - make_interval(days => %s))",
                (lane, days),
            )

    assert forget(pool, TERMS) == 2
    assert [r["base_url"] for r in all_rows(pool, "SELECT base_url FROM asynch_breaker ORDER BY 1")] == [
        "open",
        "young",
    ]
    assert all_rows(pool, "SELECT lane_id FROM asynch_pace") == [{"lane_id": 2}]


# -- batches -------------------------------------------------------------------------------------------------------

MANY: Mapping[str, tuple[Mapping[str, Any], Callable[[db.Pool, Terms, Storage], int]]] = {
    "retry": ({"state": 3}, lambda pool, terms, _: retry(pool, terms)),
    "expire": ({"state": 0}, lambda pool, terms, _: expire(pool, terms)),
    "purge": ({"state": 2, "final": True}, purge),
    "purge with its results": (
        {"state": 2, "final": True},
        lambda pool, terms, storage: purge(pool, replace(terms, delete_results=True), storage),
    ),
    "lose": ({"phase": 1, "tmp_file": "f", "tmp_host": "gone"}, lose),
}


@pytest.mark.parametrize("duty", MANY)
def test_a_duty_works_in_batches(pool: db.Pool, storage: LocalStorage, duty: str) -> None:
    columns, run = MANY[duty]
    bend(pool, add_tasks(pool, add_model(pool), 7), wake_at=ago(1), **columns)

    assert [run(pool, TERMS, storage) for _ in range(4)] == [3, 3, 1, 0]


@pytest.mark.parametrize("duty", MANY)
def test_a_row_in_other_hands_is_passed_over(pool: db.Pool, storage: LocalStorage, duty: str) -> None:
    columns, run = MANY[duty]
    tasks = add_tasks(pool, add_model(pool), 3)
    bend(pool, tasks, wake_at=ago(1), **columns)

    with db.transaction(pool) as conn:
        conn.execute("SELECT 1 FROM asynch_task WHERE id = %s FOR UPDATE", (tasks[0],))
        assert run(pool, TERMS, storage) == 2


def test_forgetting_works_in_batches(pool: db.Pool) -> None:
    with db.transaction(pool) as conn:
        conn.execute(
            "INSERT INTO asynch_op_log (tenant_id, op_type, created_at) "
            "SELECT 1, 'x', now() - interval '1 day' FROM generate_series(1, 5)"
        )

    assert [forget(pool, TERMS) for _ in range(3)] == [3, 2, 0]


# -- one leader ----------------------------------------------------------------------------------------------------

Open = Callable[[], Leader]


@pytest.fixture
def leaders(dsn: str) -> Iterator[Open]:
    made: list[Leader] = []

    def make() -> Leader:
        made.append(Leader(partial(db.open_session, dsn, name="asynch-worker-9")))
        return made[-1]

    yield make
    for leader in made:
        leader.close()


LEADING = (
    "FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
    "AND (classid::bigint << 32 | objid::bigint) = %s"
)


def end_leading_session(pool: db.Pool) -> None:
    with db.connection(pool) as conn:
        conn.execute(f"SELECT pg_terminate_backend(pid, 5000) {LEADING}".encode(), (LEADER_LOCK,))


def test_one_of_many_leads(leaders: Open) -> None:
    assert [leader.leads() for leader in [leaders() for _ in range(4)]] == [True, False, False, False]


def test_the_leader_stays_the_leader(leaders: Open) -> None:
    first, second = leaders(), leaders()

    assert [(first.leads(), second.leads()) for _ in range(3)] == [(True, False)] * 3


def test_leadership_moves_when_the_leader_leaves(leaders: Open) -> None:
    first, second = leaders(), leaders()
    assert (first.leads(), second.leads()) == (True, False)

    first.close()

    until(second.leads)


def test_leadership_moves_when_the_leaders_session_dies(pool: db.Pool, leaders: Open) -> None:
    first, second = leaders(), leaders()
    assert (first.leads(), second.leads()) == (True, False)

    end_leading_session(pool)

    assert (second.leads(), first.leads()) == (True, False)


def test_a_leader_that_lost_its_session_can_lead_again(pool: db.Pool, leaders: Open) -> None:
    leader = leaders()
    assert leader.leads()

    end_leading_session(pool)

    assert [leader.leads(), leader.leads()] == [False, True]


def test_without_a_database_nobody_leads() -> None:
    leader = Leader(partial(db.open_session, "host=127.0.0.1 port=1 dbname=none", name="x"))

    assert not leader.leads()


def test_only_the_leaders_cleaner_works(pool: db.Pool, storage: LocalStorage, leaders: Open) -> None:
    tasks = add_tasks(pool, add_model(pool), 2)
    bend(pool, tasks[:1], state=4, final=True, wake_at=ago(1))
    other = leaders()
    assert other.leads()
    cleaner = Cleaner(pool, leaders(), TERMS, storage)
    cleaner.start()
    try:
        until(lambda: tasks_of_the_leader_lock(pool) >= 1)
        assert len(rows_of(pool)) == 2
        other.close()

        until(lambda: set(rows_of(pool)) == {tasks[1]})
    finally:
        cleaner.stop()


def tasks_of_the_leader_lock(pool: db.Pool) -> int:
    """Sessions of leaders that are connected besides the one that leads."""
    return len(all_rows(pool, "SELECT 1 FROM pg_stat_activity WHERE application_name = 'asynch-worker-9'")) - 1


def test_a_cleaner_does_all_its_duties(pool: db.Pool, storage: LocalStorage, leaders: Open) -> None:
    retried, expired, lost, purged = add_tasks(pool, add_model(pool), 4)
    bend(pool, [retried], state=3, wake_at=ago(1))
    bend(pool, [expired], wake_at=ago(1))
    bend(pool, [lost], phase=1, tmp_file="f", tmp_host="gone", wake_at=None)
    bend(pool, [purged], state=5, final=True, wake_at=ago(1))
    host(pool, "old", 31 * 86400)
    cleaner = Cleaner(pool, leaders(), TERMS, storage)
    cleaner.start()
    try:
        until(lambda: state_of(pool, retried) is State.PENDING)
        until(lambda: state_of(pool, expired) is State.FAILED)
        until(lambda: row_of(pool, lost)["phase"] == 0)
        until(lambda: purged not in rows_of(pool))
        until(lambda: all_rows(pool, "SELECT id FROM asynch_host") == [])
    finally:
        cleaner.stop()


def test_a_stopped_cleaner_leads_no_more(pool: db.Pool, storage: LocalStorage, leaders: Open) -> None:
    cleaner = Cleaner(pool, leaders(), TERMS, storage)
    cleaner.start()
    until(lambda: all_rows(pool, f"SELECT pid {LEADING}", LEADER_LOCK))

    cleaner.stop()

    until(leaders().leads)


def test_objects_left_over_go_and_are_forgotten(pool: db.Pool, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path, base_url="http://127.0.0.1", signing_key=b"k" * 32, url_ttl_s=60)
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(b"x")
    with db.connection(pool) as conn:
        store_unneeded.note(conn, ["old", "new", "gone"])
        conn.execute("UPDATE asynch_unneeded SET created_at = now() - interval '2 minutes' WHERE key <> 'new'")

    assert unneeded(pool, TERMS, storage) == 2
    assert unneeded(pool, TERMS, storage) == 0
    assert not storage.exists("old")
    assert storage.exists("new")
    assert [row["key"] for row in all_rows(pool, "SELECT key FROM asynch_unneeded")] == ["new"]


def test_objects_that_cannot_be_removed_are_kept_in_mind(pool: db.Pool) -> None:
    class Down:
        def delete(self, address: str) -> None:
            raise StorageError(f"no {address}")

    with db.connection(pool) as conn:
        store_unneeded.note(conn, ["a"])
        conn.execute("UPDATE asynch_unneeded SET created_at = now() - interval '2 minutes'")

    assert unneeded(pool, TERMS, cast(Storage, Down())) == 0
    assert [row["key"] for row in all_rows(pool, "SELECT key FROM asynch_unneeded")] == ["a"]
