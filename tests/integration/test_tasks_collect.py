from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

import pytest
import requests

from asynch import db
from asynch.worker import outcomes
from tests import rows
from tests.live import Live, MakeParts, serving
from tests.rows import row_of, rows_of
from tests.task_api import BODY, TERMS, Api, Hand, expire, pointers, problem, purge_rows
from tests.waiting import until

EVERY_CALL = {"mark_fetched": ["getTaskBatch", "getTaskResult", "result"]}
ITEM = {
    "taskId", "modelName", "bizName", "clientRef", "metadata", "priority", "state", "status", "final", "phase",
    "progress", "message", "ossFile", "fileType", "fileSize", "errorMsg", "retryCount", "createdAt", "startedAt",
    "finishedAt", "expireAt",
}  # fmt: skip


@pytest.fixture
def done(api: Api, hand: Hand) -> str:
    """A task whose result nobody has fetched."""
    api.model(autoCleanSeconds=3600)
    task_id = api.create()
    hand.succeed(task_id)
    return task_id


# getTaskBatch: what is asked and what comes back


def test_items_come_in_the_order_asked(api: Api) -> None:
    api.model()
    ids = api.fill(20)[::-3]

    assert [item["taskId"] for item in api.collect(*ids)["list"]] == ids


def test_an_item_has_the_contracts_members(api: Api, done: str) -> None:
    assert set(api.collect(done)["list"][0]) == ITEM


def test_ids_may_be_texts_or_numbers_and_are_answered_once(api: Api) -> None:
    api.model()
    one, two = api.create(), api.create()
    found = api.collect(two, int(one), one, int(two), two)

    assert [item["taskId"] for item in found["list"]] == [two, one]


def test_what_never_was_is_missing_as_it_was_asked(api: Api) -> None:
    api.model()
    task_id = api.create()
    odd = ["0", "-1", "1", str(2**63), str(2**64), "x", "", "1.0", " 1", "１２", "NaN", "%", "9" * 500]

    assert api.collect(*odd, task_id, "x", 7) == {
        "list": api.collect(task_id)["list"],
        "missing": [*odd, "7"],
        "gone": [],
    }


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({}, "#/taskIds"), ({"taskIds": None}, "#/taskIds"), ({"taskIds": "1"}, "#/taskIds"),
     ({"taskIds": [1.5]}, "#/taskIds/0"), ({"taskIds": ["1", None]}, "#/taskIds/1"), ({"taskIds": [True]}, "#/taskIds/0"),
     ({"taskIds": [["1"]]}, "#/taskIds/0"), ({"taskIds": [10**5000]}, "#/taskIds/0"), ({"taskIds": [], "x": 1}, "#/x"),
     ({"taskIds": ["1"] * 1001}, "#/taskIds"), ({"taskIds": ["\ud800"]}, "#/taskIds/0"),
     ({"taskIds": [], "waitSeconds": 31}, "#/waitSeconds"), ({"taskIds": [], "waitSeconds": -1}, "#/waitSeconds"),
     ({"taskIds": [], "waitSeconds": "1"}, "#/waitSeconds")],
)  # fmt: skip
def test_a_question_that_cannot_be_is_refused_at_its_place(api: Api, body: dict[str, Any], pointer: str) -> None:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    text = json.dumps(body)
    sys.set_int_max_str_digits(limit)

    assert pointers(api.post("getTaskBatch", text)) == [pointer]


def test_a_thousand_ids_are_answered(api: Api) -> None:
    api.model(queueLimit=2000)
    ids = api.fill(1000)

    assert [item["taskId"] for item in api.collect(*ids)["list"]] == ids


def test_no_ids_are_no_items(api: Api) -> None:
    assert api.collect() == {"list": [], "missing": [], "gone": []}


# waitSeconds


def test_waiting_ends_when_the_last_named_task_is_final(api: Api, hand: Hand) -> None:
    api.model()
    one, two = api.create(), api.create()
    hand.succeed(one)
    claims = hand.take(two)

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(api.collect, one, two, "nobody", waitSeconds=30)
        threading.Event().wait(0.3)
        assert not waiting.done()
        began = monotonic()
        hand.settle(*[outcomes.delivered(TERMS, claim) for claim in hand.save(*claims)])
        found = waiting.result()

    assert [item["final"] for item in found["list"]] == [True, True]
    assert monotonic() - began < 5


def test_waiting_ends_with_its_time(api: Api) -> None:
    api.model()
    task_id = api.create()
    began = monotonic()
    found = api.collect(task_id, waitSeconds=0.4)

    assert 0.4 <= monotonic() - began < 5
    assert [item["state"] for item in found["list"]] == [0]


def test_nothing_is_waited_for_where_nothing_can_come(api: Api, done: str) -> None:
    began = monotonic()
    api.collect(done, "nobody", waitSeconds=30)

    assert monotonic() - began < 5


# Fetching


def test_the_first_fetch_reports_2_and_later_ones_4_with_a_time_that_never_moves(api: Api, done: str) -> None:
    first, *later = (api.collect(done)["list"][0] for _ in range(4))

    assert (first["state"], first["status"], first["final"]) == (2, "completed", True)
    assert {(item["state"], item["status"], item["expireAt"]) for item in later} == {
        (4, "completed", first["expireAt"])
    }


def test_a_fetched_result_expires_after_auto_clean_seconds_from_the_fetch(api: Api, done: str, pool: db.Pool) -> None:
    api.collect(done)
    row = row_of(pool, int(done))

    assert row["expire_at"] - row["updated_at"] == timedelta(seconds=3600)


def test_each_fetch_gives_the_same_file(api: Api, done: str) -> None:
    urls = [api.collect(done)["list"][0]["ossFile"] for _ in range(2)]

    assert len({url.partition("?")[0] for url in urls}) == 1
    assert [local(api.live, url).content for url in urls] == [BODY, BODY]


def local(live: Live, url: str) -> requests.Response:
    """A link of this server, called where it really listens."""
    path = url.removeprefix("http://127.0.0.1")
    return live.call("GET", path)


def test_of_many_readers_at_once_one_sees_2_and_all_the_same_expiry(api: Api, done: str) -> None:
    start = threading.Barrier(12)

    def fetch(_: int) -> tuple[int, str]:
        start.wait()
        item = Api(Live(api.live.url, api.live.parts)).collect(done)["list"][0]
        return item["state"], item["expireAt"]

    with ThreadPoolExecutor(12) as threads:
        seen = list(threads.map(fetch, range(12)))

    assert Counter(state for state, _ in seen) == {2: 1, 4: 11}
    assert len({expiry for _, expiry in seen}) == 1
    assert None not in dict(seen).values()


def test_a_reader_that_had_to_wait_for_another_sees_what_he_left(api: Api, done: str, pool: db.Pool) -> None:
    with ThreadPoolExecutor(1) as threads:
        with db.transaction(pool) as conn:
            conn.execute(
                "UPDATE asynch_task SET state = 4, expire_at = '2999-01-01', wake_at = '2999-01-01' WHERE id = %s",
                (done,),
            )
            second = threads.submit(api.collect, done)
            until(lambda: waiters(pool))
        (item,) = second.result()["list"]

    assert (item["state"], item["expireAt"]) == (4, "2999-01-01T00:00:00.000Z")


def waiters(pool: db.Pool) -> int:
    """How many sessions wait for a lock."""
    with db.connection(pool) as conn:
        row = conn.execute("SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone()
    assert row is not None
    count: int = row["n"]
    return count


@pytest.mark.parametrize("state", ["waiting", "running", "failed", "cancelled"])
def test_only_a_success_is_moved_by_reading(api: Api, hand: Hand, pool: db.Pool, state: str) -> None:
    api.model()
    task_id = api.create()
    if state == "running":
        hand.take(task_id)
    if state == "failed":
        hand.fail(task_id)
    if state == "cancelled":
        api.post(f"{task_id}/cancel")
    before = row_of(pool, int(task_id))
    api.collect(task_id)
    api.get(f"{task_id}/result")

    assert row_of(pool, int(task_id)) == before


READS: dict[str, tuple[str, str]] = {
    "status": ("GET", "/task/{}"),
    "HEAD status": ("HEAD", "/task/{}"),
    "getTaskResult": ("GET", "/task/getTaskResult?taskId={}"),
    "HEAD getTaskResult": ("HEAD", "/task/getTaskResult?taskId={}"),
    "result": ("GET", "/task/{}/result"),
    "HEAD result": ("HEAD", "/task/{}/result"),
    "OPTIONS result": ("OPTIONS", "/task/{}/result"),
}


@pytest.mark.parametrize("read", READS)
def test_calls_that_are_not_named_in_mark_fetched_move_nothing(api: Api, done: str, pool: db.Pool, read: str) -> None:
    before = row_of(pool, int(done))
    method, path = READS[read]
    assert api.call(method, path.format(done)).status_code in (200, 303)
    api.listed(includePayload=True)

    assert row_of(pool, int(done)) == before


@pytest.mark.parametrize("read", READS)
def test_calls_that_are_named_mark_but_never_by_head(make_parts: MakeParts, dsn: str, pool: db.Pool, read: str) -> None:
    with serving(make_parts(server=EVERY_CALL)) as live, rows.worker(dsn) as worker:
        api, hand = Api(live), Hand(worker, live)
        api.model()
        task_id = api.create()
        hand.succeed(task_id)
        method, path = READS[read]
        assert api.call(method, path.format(task_id)).status_code in (200, 303)

        assert row_of(pool, int(task_id))["state"] == (4 if read in EVERY_CALL["mark_fetched"] else 2)


def test_get_task_batch_marks_only_where_it_is_named(make_parts: MakeParts, dsn: str, pool: db.Pool) -> None:
    with serving(make_parts(server={"mark_fetched": []})) as live, rows.worker(dsn) as worker:
        api, hand = Api(live), Hand(worker, live)
        api.model()
        task_id = api.create()
        hand.succeed(task_id)

        assert [api.collect(task_id)["list"][0]["state"] for _ in range(2)] == [2, 2]
        assert row_of(pool, int(task_id))["expire_at"] is None


def test_a_marking_get_task_result_reports_2_once(make_parts: MakeParts, dsn: str) -> None:
    with serving(make_parts(server=EVERY_CALL)) as live, rows.worker(dsn) as worker:
        api, hand = Api(live), Hand(worker, live)
        api.model()
        task_id = api.create()
        hand.succeed(task_id)

        assert [api.get(f"getTaskResult?taskId={task_id}").json()["state"] for _ in range(3)] == [2, 4, 4]


# The result


def test_a_finished_task_leads_to_its_file(api: Api, done: str) -> None:
    answer = api.get(f"{done}/result")

    assert answer.status_code == 303
    assert local(api.live, answer.headers["Location"]).content == BODY


def test_a_status_document_tells_of_the_result(api: Api, done: str) -> None:
    told = api.status(done)
    result = told["result"]

    assert (told["state"], told["fileType"], told["fileSize"], told["attempt"]) == (2, "json", len(BODY), 1)
    assert (result["contentType"], result["size"], result["sha256"]) == ("application/json", len(BODY), "0" * 64)
    assert local(api.live, result["url"]).content == BODY
    assert datetime.fromisoformat(result["urlExpiresAt"]) > datetime.fromisoformat(told["finishedAt"])
    assert [(a["attempt"], a["phase"], a["outcome"]) for a in told["attempts"]] == [
        (1, 0, "saved"),
        (1, 1, "delivered"),
    ]


def test_a_final_status_needs_no_retry_after(api: Api, done: str) -> None:
    assert "Retry-After" not in api.get(done).headers
    assert int(api.get(api.create()).headers["Retry-After"]) > 0


def test_a_result_that_is_not_there_yet_is_202_with_the_status(api: Api) -> None:
    api.model()
    task_id = api.create()
    answer = api.get(f"{task_id}/result")

    assert (answer.status_code, answer.json()["taskId"]) == (202, task_id)
    assert int(answer.headers["Retry-After"]) > 0


def test_a_failed_task_has_its_error_and_its_result_is_409(api: Api, hand: Hand) -> None:
    api.model()
    task_id = api.create()
    hand.fail(task_id)
    told = api.status(task_id)

    assert (told["state"], told["status"], told["final"]) == (3, "failed", True)
    assert told["error"] == {"code": "model_http_error", "detail": "the model said no", "retryable": True}
    assert told["errorMsg"] == "the model said no"
    assert problem(api.get(f"{task_id}/result")) == (409, "model_http_error")


def test_a_cancelled_task_has_no_result_409(api: Api) -> None:
    api.model()
    task_id = api.create()
    api.post(f"{task_id}/cancel")

    assert problem(api.get(f"{task_id}/result")) == (409, "cancelled")


def test_a_failure_that_will_be_retried_is_pending_and_not_final(api: Api, hand: Hand) -> None:
    api.model(retryTimes=1, retryBackoffSeconds=60)
    task_id = api.create()
    hand.fail(task_id)
    told = api.status(task_id)

    assert (told["state"], told["status"], told["final"], told["finishedAt"]) == (3, "pending", False, None)
    assert api.get(f"{task_id}/result").status_code == 202


# Gone


def test_past_its_expiry_a_task_is_gone_at_once_everywhere(api: Api, done: str, pool: db.Pool) -> None:
    api.collect(done)
    expire(pool, [done])

    assert api.collect(done) == {"list": [], "missing": [], "gone": [done]}
    for path in (done, f"{done}/result", f"getTaskResult?taskId={done}"):
        answer = api.get(path)
        assert problem(answer) == (410, "gone")
        assert (answer.json()["lastStatus"], answer.json()["lastErrorCode"]) == ("completed", None)
    assert problem(api.post(f"{done}/cancel")) == (410, "gone")
    assert problem(api.post(f"{done}/retry")) == (410, "gone")
    assert api.listed() == {"list": [], "total": 0, "totalCapped": False}


def test_a_purged_success_is_gone_with_its_last_status(api: Api, done: str) -> None:
    api.collect(done)
    purge_rows(api.live, [done])

    assert api.collect(int(done), done, "1") == {"list": [], "missing": ["1"], "gone": [done]}
    for path in (done, f"{done}/result", f"getTaskResult?taskId={done}"):
        answer = api.get(path)
        assert problem(answer) == (410, "gone")
        assert (answer.json()["lastStatus"], answer.json()["lastErrorCode"]) == ("completed", None)


@pytest.mark.parametrize(("how", "status", "code"), [("fail", "failed", "model_http_error"), ("cancel", "cancelled", "cancelled")])  # fmt: skip
def test_a_purged_failure_is_gone_with_its_last_error_code(
    api: Api, hand: Hand, how: str, status: str, code: str
) -> None:
    api.model()
    task_id = api.create()
    if how == "fail":
        hand.fail(task_id)
    else:
        api.post(f"{task_id}/cancel")
    purge_rows(api.live, [task_id])
    answer = api.get(task_id)

    assert problem(answer) == (410, "gone")
    assert (answer.json()["lastStatus"], answer.json()["lastErrorCode"]) == (status, code)
    assert problem(api.post(f"{task_id}/retry")) == (410, "gone")
    assert problem(api.post(f"{task_id}/cancel")) == (410, "gone")


def test_a_purged_task_is_unknown_once_the_op_log_has_forgotten_it(api: Api, done: str, pool: db.Pool) -> None:
    purge_rows(api.live, [done])
    with db.transaction(pool) as conn:
        conn.execute("DELETE FROM asynch_op_log")

    assert problem(api.get(done)) == (404, "not_found")
    assert api.collect(done)["missing"] == [done]


def test_the_results_of_a_deleted_model_can_still_be_fetched_and_expire(api: Api, done: str, pool: db.Pool) -> None:
    model_id = api.call("GET", "/model/getModel?modelName=m").json()["id"]
    assert api.call("DELETE", f"/model/deleteModel?id={model_id}").status_code == 200
    first, second = api.collect(done)["list"][0], api.collect(done)["list"][0]

    assert (first["state"], second["state"]) == (2, 4)
    assert second["expireAt"] is not None


@pytest.mark.parametrize(
    "task_id", ["1", "0", "x", "-1", "9" * 30, "%00", "%ff", "１２", "getTask", "1%0a", "%", "1.0"]
)
def test_what_is_no_tasks_id_is_404(api: Api, task_id: str) -> None:
    for path in (task_id, f"{task_id}/result"):
        assert problem(api.get(path)) == (404, "not_found")
    for path in (f"{task_id}/cancel", f"{task_id}/retry"):
        assert problem(api.post(path)) == (404, "not_found")


@pytest.mark.parametrize(("query", "status"), [("taskId=1", 404), ("taskId=", 404), ("", 422), ("taskId=1&taskId=2", 422), ("taskId=1&x=1", 422)])  # fmt: skip
def test_get_task_result_needs_the_id_of_one_task(api: Api, query: str, status: int) -> None:
    assert problem(api.get(f"getTaskResult?{query}"))[0] == status


def test_get_task_result_is_one_item(api: Api, done: str) -> None:
    told = api.get(f"getTaskResult?taskId={done}").json()

    assert (set(told), told["taskId"], told["state"]) == (ITEM, done, 2)


def test_rows_that_are_not_there_are_not_made_by_reading(api: Api, pool: db.Pool) -> None:
    api.get("123")
    api.collect("123")

    assert rows_of(pool) == {}
