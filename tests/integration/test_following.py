"""Models that answer 202 and work on: asked again without a thread each, through restarts, within limit and time."""

from __future__ import annotations

import threading
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from asynch import db
from asynch.domain.states import State
from tests.database import CALLS, all_rows
from tests.life import Life, living
from tests.model_jobs import Job
from tests.model_server import ModelServer
from tests.rows import TENANT, add_model, ago, bend, row_of
from tests.waiting import until

SOON = {"retry_after": 0}


@pytest.fixture
def dsn(own_dsn: str) -> str:
    return own_dsn


def later(**steer: Any) -> dict[str, Any]:
    return {"later": {**SOON, **steer}}


def job_of(life: Life, task: int) -> Job:
    until(lambda: life.model.jobs.of(task))
    (job,) = life.model.jobs.of(task)
    return job


def record(life: Life, task: int) -> list[str]:
    return [line["outcome"] for line in life.ended(task)["attempts"]]


# -- how a result comes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steer",
    [
        {"looks": 1},
        {"looks": 1, "then": "303"},
        {"bodies": [202, {"status": "succeeded", "resultUrl": "$/result"}]},
        {"bodies": [{"state": "RUNNING"}, {"state": "done", "output": ["$/result"]}]},
        {"bodies": [503, 429, {"status": "done", "_links": {"result": {"href": "$/result"}}}]},
    ],
)
def test_the_result_is_fetched_from_where_the_model_says(life: Life, steer: dict[str, Any]) -> None:
    task = life.one(later(**steer))

    assert life.result(task) == b"the result"
    assert len(life.calls(task)) == 1
    assert record(life, task) == ["deferred", "saved", "delivered"]
    row = life.ended(task)
    assert (row["poll_url"], row["attempt"], row["retry_count"]) == ("", 1, 0)
    assert not [name for name in life.tmp_files() if f"_{task}_" in name]


def test_a_document_that_is_done_without_a_link_is_the_result(life: Life) -> None:
    task = life.one(later(bodies=[{"status": "running"}, '{"status": "done", "text": "hello"}']))

    assert life.result(task) == b'{"status": "done", "text": "hello"}'


def test_a_202_without_a_location_is_a_result(life: Life) -> None:
    task = life.one({"status": 202, "echo": True})

    assert b'"status": 202' in life.result(task)


def test_the_status_tells_the_progress(life: Life) -> None:
    said = {"status": "running", "progress": 0.4, "message": "step\u00002 of 5"}
    task = life.one(later(looks=10**6, working=said))

    until(lambda: row_of(life.pool, task)["progress"] is not None)
    row = row_of(life.pool, task)
    assert (row["progress"], row["message"], row["state"]) == (40.0, "step\ufffd2 of 5", State.RUNNING)
    before = len(job_of(life, task).looks)
    until(lambda: len(job_of(life, task).looks) >= before + 2)
    assert row_of(life.pool, task)["version"] == row["version"]  # nothing new, nothing written
    life.cancel([task])
    life.ended(task)


def test_a_model_is_asked_when_it_wishes_and_else_ever_more_seldom(life: Life) -> None:
    patient = life.one({"later": {"looks": 1, "retry_after": 2}})
    eager = life.one({"later": {"seconds": 4}})
    life.result(patient)
    life.result(eager)

    assert len(pauses(job_of(life, patient))) == 2
    assert all(1.95 < pause < 4 for pause in pauses(job_of(life, patient)))
    assert 3 <= len(pauses(job_of(life, eager))) <= 4
    assert all(0.75 < pause / 1.5**n < 2.5 for n, pause in enumerate(pauses(job_of(life, eager))))


def pauses(job: Job) -> list[float]:
    return [later - sooner for sooner, later in pairwise([job.created, *(at for at, _, _ in job.looks)])]


def test_a_result_whose_upload_fails_is_asked_for_no_more(life: Life) -> None:
    life.store.down = True
    try:
        task = life.one(later(looks=1))
        until(lambda: row_of(life.pool, task)["upload_failures"])
        assert (row_of(life.pool, task)["phase"], row_of(life.pool, task)["poll_url"]) == (1, "")
    finally:
        life.store.down = False
    bend(life.pool, [task], enqueue_at=ago(1), wake_at=ago(1))
    assert life.result(task) == b"the result"
    assert len(job_of(life, task).looks) == 2


# -- how it fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        ({"status": "failed", "error": "no such voice"}, "model_http_error", "no such voice"),
        ({"status": "canceled"}, "model_http_error", "reports a failure"),
        (404, "model_http_error", "HTTP 404"),
        (410, "model_http_error", "HTTP 410"),
        (403, "model_http_error", "HTTP 403"),
        ({"status": "done", "resultUrl": "ftp://x.example/r"}, "model_http_error", ""),
    ],
)
def test_a_model_that_fails_fails_the_attempt(life: Life, body: Any, code: str, detail: str) -> None:
    task = life.one(later(bodies=[{"status": "running"}, body]))
    if detail == "":  # no link that can be followed: the document is the result
        assert b"ftp" in life.result(task)
        return

    row = life.ended(task)
    assert (row["state"], row["error_code"], row["poll_url"]) == (State.FAILED, code, "")
    assert detail in row["error_msg"]


def test_a_failed_one_is_called_again_by_the_rule_of_its_lane(life: Life) -> None:
    task = life.one(later(bodies=[{"status": "failed"}]), retry_times=1)

    row = life.ended(task)
    assert (row["state"], row["retry_count"], row["attempt"]) == (State.FAILED, 1, 2)
    assert [job.headers["X-Asynch-Attempt"] for job in life.model.jobs.of(task)] == ["1", "2"]


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("ftp://127.0.0.1/x", "bad_response"),
        ("http://user:secret@127.0.0.1/x", "bad_response"),
        ("//[", "bad_response"),
        ("/" + "x" * 3000, "bad_response"),
        ("http://169.254.169.254/latest/meta-data", "egress_blocked"),
        ("http://10.0.0.1/x", "egress_blocked"),
    ],
)
def test_a_location_that_may_not_be_called_fails_the_attempt(life: Life, location: str, code: str) -> None:
    task = life.one(later(location=location))

    row = life.ended(task)
    assert (row["state"], row["error_code"], row["error_retryable"]) == (State.FAILED, code, False)


def test_a_model_has_its_time_and_no_more(life: Life) -> None:
    slow = life.one(later(looks=10**6), timeout_seconds=2)
    silent = life.one(later(bodies=[0]), timeout_seconds=2)
    broken = life.one(later(bodies=[500]), timeout_seconds=2)

    for task in (slow, silent, broken):
        row = life.ended(task)
        assert (row["state"], row["error_code"]) == (State.FAILED, "model_timeout")
        assert 1.9 < (row["finished_at"] - row["started_at"]).total_seconds() < 10


@pytest.mark.parametrize("bodies", [[{"status": "running"}], [0]])
def test_a_cancelled_one_is_asked_no_more(life: Life, bodies: list[Any]) -> None:
    task = life.one({"later": {"bodies": bodies, "retry_after": 600 if bodies != [0] else 0}})
    job = job_of(life, task)
    until(lambda: job.looks or bodies != [0])
    until(lambda: row_of(life.pool, task)["poll_url"])

    life.cancel([task])

    until(lambda: row_of(life.pool, task)["final"], 3.0)
    assert life.ended(task)["state"] == State.CANCELLED
    looks = len(job.looks)
    with suppress(AssertionError):
        until(lambda: len(job.looks) > looks, 1.0)
    assert len(job.looks) == looks


# -- who is told what ----------------------------------------------------------------------------------------------


def test_bound_headers_go_to_the_models_own_origin_alone(life: Life) -> None:
    key = life.setup.box.seal(TENANT, "api_key", "X-Key:secret")
    with ModelServer() as elsewhere:
        elsewhere.jobs.accept({"looks": 1, **SOON}, "other", {})
        home = life.one(later(looks=1), api_key=key)
        away = life.one(later(location=f"{elsewhere.url}/jobs/1"), api_key=key)
        hop = life.one(later(bodies=[{"status": "done", "resultUrl": f"{elsewhere.url}/jobs/1/result"}]), api_key=key)
        assert [life.result(task) for task in (home, away, hop)] == [b"the result"] * 3
        strange = [headers for _, _, headers in elsewhere.jobs.all["/jobs/1"].looks]

    own = [headers for _, _, headers in job_of(life, home).looks]
    assert {h["X-Key"] for h in own} == {"secret"}
    assert {(h["X-Asynch-Task-Id"], h["X-Asynch-Attempt"], h["Idempotency-Key"]) for h in own} == {
        (str(home), "1", str(home))
    }
    assert len(strange) == 3
    assert all(h.keys() == {"Host", "User-Agent", "Accept", "Accept-Encoding"} for h in strange)


# -- many, and the limit -------------------------------------------------------------------------------------------


def test_two_hundred_wait_without_a_thread_each(life: Life) -> None:
    lane = life.lane(max_concurrency=200, timeout_seconds=600)
    before = threading.active_count()
    tasks = life.create(lane, *[{"later": {"seconds": 4, "retry_after": 3}}] * 200)
    plain = life.one({})  # the threads are free for others meanwhile

    until(lambda: len([r for r in rows(life, lane[0]) if r["poll_url"]]) > 150, 30.0)
    assert life.ended(plain)["state"] == State.SUCCEEDED
    workers_threads = threading.active_count() - before - life.model.connections
    until(lambda: all(r["final"] for r in rows(life, lane[0])), 60.0)

    assert workers_threads < 20
    assert {r["state"] for r in rows(life, lane[0])} == {State.SUCCEEDED}
    assert all(len(life.calls(task)) == 1 for task in tasks)


def rows(life: Life, lane: int) -> list[db.Row]:
    return all_rows(life.pool, "SELECT state, final, poll_url FROM asynch_task WHERE lane_id = %s", lane)


def test_who_waits_for_its_model_keeps_its_slot(life: Life) -> None:
    lane = life.lane(max_concurrency=2)
    first, second, third = life.create(lane, *[later(seconds=2)] * 3)
    ends = {task: job_of(life, task) for task in (first, second)}
    until(lambda: all(job.looks for job in ends.values()))

    assert not life.calls(third)
    assert life.result(third) == b"the result"
    assert min(job.looks[-1][0] for job in ends.values()) < job_of(life, third).created


# -- restarts ------------------------------------------------------------------------------------------------------


def test_a_stopped_worker_hands_over_at_once_and_the_next_asks_on(life: Life, dsn: str, tmp_path: Path) -> None:
    with ModelServer() as model, db.open_pool(dsn, size=2, name="tests") as pool:
        lane = add_model(pool, "m", base_url=model.url, route="r", max_concurrency=1, timeout_seconds=600)
        with living(dsn, tmp_path, drain_timeout=30) as (setup, stop, thread, moody):
            here = Life(pool, model, tmp_path, setup, moody, count(1))
            (task,) = here.create((lane, "m"), later(seconds=10**6, working={"status": "running", "progress": 10}))
            until(lambda: row_of(pool, task)["progress"])
            stop.set()
            thread.join(5)
            assert not thread.is_alive()  # it had not to wait for the model
        between = row_of(pool, task)
        assert (between["state"], bool(between["poll_url"]), between["progress"]) == (State.PENDING, True, 10.0)
        (urgent,) = here.create((lane, "m"), {}, priority=9)

        job = job_of(here, task)
        looks = len(job.looks)
        with living(dsn, tmp_path):
            until(lambda: len(job.looks) > looks)  # before the other, whatever its priority
            assert not here.calls(urgent)
            job.steer = {}
            assert here.result(task) == b"the result"
            assert here.ended(urgent)["state"] == State.SUCCEEDED

        row = here.ended(task)
        assert (row["attempt"], row["call_attempt"], row["retry_count"], row["crash_count"]) == (2, 1, 0, 0)
        assert row["started_at"] == between["started_at"]
        assert job.looks[-1][2]["X-Asynch-Attempt"] == "1"
        assert len(here.calls(task)) == 1
        counted = all_rows(pool, f"SELECT sum(request_count) AS n FROM {CALLS}")
        assert counted[0]["n"] == 2


def test_the_models_time_goes_on_while_no_worker_runs(life: Life, dsn: str, tmp_path: Path) -> None:
    with ModelServer() as model, db.open_pool(dsn, size=2, name="tests") as pool:
        lane = add_model(pool, "m", base_url=model.url, timeout_seconds=600)
        with living(dsn, tmp_path) as (setup, _, _, moody):
            here = Life(pool, model, tmp_path, setup, moody, count(1))
            (task,) = here.create((lane, "m"), later(seconds=10**6))
            until(lambda: row_of(pool, task)["poll_url"])
        bend(pool, [task], started_at=row_of(pool, task)["started_at"].replace(year=2020))

        with living(dsn, tmp_path):
            row = here.ended(task)

        assert (row["state"], row["error_code"]) == (State.FAILED, "model_timeout")
