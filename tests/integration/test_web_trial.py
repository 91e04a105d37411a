"""testModel: one call now, on a slot of the lane, told as it came."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import requests

from asynch import db
from asynch.service import trial
from tests.calls import peer, saying
from tests.database import CALLS, all_rows
from tests.live import MakeParts, serving
from tests.model_server import ModelServer
from tests.rows import bend, worker
from tests.task_api import Api, pointers, problem
from tests.waiting import until


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def call(api: Api, model_id: str, payload: Any = None, **more: Any) -> requests.Response:
    return api.call("POST", "/model/testModel", {"id": model_id, "requestPayload": payload, **more})


def tried(api: Api, model_id: str, payload: Any = None) -> dict[str, Any]:
    answer = call(api, model_id, payload)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def lane_of(pool: db.Pool, model_id: str) -> int:
    (row,) = all_rows(pool, "SELECT lane_id FROM asynch_models WHERE id = %s", int(model_id))
    return int(row["lane_id"])


def is_held(pool: db.Pool, lane: int, slot: int = 0) -> bool:
    (row,) = all_rows(pool, "SELECT pg_try_advisory_xact_lock(%s, %s) AS free", lane, slot)
    return not row["free"]


def called(pool: db.Pool) -> int:
    """How many calls were counted."""
    (row,) = all_rows(pool, f"SELECT coalesce(sum(request_count), 0)::int AS n FROM {CALLS}")
    return int(row["n"])


# What is told


def test_it_tells_what_the_model_answered(api: Api, model: ModelServer) -> None:
    told = tried(api, api.model(baseUrl=model.url), {"kind": "text", "size": 5, "content_type": "text/x; a=b"})
    seconds = told.pop("seconds")

    assert told == {
        "status": 200, "contentType": "text/x; a=b", "fileType": "txt", "size": 5, "head": told["head"],
        "headEncoding": "utf-8", "error": None,
    }  # fmt: skip
    assert len(told["head"]) == 5
    assert 0 <= seconds < 20


def test_the_call_is_the_one_a_worker_makes(api: Api, model: ModelServer) -> None:
    made = api.model(baseUrl=model.url, route="v1/x", httpMethod="GET", apiKey="X-Key:secret")
    seen = tried(api, made, {"echo": "request", "n": 1e300})
    head = seen["head"]

    assert '"target": "/v1/x?echo=request&n=1e' in head
    assert '["X-Key", "secret"]' in head
    assert '["X-Asynch-Task-Id", "test-' in head
    assert '["X-Asynch-Attempt", "1"]' in head


def test_the_payload_arrives_as_it_was_sent(api: Api, model: ModelServer) -> None:
    made = api.model(baseUrl=model.url)
    sent = '{"echo": true, "b": 1.10, "a": "\\u0000", "n": 123456789012345678901234567890}'
    answer = api.call("POST", "/model/testModel", f'{{"id": "{made}", "requestPayload": {sent}}}')

    assert answer.json()["head"] == sent


@pytest.mark.parametrize("status", [201, 202, 302, 404, 500, 503])
def test_any_status_is_told_with_its_body(api: Api, model: ModelServer, status: int) -> None:
    payload = {"status": status, "kind": "text", "size": 3, "retry_after": 9}
    if status == 302:
        payload["redirect"] = "http://127.0.0.1:9/"
    told = tried(api, api.model(baseUrl=model.url), payload)

    assert (told["status"], told["size"], told["error"]) == (status, 3, None)


def test_bytes_are_told_as_base64_and_of_many_only_the_first(api: Api, model: ModelServer) -> None:
    told = tried(api, api.model(baseUrl=model.url), {"kind": "png", "size": 300_000})

    assert (told["headEncoding"], told["fileType"], told["size"]) == ("base64", "png", 300_000)
    assert len(base64.b64decode(told["head"])) == trial.HEAD_BYTES
    assert base64.b64decode(told["head"]).startswith(b"\x89PNG")


def test_a_character_cut_at_the_end_of_the_head_is_no_binary(api: Api) -> None:
    body = ("x" * (trial.HEAD_BYTES - 1) + "ä" * 10).encode()
    with peer(saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))) as host:
        told = tried(api, api.model(baseUrl=f"http://{host}"))

    assert (told["headEncoding"], told["head"]) == ("utf-8", "x" * (trial.HEAD_BYTES - 1))
    assert (told["contentType"], told["fileType"]) == ("", "txt")


def test_no_answer_has_no_status_but_a_reason(api: Api) -> None:
    told = tried(api, api.model())  # of a port that nobody listens on

    assert (told["status"], told["size"], told["head"], told["fileType"]) == (None, 0, "", "")
    assert told["error"]["code"] == "model_connection"
    assert told["error"]["retryable"] is True


def test_a_body_over_its_limit_is_told_with_its_status(api: Api, model: ModelServer) -> None:
    told = tried(api, api.model(baseUrl=model.url, maxResultBytes=10), {"size": 11, "chunked": True})

    assert (told["status"], told["error"]["code"]) == (200, "result_too_large")


def test_a_forbidden_address_is_not_called(make_parts: MakeParts, model: ModelServer) -> None:
    with serving(make_parts(egress={"deny": ["localhost"]})) as live:
        api = Api(live)
        told = tried(api, api.model(baseUrl=f"http://localhost:{model.port}"))

    assert (told["status"], told["error"]["code"]) == (None, "egress_blocked")


def test_a_call_ends_with_the_models_time(api: Api, model: ModelServer) -> None:
    told = tried(api, api.model(baseUrl=model.url, timeoutSeconds=1), {"drip": 0.3, "size": 100})

    assert (told["status"], told["error"]["code"]) == (200, "model_timeout")
    assert 0 < told["size"] < 100
    assert told["seconds"] < 5


def test_a_test_gets_no_half_hour(api: Api, model: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LONGEST_S", 0.5)
    told = tried(api, api.model(baseUrl=model.url, timeoutSeconds=1800), {"hang": True})

    assert (told["status"], told["error"]["code"]) == (None, "model_timeout")


# Inside the limits


@pytest.fixture
def hanging(api: Api, model: ModelServer) -> Iterator[Callable[[str], Any]]:
    """Start a test of a model that never answers; it ends with the test at the latest."""
    begun: list[Future[Any]] = []
    with ThreadPoolExecutor(8) as threads:

        def begin(model_id: str) -> Future[Any]:
            begun.append(threads.submit(call, Api(api.live), model_id, {"hang": True}))
            return begun[-1]

        def are_over() -> bool:
            model.drop_connections()  # again and again: one may not be connected yet
            return all(each.done() for each in begun)

        yield begin
        until(are_over)


def test_it_holds_a_slot_as_long_as_it_calls(
    api: Api, model: ModelServer, pool: db.Pool, hanging: Callable[[str], Any]
) -> None:
    made = api.model(baseUrl=model.url, maxConcurrency=1)
    lane = lane_of(pool, made)
    pending = hanging(made)
    until(lambda: is_held(pool, lane))
    until(lambda: model.connections == 1)
    refused = call(api, made)

    assert problem(refused) == (429, "no_free_slot")
    assert refused.headers["Retry-After"]
    assert refused.json()["maxConcurrency"] == 1
    assert is_held(pool, lane)
    model.drop_connections()
    assert pending.result().json()["error"]["code"] == "model_connection"
    until(lambda: not is_held(pool, lane))
    assert tried(api, made)["status"] == 200


def test_slots_of_workers_are_not_to_be_had(api: Api, model: ModelServer, pool: db.Pool, dsn: str) -> None:
    made = api.model(baseUrl=model.url, maxConcurrency=2)
    lane = lane_of(pool, made)
    with worker(dsn) as busy:
        won, _ = busy.win(lane, 2, [0, 1])
        assert problem(call(api, made)) == (429, "no_free_slot")
        busy.win(lane, 0, [], give_back=won[:1])
        assert tried(api, made)["status"] == 200


def test_the_slot_of_a_worker_that_has_just_died_is_left_alone(api: Api, model: ModelServer, dsn: str) -> None:
    made = api.model(baseUrl=model.url, maxConcurrency=1)
    lane = lane_of(api.live.parts.pool, made)
    api.create()
    with worker(dsn) as dying:
        dying.win(lane, 1, [0])
        dying.claim_one(lane)
    until(lambda: not is_held(api.live.parts.pool, lane))

    assert problem(call(api, made)) == (429, "no_free_slot")
    until(lambda: call(api, made).status_code == 200)


def test_what_a_model_works_on_has_its_slots_before_a_test(api: Api, model: ModelServer, pool: db.Pool) -> None:
    made = api.model(baseUrl=model.url, maxConcurrency=2)
    tasks = [int(api.create()) for _ in range(2)]
    bend(pool, tasks[:1], poll_url="http://x/jobs/1")  # put back by a worker that ended
    assert tried(api, made)["status"] == 200  # one slot is left

    bend(pool, tasks, poll_url="http://x/jobs/1")

    assert problem(call(api, made)) == (429, "no_free_slot")


def test_a_test_keeps_one_slot_alone(
    api: Api, model: ModelServer, pool: db.Pool, hanging: Callable[[str], Any]
) -> None:
    made = api.model(baseUrl=model.url, maxConcurrency=5)
    bend(pool, [int(api.create()) for _ in range(3)], poll_url="http://x/jobs/1")

    hanging(made)

    until(lambda: sum(is_held(pool, lane_of(pool, made), n) for n in range(5)) == 1)


def test_a_lost_slot_cuts_the_call(api: Api, pool: db.Pool, hanging: Callable[[str], Any]) -> None:
    with ModelServer() as model:  # of its own: the others' may still be held by threads of tests before this one
        made = api.model(baseUrl=model.url)
        pending = hanging(made)
        until(lambda: model.connections == 1)
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'asynch-test'"
        assert len(all_rows(pool, ended)) == 1
        until(lambda: model.connections == 0)

        assert problem(pending.result()) == (503, "database_down")


def test_tests_leave_threads_to_the_others(api: Api, model: ModelServer, hanging: Callable[[str], Any]) -> None:
    made = api.model(baseUrl=model.url)
    for _ in range(trial.AT_ONCE):
        hanging(made)
    until(lambda: model.connections == trial.AT_ONCE)
    assert problem(call(api, made)) == (429, "too_many_tests")

    model.drop_connections()
    until(lambda: call(api, made).status_code == 200)


def test_nothing_is_left_of_a_test(api: Api, model: ModelServer, pool: db.Pool) -> None:
    made = api.model(baseUrl=model.url)
    tried(api, made)
    tried(api, api.model("nobody"))
    before = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'asynch-test'"
    until(lambda: all_rows(pool, before) == [])

    assert all_rows(pool, "SELECT 1 FROM asynch_task") == []


# Who may, and what is noted


def test_a_call_counts_once_whatever_came_of_it_and_is_noted(api: Api, model: ModelServer, pool: db.Pool) -> None:
    made = api.model(baseUrl=model.url)
    tried(api, made, {"status": 500, "password": "hidden"})
    tried(api, made)
    rows = api.call("POST", "/opLog/listOpLog", {"opType": "testModel"}).json()["list"]

    assert called(pool) == 2
    assert [(r["modelName"], r["success"], r["errorMsg"]) for r in rows] == [
        ("m", 1, ""), ("m", 0, "model_http_error"),
    ]  # fmt: skip
    assert rows[1]["requestPayload"] == '{"status": 500, "password":"***"}'


def test_a_test_that_did_not_start_counts_nothing(api: Api, pool: db.Pool, dsn: str) -> None:
    made = api.model(maxConcurrency=1)
    with worker(dsn) as busy:
        busy.win(lane_of(pool, made), 1, [0])
        problem(call(api, made))

    assert called(pool) == 0


def test_a_disabled_model_is_tested_by_whoever_may_enable_it(make_parts: MakeParts, model: ModelServer) -> None:
    with serving(make_parts(auth={"users_manage_models": False})) as live:
        api = Api(live)
        made = api.model(baseUrl=model.url, enabled=0)
        assert tried(api, made)["status"] == 200
        assert problem(call(api.of(0), made)) == (409, "model_disabled")
        api.change_model(enabled=1)
        assert tried(api.of(0), made)["status"] == 200


def test_another_tenants_model_is_not_there(api: Api, model: ModelServer) -> None:
    made = api.model(baseUrl=model.url)

    assert problem(call(api.of(7, "admin"), made)) == (404, "not_found")
    assert problem(call(api, str(int(made) + 1))) == (404, "not_found")


def test_the_systems_own_lanes_are_not_tested(api: Api, model: ModelServer, dsn: str) -> None:
    made = api.model(baseUrl=model.url)
    with psycopg.connect(dsn) as conn:
        conn.execute("UPDATE asynch_models SET kind = 'webhook'")

    assert problem(call(api, made)) == (404, "not_found")


def test_a_get_takes_an_object(api: Api, model: ModelServer) -> None:
    made = api.model(baseUrl=model.url, httpMethod="GET")

    assert pointers(call(api, made, [1])) == ["#/requestPayload"]
    assert tried(api, made)["status"] == 200


@pytest.mark.parametrize(
    ("body", "pointer"), [({}, "#/id"), ({"id": "x"}, "#/id"), ({"id": 1, "modelName": "m"}, "#/modelName")]
)
def test_a_body_that_cannot_be_is_refused_at_its_place(api: Api, body: dict[str, Any], pointer: str) -> None:
    assert pointers(api.call("POST", "/model/testModel", body)) == [pointer]
