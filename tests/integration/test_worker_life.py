"""The life of tasks in a worker: from a row to a stored file, or to the failure that its readers are told."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from asynch import db, settings
from asynch.domain.states import State
from asynch.secretbox import SecretBox
from asynch.web import Parts
from tests.database import CALLS, all_rows
from tests.life import Life, MoodyStore, living
from tests.live import KEY, serving
from tests.model_server import ModelServer
from tests.rows import TENANT, ago, bend, row_of
from tests.task_api import Api
from tests.waiting import until


@pytest.fixture
def dsn(own_dsn: str) -> str:
    return own_dsn


# -- success -------------------------------------------------------------------------------------------------------


def test_a_result_is_stored_as_it_came(life: Life) -> None:
    payload = '{"echo": true, "b": 1, "a": 12345678901234567890.10, "n": "\\u0000"}'
    task = life.one(payload)

    assert life.result(task) == payload.encode()  # and so had the model got it, to the byte


def test_the_row_of_a_success_tells_all_about_its_file(life: Life) -> None:
    task = life.one({"kind": "wav", "size": 5000})
    body = life.result(task)

    row = life.ended(task)
    told = (row["file_size"], row["sha256"], row["file_type"], row["content_type"])
    assert told == (5000, hashlib.sha256(body).hexdigest(), "wav", "audio/wav")
    assert (row["attempt"], row["retry_count"], row["phase"], row["tmp_file"], row["error_code"]) == (1, 0, 0, "", "")
    assert row["created_at"] <= row["started_at"] <= row["finished_at"]
    assert [record["outcome"] for record in row["attempts"]] == ["saved", "delivered"]


def test_an_empty_answer_is_a_result(life: Life) -> None:
    assert life.result(life.one({"size": 0})) == b""


def test_a_success_leaves_no_temporary_file(life: Life) -> None:
    task = life.one({})
    life.result(task)

    until(lambda: not [name for name in life.tmp_files() if f"_{task}_" in name])


def seen(life: Life, task_id: int) -> dict[str, Any]:
    """What the model says that it was asked."""
    request: dict[str, Any] = json.loads(life.result(task_id))
    request["headers"] = {name.lower(): value for name, value in request["headers"]}
    return request


def test_a_get_sends_the_payload_as_a_query(life: Life) -> None:
    task = life.one({"echo": "request", "n": 1, "deep": {"a": [1, 2]}}, http_method="GET", route="r?kept=1")

    request = seen(life, task)
    assert request["method"] == "GET"
    assert request["target"].startswith("/r?kept=1&")
    assert "n=1" in request["target"]
    assert "deep=%7B%22a%22" in request["target"]


def test_a_call_says_which_task_and_attempt_it_is(life: Life) -> None:
    task = life.one({"echo": "request"})

    headers = seen(life, task)["headers"]
    assert (headers["x-asynch-task-id"], headers["x-asynch-attempt"], headers["idempotency-key"]) == (
        str(task), "1", str(task),
    )  # fmt: skip


def test_a_call_has_the_models_bound_headers(life: Life) -> None:
    sealed = SecretBox([KEY]).seal(TENANT, "api_key", 'Authorization:"Bearer x,y",X-Two:2')
    task = life.one({"echo": "request"}, api_key=sealed)

    headers = seen(life, task)["headers"]
    assert (headers["authorization"], headers["x-two"]) == ("Bearer x,y", "2")


@pytest.mark.parametrize(
    ("fields", "body"), [({"input_ref": "s3://in/1"}, {"inputRef": "s3://in/1"}), ({}, {})], ids=["inputRef", "nothing"]
)
def test_without_a_payload_the_model_gets_the_reference_or_nothing(
    life: Life, fields: dict[str, Any], body: dict[str, Any]
) -> None:
    task = life.one(None, fields=fields, route="r?echo=true")

    assert json.loads(life.result(task)) == body


def test_no_more_calls_of_a_model_are_open_than_it_allows(life: Life) -> None:
    lane = life.lane(max_concurrency=2)
    for task in life.create(lane, *[{"sleep": 0.2}] * 8):
        life.result(task)

    assert life.model.ledger.max_open_by_path[f"/{lane[1]}"] == 2


def test_a_paused_lane_waits_and_runs_when_it_is_opened(life: Life) -> None:
    lane = life.lane(enabled=0)
    (task,) = life.create(lane, {})
    life.result(life.one({}))  # the worker has been round
    assert row_of(life.pool, task)["attempt"] == 0

    with db.transaction(life.pool) as conn:
        conn.execute("UPDATE asynch_models SET enabled = 1 WHERE lane_id = %s", (lane[0],))

    life.result(task)


def test_every_call_that_starts_is_counted(life: Life) -> None:
    lane = life.lane(retry_times=2)
    life.ended(life.create(lane, {"status": 500})[0])

    found = all_rows(life.pool, f"SELECT request_count FROM {CALLS} WHERE model_name = %s", lane[1])
    assert found == [{"request_count": 3}]


# -- failure -------------------------------------------------------------------------------------------------------


def test_a_failed_call_is_told_with_its_status_and_body(life: Life) -> None:
    row = life.ended(life.one({"status": 418, "kind": "text"}))

    assert (row["state"], row["error_code"], row["error_retryable"]) == (State.FAILED, "model_http_error", False)
    (record,) = row["attempts"]
    assert (record["outcome"], record["httpStatus"], record["code"]) == ("failed", 418, "model_http_error")
    assert "418" in row["error_msg"]


def test_a_failed_call_is_repeated_until_it_works(life: Life) -> None:
    task = life.one({"fail_times": 2}, retry_times=2)
    life.result(task)

    row = life.ended(task)
    assert (row["attempt"], row["retry_count"], row["error_code"]) == (3, 2, "")
    assert [entry.attempt for entry in life.calls(task)] == [1, 2, 3]


def test_a_repetition_waits_for_its_back_off(life: Life) -> None:
    task = life.one({"fail_times": 1}, retry_times=1, retry_backoff_seconds=2)
    life.result(task)

    failed, repeated = life.calls(task)
    assert repeated.start - failed.start >= 2.0


def test_a_task_fails_for_good_when_its_retries_are_used_up(life: Life) -> None:
    task = life.one({"status": 500}, retry_times=1)

    assert life.ended(task)["retry_count"] == 1
    assert len(life.calls(task)) == 2


def test_what_no_repetition_can_mend_is_not_repeated_where_only_transient_failures_are(life: Life) -> None:
    task = life.one({"status": 400}, retry_times=5, retry_on="transient")
    life.ended(task)

    assert len(life.calls(task)) == 1


def test_a_model_that_cannot_be_reached_is_a_failed_connection(life: Life) -> None:
    with ModelServer() as gone:
        url = gone.url

    row = life.ended(life.one({}, base_url=url))

    assert (row["error_code"], row["error_retryable"]) == ("model_connection", True)


def test_a_call_that_takes_too_long_is_cut(life: Life) -> None:
    task = life.one({"hang": True}, timeout_seconds=1)

    row = life.ended(task)
    assert (row["error_code"], row["error_retryable"]) == ("model_timeout", True)
    until(lambda: life.calls(task)[0].client_gone)


def test_no_call_takes_longer_than_the_worker_allows(dsn: str, pool: db.Pool, tmp_path: Path) -> None:
    with ModelServer() as model, living(dsn, tmp_path, task_timeout=1) as (setup, _, _, moody):
        life = Life(pool, model, tmp_path, setup, moody, count(1))

        row = life.ended(life.one({"hang": True}, timeout_seconds=600))

    assert (row["state"], row["error_code"]) == (State.FAILED, "model_timeout")


def test_an_answer_that_breaks_off_is_no_result(life: Life) -> None:
    row = life.ended(life.one({"size": 100_000, "cut_after": 50_000}))

    assert (row["state"], row["oss_file"], row["phase"]) == (State.FAILED, "", 0)


def test_an_answer_that_is_too_large_fails(life: Life) -> None:
    row = life.ended(life.one({"size": 1001}, max_result_bytes=1000, retry_times=0))

    assert row["error_code"] == "result_too_large"


def test_header_bindings_that_cannot_be_read_fail_the_attempt_not_the_worker(life: Life) -> None:
    sealed_by_others = SecretBox(["B" * 43 + "="]).seal(TENANT, "api_key", "A:1")

    assert life.ended(life.one({}, api_key=sealed_by_others))["error_code"] == "internal"
    life.result(life.one({}))


@pytest.mark.parametrize("phase", [1, 0])
def test_an_outcome_that_postgres_refuses_fails_the_attempt_and_not_the_worker(life: Life, phase: int) -> None:
    lane = life.lane()
    refused = f"model_name <> '{lane[1]}' OR state NOT IN (1, 2) OR attempt <> 1 OR phase <> {phase} OR oss_file = ''"
    with db.transaction(life.pool) as conn:
        conn.execute(f"ALTER TABLE asynch_task ADD CONSTRAINT refused CHECK ({refused})".encode())
    life.store.down = phase == 1  # else a result may be delivered without it
    try:
        (task,) = life.create(lane, {"size": 10})
        until(lambda: row_of(life.pool, task)["error_code"] in ("internal", "storage_error"))
    finally:
        life.store.down = False
        with db.transaction(life.pool) as conn:
            conn.execute("ALTER TABLE asynch_task DROP CONSTRAINT refused")

    assert life.result(life.one({"size": 10}))


def test_a_failed_call_leaves_no_temporary_file(life: Life) -> None:
    task = life.one({"size": 100_000, "cut_after": 50_000})
    life.ended(task)

    until(lambda: not [name for name in life.tmp_files() if f"_{task}_" in name])


# -- cancelled -----------------------------------------------------------------------------------------------------


def test_a_running_call_is_cut_when_its_task_is_cancelled(life: Life) -> None:
    task = life.one({"hang": True})
    until(lambda: life.calls(task))

    life.cancel([task])

    row = life.ended(task)
    assert (row["state"], row["error_code"], row["retry_count"]) == (State.CANCELLED, "cancelled", 0)
    until(lambda: life.calls(task)[0].client_gone)
    until(lambda: not [name for name in life.tmp_files() if f"_{task}_" in name])


def test_a_running_call_is_cut_by_a_cancellation_over_http(life: Life) -> None:
    parts = Parts(settings.build({"data_dir": str(life.home)}), life.pool, life.setup.box, life.setup.storage)
    with serving(parts) as live:
        api = Api(live, tenant=TENANT)
        answer = api.post("createTask", {"modelName": life.lane()[1], "requestPayload": {"hang": True}})
        task = answer.json()["taskId"]
        until(lambda: life.calls(task))

        assert api.post(f"{task}/cancel").status_code == 200

        until(lambda: life.calls(task)[0].client_gone)
        until(lambda: api.status(task)["status"] == "cancelled")


def test_a_cancelled_call_gives_its_slot_to_the_next(life: Life) -> None:
    first, second = life.create(life.lane(max_concurrency=1), {"hang": True}, {})
    until(lambda: life.calls(first))

    life.cancel([first])

    life.result(second)


# -- the store -----------------------------------------------------------------------------------------------------


@pytest.fixture
def store_is_down(life: Life) -> Iterator[MoodyStore]:
    life.store.down = True
    yield life.store
    life.store.down = False


def hurry(life: Life, task: int) -> None:
    """Have the back-off of an upload over."""
    until(lambda: row_of(life.pool, task)["upload_failures"] == 1)
    bend(life.pool, [task], wake_at=ago(1), enqueue_at=ago(1))


def test_a_result_that_could_not_be_stored_is_stored_later_without_another_call(
    life: Life, store_is_down: MoodyStore
) -> None:
    task = life.one({"echo": True, "x": 1})
    until(lambda: row_of(life.pool, task)["upload_failures"] == 1)
    row = row_of(life.pool, task)
    assert (row["state"], row["final"], row["phase"], row["retry_count"]) == (State.FAILED, False, 1, 0)
    assert row["error_code"] == "storage_error"

    store_is_down.down = False
    hurry(life, task)

    assert json.loads(life.result(task)) == {"echo": True, "x": 1}
    assert len(life.calls(task)) == 1
    row = life.ended(task)
    assert (row["attempt"], row["retry_count"], row["error_code"]) == (2, 0, "")


def test_another_upload_is_not_counted_as_a_call(life: Life, store_is_down: MoodyStore) -> None:
    lane = life.lane()
    (task,) = life.create(lane, {})
    until(lambda: row_of(life.pool, task)["upload_failures"] == 1)
    store_is_down.down = False
    hurry(life, task)
    life.result(task)

    found = all_rows(life.pool, f"SELECT request_count FROM {CALLS} WHERE model_name = %s", lane[1])
    assert found == [{"request_count": 1}]


def test_a_store_that_is_down_takes_no_slot_of_a_model(life: Life, store_is_down: MoodyStore) -> None:
    lane = life.lane(max_concurrency=1)
    tasks = life.create(lane, *[{}] * 5)

    until(lambda: all(life.calls(task) for task in tasks))


def test_a_saved_result_that_is_gone_is_called_again(life: Life, store_is_down: MoodyStore) -> None:
    task = life.one({})
    until(lambda: row_of(life.pool, task)["upload_failures"] == 1)
    life.setup.tmp.remove(row_of(life.pool, task)["tmp_file"])

    store_is_down.down = False
    hurry(life, task)

    life.result(task)
    assert len(life.calls(task)) == 2
    assert row_of(life.pool, task)["retry_count"] == 0


def test_an_upload_can_be_cancelled_while_it_waits_for_its_store(life: Life, store_is_down: MoodyStore) -> None:
    task = life.one({})
    until(lambda: row_of(life.pool, task)["upload_failures"] == 1)

    life.cancel([task])

    assert life.ended(task)["state"] == State.CANCELLED


# -- the end of the worker -----------------------------------------------------------------------------------------


@pytest.fixture
def own(dsn: str, pool: db.Pool, tmp_path: Path) -> Iterator[tuple[Life, threading.Event, threading.Thread]]:
    """A worker that a test may end, on a database of its own."""
    with ModelServer() as model, living(dsn, tmp_path, drain_timeout=1.0) as (setup, stop, thread, moody):
        yield Life(pool, model, tmp_path, setup, moody, count(1)), stop, thread


Own = tuple[Life, threading.Event, threading.Thread]


def test_a_stopping_worker_lets_its_calls_end(own: Own) -> None:
    life, stop, thread = own
    task = life.one({"sleep": 0.5})
    until(lambda: life.calls(task))

    stop.set()
    thread.join(20)

    assert row_of(life.pool, task)["state"] == State.SUCCEEDED
    assert life.result(task)


def test_a_stopping_worker_claims_nothing_more(own: Own) -> None:
    life, stop, thread = own
    running, waiting = life.create(life.lane(max_concurrency=1), {"sleep": 0.5}, {})
    until(lambda: life.calls(running))

    stop.set()
    thread.join(20)

    assert row_of(life.pool, waiting)["attempt"] == 0


def test_a_call_that_does_not_end_in_time_goes_back_untouched(own: Own) -> None:
    life, stop, thread = own
    task = life.one({"hang": True})
    until(lambda: life.calls(task))
    before = row_of(life.pool, task)

    stop.set()
    thread.join(20)

    row = row_of(life.pool, task)
    same = ("rank", "enqueue_at", "retry_count", "crash_count", "phase")
    assert [row[name] for name in same] == [before[name] for name in same]
    assert (row["state"], row["error_code"]) == (State.PENDING, "")
    assert row["attempts"][-1]["outcome"] == "released"


def test_a_stopped_worker_leaves_no_trace_among_the_living(own: Own) -> None:
    life, stop, thread = own
    life.result(life.one({}))
    stop.set()
    thread.join(20)

    assert all_rows(life.pool, "SELECT * FROM asynch_worker") == []
    until(
        lambda: (
            not all_rows(
                life.pool,
                "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'asynch-worker%%' AND datname = current_database()",
            )
        )
    )


def test_a_worker_that_lost_its_session_starts_over_and_blames_nobody(own: Own) -> None:
    life, _, _ = own
    task = life.one({"sleep": 1.0})
    until(lambda: life.calls(task))
    (first,) = all_rows(life.pool, "SELECT id FROM asynch_worker")

    with db.connection(life.pool) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND objid = %s "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            (first["id"],),
        )

    life.result(task)
    row = row_of(life.pool, task)
    assert (row["crash_count"], row["retry_count"]) == (0, 0)
    assert row["worker_id"] > first["id"]
