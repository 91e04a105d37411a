from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from asynch import db
from asynch.service import tasks as service
from tests.database import all_rows
from tests.model_server import ModelServer
from tests.rows import bend, row_of
from tests.task_api import BODY, Api, Hand, pointers, problem, put_back, working
from tests.waiting import until


def state(api: Api, task_id: str) -> tuple[int, str, bool]:
    told = api.status(task_id)
    return told["state"], told["status"], told["final"]


# Cancel


def test_a_waiting_task_is_cancelled_at_once(api: Api) -> None:
    api.model()
    task_id = api.create()
    answer = api.post(f"{task_id}/cancel")
    told = answer.json()

    assert answer.status_code == 200
    assert (told["state"], told["status"], told["final"]) == (5, "cancelled", True)
    assert (told["error"]["code"], told["updater"]) == ("cancelled", "eva")
    assert told["finishedAt"] is not None


def test_a_delayed_task_can_be_cancelled(api: Api) -> None:
    api.model()

    assert api.post(f"{api.create(delaySeconds=600)}/cancel").json()["status"] == "cancelled"


def test_a_cancelled_task_is_not_run(api: Api, hand: Hand) -> None:
    api.model()
    cancelled, other = api.create(), api.create()
    api.post(f"{cancelled}/cancel")

    hand.take(other)


def test_a_failure_that_waits_for_its_retry_can_be_cancelled(api: Api, hand: Hand) -> None:
    api.model(retryTimes=3, retryBackoffSeconds=600)
    task_id = api.create()
    hand.fail(task_id)

    assert api.post(f"{task_id}/cancel").json()["status"] == "cancelled"
    bend(hand.pool, [int(task_id)], wake_at="2020-01-01")
    assert put_back(hand.pool) == 0


def test_a_saved_result_that_waits_for_its_upload_can_be_cancelled(api: Api, hand: Hand) -> None:
    api.model()
    task_id = api.create()
    hand.save(*hand.take(task_id))
    bend(hand.pool, [int(task_id)], state=0)

    assert api.post(f"{task_id}/cancel").json()["status"] == "cancelled"


def test_a_running_task_stays_processing_until_its_worker_heard_of_it(api: Api, hand: Hand, dsn: str) -> None:
    api.model()
    task_id = api.create()
    hand.take(task_id)
    with db.open_session(dsn, name="tests") as session:
        session.execute("LISTEN asynch_cancel")
        answer = api.post(f"{task_id}/cancel")
        heard = next(session.notifies(timeout=10))

    assert (answer.json()["status"], answer.json()["final"], heard.payload) == ("processing", False, task_id)
    assert row_of(hand.pool, int(task_id))["cancel_requested"]


def test_a_running_call_is_cut_and_its_task_cancelled(api: Api, dsn: str) -> None:
    with ModelServer() as model:
        api.model(baseUrl=model.url)
        task_id = api.create(requestPayload={"hang": True})
        with working(api.live, dsn):
            until(lambda: model.ledger.open)
            api.post(f"{task_id}/cancel")
            until(lambda: api.status(task_id)["final"], 3)
            until(lambda: model.ledger.of(task_id)[0].client_gone, 3)

        assert state(api, task_id) == (5, "cancelled", True)
        assert len(model.ledger.of(task_id)) == 1


@pytest.mark.parametrize("end", ["succeeded", "fetched", "failed", "cancelled"])
def test_a_final_task_is_left_as_it_is(api: Api, hand: Hand, end: str) -> None:
    api.model()
    task_id = api.create()
    {"failed": hand.fail, "cancelled": lambda i: api.post(f"{i}/cancel")}.get(end, hand.succeed)(task_id)
    if end == "fetched":
        api.collect(task_id)
    before = row_of(hand.pool, int(task_id))
    answer = api.post(f"{task_id}/cancel")

    assert (answer.status_code, answer.json()["state"]) == (200, before["state"])
    assert row_of(hand.pool, int(task_id)) == before


def test_a_cancellation_is_in_the_op_log_once(api: Api, pool: db.Pool) -> None:
    api.model()
    task_id = api.create(bizName="b")
    for _ in range(3):
        api.post(f"{task_id}/cancel")

    rows = all_rows(pool, "SELECT * FROM asynch_op_log WHERE op_type = 'cancelTask'")
    assert [(r["task_id"], r["biz_name"], r["model_name"], r["success"]) for r in rows] == [(task_id, "b", "m", 1)]


# Retry


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_failed_or_cancelled_task_runs_again_with_its_retries_renewed(api: Api, hand: Hand, end: str) -> None:
    api.model(retryTimes=1)
    task_id = api.create()
    for _ in range(2):
        hand.fail(task_id)
        put_back(hand.pool)
    if end == "cancelled":
        bend(hand.pool, [int(task_id)], state=5)
    answer = api.post(f"{task_id}/retry")
    told = answer.json()

    assert answer.status_code == 200
    assert (told["state"], told["status"], told["final"], told["retryCount"], told["error"]) == (
        0,
        "pending",
        False,
        0,
        None,
    )
    hand.fail(task_id)
    assert not api.status(task_id)["final"]


def test_a_task_that_failed_after_its_call_repeats_only_the_upload(api: Api, hand: Hand) -> None:
    api.model()
    task_id = api.create()
    hand.save(*hand.take(task_id))
    bend(hand.pool, [int(task_id)], state=3, final=True, wake_at="2999-01-01")

    answer = api.post(f"{task_id}/retry")
    assert (answer.status_code, answer.json()["phase"]) == (200, 1), answer.text


def test_a_retry_goes_to_the_tail_of_its_priority(api: Api, hand: Hand, pool: db.Pool) -> None:
    api.model()
    again = api.create(priority=3)
    api.post(f"{again}/cancel")
    low, equal = api.create(priority=1), api.create(priority=3)
    api.post(f"{again}/retry")
    lane = row_of(pool, int(again))["lane_id"]

    assert [claim.task_id for claim in hand.worker.claim(lane, 9)] == [equal, again, low]


@pytest.mark.parametrize("now", ["waiting", "running", "retrying", "succeeded", "fetched"])
def test_what_is_not_finally_failed_or_cancelled_cannot_be_retried(api: Api, hand: Hand, now: str) -> None:
    api.model(retryTimes=1, retryBackoffSeconds=600)
    task_id = api.create()
    {"running": hand.take, "retrying": hand.fail, "succeeded": hand.succeed, "fetched": hand.succeed}.get(
        now, lambda _: None
    )(task_id)
    if now == "fetched":
        api.collect(task_id)
    before = row_of(hand.pool, int(task_id))

    assert problem(api.post(f"{task_id}/retry")) == (409, "not_retryable")
    assert row_of(hand.pool, int(task_id)) == before


def test_a_task_of_a_deleted_model_cannot_be_retried(api: Api) -> None:
    model_id = api.model()
    task_id = api.create()
    api.post(f"{task_id}/cancel")
    api.call("DELETE", f"/model/deleteModel?id={model_id}")

    assert problem(api.post(f"{task_id}/retry")) == (409, "not_retryable")


def test_a_retried_task_is_run_at_once_by_a_worker(api: Api, dsn: str) -> None:
    with ModelServer() as model:
        api.model(baseUrl=model.url)
        task_id = api.create(requestPayload={"fail_times": 1})
        with working(api.live, dsn):
            until(lambda: api.status(task_id)["final"])
            api.post(f"{task_id}/retry")
            until(lambda: api.status(task_id)["state"] == 2, 5)

        assert len(model.ledger.of(task_id)) == 2


# Many


def test_many_are_cancelled_by_their_ids(api: Api, hand: Hand) -> None:
    api.model()
    done, one, two, other = api.fill(4)
    hand.succeed(done)
    told = api.post("cancelBatch", {"taskIds": [two, done, int(one), "nobody", "7", two, "7"]}).json()

    assert told["changed"] == 2
    assert [(i["taskId"], i["status"], i["changed"]) for i in told["list"]] == [
        (two, "cancelled", True), (done, "completed", False), (one, "cancelled", True),
    ]  # fmt: skip
    assert told["missing"] == ["nobody", "7"]
    assert state(api, other)[1] == "pending"


def test_many_run_again_by_their_ids_and_the_others_stay(api: Api, hand: Hand) -> None:
    api.model()
    failed, waiting, cancelled = api.fill(3)
    hand.fail(failed)
    api.post(f"{cancelled}/cancel")
    told = api.post("retryBatch", {"taskIds": [failed, waiting, cancelled, "7"]}).json()

    assert told["changed"] == 2
    assert [(i["taskId"], i["status"], i["changed"]) for i in told["list"]] == [
        (failed, "pending", True), (waiting, "pending", False), (cancelled, "pending", True),
    ]  # fmt: skip
    assert told["missing"] == ["7"]


@pytest.mark.parametrize("chunk", [2, 1000])
def test_a_filter_cancels_all_it_finds_and_nothing_else(api: Api, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(service, "_CHUNK", chunk)
    api.model()
    mine, others = api.fill(5, bizName="mine"), api.fill(3, bizName="other")

    assert api.post("cancelBatch", {"bizName": "mine"}).json() == {"changed": 5}
    assert {state(api, i)[1] for i in mine} == {"cancelled"}
    assert {state(api, i)[1] for i in others} == {"pending"}
    assert api.post("retryBatch", {"bizName": "mine", "state": 5}).json() == {"changed": 5}
    assert {state(api, i)[1] for i in mine} == {"pending"}


@pytest.mark.parametrize(
    ("path", "body", "changed"),
    [("cancelBatch", {"final": False}, 2), ("cancelBatch", {"final": True}, 0), ("cancelBatch", {"state": 0}, 1),
     ("cancelBatch", {"state": 2}, 0), ("retryBatch", {"final": True}, 2), ("retryBatch", {"final": False}, 0),
     ("retryBatch", {"state": 3}, 1), ("retryBatch", {"modelName": "m"}, 2), ("retryBatch", {"taskId": "1"}, 0)],
)  # fmt: skip
def test_a_filter_changes_only_what_can_change(
    api: Api, hand: Hand, path: str, body: dict[str, Any], changed: int
) -> None:
    api.model()
    done, failed, running, _, cancelled = api.fill(5)
    hand.succeed(done)
    hand.fail(failed)
    hand.take(running)
    api.post(f"{cancelled}/cancel")

    assert api.post(path, body).json() == {"changed": changed}


@pytest.mark.parametrize("path", ["cancelBatch", "retryBatch"])
@pytest.mark.parametrize(
    "body",
    [{}, {"modelName": None}, {"modelName": ""}, {"bizName": "", "taskId": "", "state": None}, {"taskIds": None}],
)
def test_a_change_of_many_must_say_of_which(api: Api, path: str, body: dict[str, Any]) -> None:
    api.model()
    waiting, cancelled = api.fill(2)
    api.post(f"{cancelled}/cancel")

    assert pointers(api.post(path, body)) == ["#"]
    assert (state(api, waiting)[0], state(api, cancelled)[0]) == (0, 5)


@pytest.mark.parametrize("path", ["cancelBatch", "retryBatch"])
@pytest.mark.parametrize(
    ("body", "pointer"),
    [({"taskIds": ["1"], "state": 0}, "#"), ({"taskIds": ["1"] * 10_001}, "#/taskIds"), ({"taskIds": "1"}, "#/taskIds"),
     ({"taskIds": [None]}, "#/taskIds/0"), ({"state": 0, "tenantId": 0}, "#/tenantId"),
     ({"state": 0, "page": {"pageNum": 1}}, "#/page"), ({"state": 0, "includePayload": True}, "#/includePayload"),
     ({"state": 9}, "#/state"), ({"bizName": "\0"}, "#/bizName")],
)  # fmt: skip
def test_a_change_of_many_that_cannot_be_is_refused_at_its_place(
    api: Api, path: str, body: dict[str, Any], pointer: str
) -> None:
    assert pointers(api.post(path, body)) == [pointer]


def test_a_cancellation_by_filter_ends_while_others_create(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_CHUNK", 1)
    api.model(queueLimit=100_000)
    api.fill(5, bizName="x")
    created, real = itertools.count(), service.store.list_task_ids

    def creating(*args: Any, **options: Any) -> list[int]:
        assert next(created) < 50, "the cancellation chases the creator"
        Api(type(api.live)(api.live.url, api.live.parts)).create(bizName="x")
        return real(*args, **options)

    monkeypatch.setattr(service.store, "list_task_ids", creating)
    assert api.post("cancelBatch", {"bizName": "x"}).json() == {"changed": 5}


def test_thousands_are_cancelled_and_run_again(api: Api) -> None:
    api.model(queueLimit=5000)
    made = api.fill(3000)

    assert api.post("cancelBatch", {"taskIds": made}).json()["changed"] == 3000
    assert api.post("retryBatch", {"state": 5}).json() == {"changed": 3000}


def test_cancelling_and_retrying_at_once_leaves_every_task_whole(api: Api, pool: db.Pool) -> None:
    api.model(queueLimit=500)
    made = api.fill(100)
    bodies = [("cancelBatch", made), ("retryBatch", made[::-1]), ("cancelBatch", made[::-1]), ("retryBatch", made)]
    answers: list[int] = []

    def change(path: str, ids: list[str]) -> None:
        mine = Api(type(api.live)(api.live.url, api.live.parts))
        for _ in range(5):
            answers.append(mine.post(path, {"taskIds": ids}).status_code)

    threads = [threading.Thread(target=change, args=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [200] * 20
    found = all_rows(pool, "SELECT DISTINCT state, final, error_code FROM asynch_task ORDER BY state")
    assert {tuple(row.values()) for row in found} <= {(0, False, ""), (5, True, "cancelled")}


def test_the_result_of_a_retried_task_is_its_new_one(api: Api, hand: Hand) -> None:
    api.model()
    task_id = api.create()
    hand.fail(task_id)
    api.post(f"{task_id}/retry")
    hand.succeed(task_id)
    told = api.status(task_id)

    assert (told["state"], told["attempt"], told["error"], told["fileSize"]) == (2, 2, None, len(BODY))
    assert [a["outcome"] for a in told["attempts"]] == ["failed", "saved", "delivered"]
