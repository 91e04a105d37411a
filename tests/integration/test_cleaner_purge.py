"""What the cleaner removes, and when: rows with and without their objects, what is forgotten, and what was left over."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from asynch import db
from asynch.cleaner.purge import forget, purge
from asynch.cleaner.unneeded import unneeded
from asynch.domain.states import State
from asynch.errors import StorageError
from asynch.storage import Storage
from asynch.storage.local import LocalStorage
from asynch.store import queue
from asynch.store import tasks as store
from asynch.store import unneeded as store_unneeded
from asynch.worker import outcomes
from tests.cleaning import BROKEN, TERMS, Stubborn, put_object, silent_host
from tests.database import all_rows
from tests.rows import QUEUE_TIMEOUT_S, TENANT, add_model, add_task, add_tasks, ago, bend, row_of, rows_of, worker

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

    (word,) = all_rows(pool, "SELECT * FROM asynch_op_log WHERE op_type = 'purgeTask'")
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
    silent_host(pool, "old", 31 * 86400)
    silent_host(pool, "young", 29 * 86400)

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


# -- unneeded --------------------------------------------------------------------------------------------------------


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


ROOMY = replace(TERMS, batch=100)


class Keeping:
    """A store that keeps some objects, or fails for each, and counts the tries."""

    def __init__(self, *kept: str, is_down: bool = False) -> None:
        self.kept, self.is_down = kept, is_down
        self.tried: list[str] = []

    def delete(self, address: str) -> None:
        self.tried.append(address)
        if self.is_down or address in self.kept:
            raise StorageError(f"no {address}")


def left_over(pool: db.Pool, *keys: str) -> None:
    """Objects that nobody needs, each a little younger than the one before."""
    with db.connection(pool) as conn:
        store_unneeded.note(conn, keys)
        for place, key in enumerate(keys):
            age_s = 3600 - place
            conn.execute(
                "UPDATE asynch_unneeded SET created_at = now() - make_interval(secs => %s) WHERE key = %s", (age_s, key)
            )


def known_unneeded(pool: db.Pool) -> list[str]:
    return [row["key"] for row in all_rows(pool, "SELECT key FROM asynch_unneeded ORDER BY key")]


def test_an_object_that_can_never_be_removed_holds_up_none_behind_it(pool: db.Pool) -> None:
    left_over(pool, "a", "b", "c", "d", "e", "f", "g")
    store = Keeping("a", "b", "d", "e")
    assert unneeded(pool, ROOMY, cast(Storage, store)) == 3
    assert known_unneeded(pool) == ["a", "b", "d", "e"]

    with db.connection(pool) as conn:
        conn.execute("UPDATE asynch_unneeded SET due_at = now()")
    store.kept = ()
    assert unneeded(pool, ROOMY, cast(Storage, store)) == 4
    assert known_unneeded(pool) == []


def test_objects_that_cannot_be_removed_wait_their_turn(pool: db.Pool) -> None:
    left_over(pool, "a", "b", "c", "d", "e")
    store = Keeping("a", "b", "c", "d")

    assert unneeded(pool, ROOMY, cast(Storage, store)) == 0
    assert unneeded(pool, ROOMY, cast(Storage, store)) == 1
    assert unneeded(pool, ROOMY, cast(Storage, store)) == 0
    assert store.tried == ["a", "b", "c", "d", "e"]


def test_a_store_that_is_down_is_not_tried_for_each_object(pool: db.Pool) -> None:
    left_over(pool, *(f"k{n}" for n in range(50)))
    store = Keeping(is_down=True)

    assert unneeded(pool, ROOMY, cast(Storage, store)) == 0
    assert len(store.tried) == 3
    assert len(known_unneeded(pool)) == 50
