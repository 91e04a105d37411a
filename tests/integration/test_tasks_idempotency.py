from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic

import pytest
import requests
from psycopg import Rollback

from asynch import db
from tests.database import all_rows
from tests.live import Live
from tests.task_api import Api, Hand, problem, purge_rows

BODY = '{"modelName":"m","requestPayload":{"a":1}}'
BATCH = '{"tasks":[{"modelName":"m"},{"modelName":"m","priority":-1},{"modelName":"nobody"},{"modelName":"get","requestPayload":1}]}'
REPLAYED = "Idempotency-Replayed"


@pytest.fixture
def api(live: Live) -> Api:
    """Tenant 0, with models."""
    made = Api(live)
    made.model()
    made.model("get", httpMethod="GET")
    return made


def create(api: Api, key: str, body: str = BODY, path: str = "createTask") -> requests.Response:
    """A creation over a connection of its own."""
    return Api(Live(api.live.url, api.live.parts), api.tenant).post(path, body, headers={"Idempotency-Key": key})


def tasks(pool: db.Pool) -> int:
    return int(all_rows(pool, "SELECT count(*) AS n FROM asynch_task")[0]["n"])


def test_the_same_key_and_body_give_the_same_task_once(api: Api, pool: db.Pool) -> None:
    first, second = create(api, "k"), create(api, "k")

    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json() == first.json()
    assert second.headers["Location"] == first.headers["Location"]
    assert (first.headers.get(REPLAYED), second.headers.get(REPLAYED)) == (None, "true")
    assert tasks(pool) == 1


def test_a_replay_tells_the_present_state(api: Api, hand: Hand) -> None:
    task_id = create(api, "k").json()["taskId"]
    hand.succeed(task_id)

    assert {k: create(api, "k").json()[k] for k in ("taskId", "state", "status")} == {
        "taskId": task_id, "state": 2, "status": "completed",
    }  # fmt: skip


def test_a_replay_of_a_task_that_is_gone_tells_its_last_state(api: Api) -> None:
    task_id = create(api, "k").json()["taskId"]
    api.post(f"{task_id}/cancel")
    purge_rows(api.live, [task_id])
    answer = create(api, "k")

    assert (answer.status_code, answer.headers[REPLAYED]) == (202, "true")
    assert (answer.json()["taskId"], answer.json()["state"], answer.json()["status"]) == (task_id, 5, "cancelled")


@pytest.mark.parametrize("other", [BODY + " ", BODY.replace("1", "2")])
def test_the_same_key_with_another_body_is_422(api: Api, pool: db.Pool, other: str) -> None:
    create(api, "k")

    assert problem(create(api, "k", other)) == (422, "key_reused")
    assert tasks(pool) == 1


def test_a_quoted_key_is_the_same_key(api: Api, pool: db.Pool) -> None:
    assert create(api, '"a b"').json() == create(api, "a b").json()
    assert tasks(pool) == 1


@pytest.mark.parametrize("key", ["x" * 255, '"' + "x" * 255 + '"', '"', "é", "a, b", "%s", "'; --"])
def test_a_key_of_up_to_255_characters_is_taken(api: Api, key: str) -> None:
    first, second = create(api, key), create(api, key)

    assert first.status_code == 202
    assert second.headers[REPLAYED] == "true"


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "\x7f", "a\tb", "a\xa0b"])
def test_a_key_that_cannot_be_is_422(api: Api, pool: db.Pool, key: str) -> None:
    assert create(api, key).status_code == 422
    assert tasks(pool) == 0


def test_a_key_is_its_tenants(api: Api) -> None:
    other = api.of(5)
    other.model()

    assert create(api, "k").json()["taskId"] != create(other, "k").json()["taskId"]


def test_a_key_is_its_paths(api: Api, pool: db.Pool) -> None:
    create(api, "k", '{"modelName":"m"}')
    answer = create(api, "k", '{"tasks":[{"modelName":"m"}]}', "createTaskBatch")

    assert (answer.status_code, answer.headers.get(REPLAYED)) == (202, None)
    assert tasks(pool) == 2


def test_a_batch_is_replayed_with_its_ids_and_its_errors(api: Api, pool: db.Pool) -> None:
    first, second = (create(api, "k", BATCH, "createTaskBatch") for _ in range(2))

    assert second.headers[REPLAYED] == "true"
    assert second.json() == first.json()
    assert [entry.get("error", {}).get("code") for entry in first.json()["list"]] == [
        None, "invalid_input", "model_not_found", "invalid_input",
    ]  # fmt: skip
    assert tasks(pool) == 1


def test_a_replayed_queue_full_keeps_its_numbers(api: Api) -> None:
    api.change_model(queueLimit=1)
    body = '{"tasks":[{"modelName":"m"},{"modelName":"m"}]}'
    first, second = (create(api, "k", body, "createTaskBatch").json()["list"] for _ in range(2))

    assert second == first
    assert (first[1]["error"]["queueLimit"], first[1]["error"]["queueDepth"]) == (1, 1)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"modelName":"later"}', 404),
        ('{"modelName":"m","priority":-1}', 422),
        ("{", 400),
        ('{"modelName":"off"}', 409),
    ],
)
def test_what_was_refused_is_not_kept(api: Api, pool: db.Pool, body: str, status: int) -> None:
    api.model("off", enabled=0)

    assert create(api, "k", body).status_code == status
    assert all_rows(pool, "SELECT * FROM asynch_idempotency") == []
    assert create(api, "k").status_code == 202


def test_a_refusal_may_become_a_task_under_the_same_key(api: Api) -> None:
    api.change_model(queueLimit=1)
    blocking = api.create()
    assert problem(create(api, "k")) == (429, "queue_full")
    api.post(f"{blocking}/cancel")

    assert create(api, "k").status_code == 202


def age(pool: db.Pool, interval: str) -> None:
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_idempotency SET created_at = now() - %s::interval", (interval,))


def test_a_key_is_kept_for_24_hours(api: Api, pool: db.Pool) -> None:
    first = create(api, "k")
    age(pool, "23 hours 59 minutes")

    assert create(api, "k").json() == first.json()


def test_after_24_hours_a_key_is_free_for_any_body(api: Api, pool: db.Pool) -> None:
    first = create(api, "k")
    age(pool, "24 hours")
    second = create(api, "k", '{"modelName":"m"}')

    assert (second.status_code, second.headers.get(REPLAYED)) == (202, None)
    assert second.json()["taskId"] != first.json()["taskId"]
    assert create(api, "k", '{"modelName":"m"}').json() == second.json()


@contextmanager
def in_flight(pool: db.Pool) -> Iterator[None]:
    """A creation with the key `k` that has not committed, and is rolled back at the end of the block."""
    taken = "INSERT INTO asynch_idempotency (tenant_id, path, key, body_hash) VALUES (0, '/task/createTask', 'k', 'x')"
    with db.transaction(pool) as conn:
        conn.execute(taken)
        yield
        raise Rollback


def test_while_the_first_is_in_flight_the_second_is_409_after_two_seconds(api: Api, pool: db.Pool) -> None:
    with in_flight(pool):
        began = monotonic()
        answer = create(api, "k")
        took = monotonic() - began

    assert problem(answer) == (409, "key_in_flight")
    assert 1.5 < took < 4
    assert tasks(pool) == 0


def test_a_second_that_waited_for_a_first_that_ended_badly_takes_its_place(api: Api, pool: db.Pool) -> None:
    with ThreadPoolExecutor(1) as threads:
        with in_flight(pool):
            second = threads.submit(create, api, "k")
            threading.Event().wait(0.3)
            assert not second.done()
        answer = second.result()

    assert (answer.status_code, answer.headers.get(REPLAYED)) == (202, None)


def test_of_many_at_once_one_creates_and_the_others_say_so(api: Api, pool: db.Pool) -> None:
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: create(api, "k"), range(12)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["taskId"] for answer in answers}) == 1
    assert [answer.headers.get(REPLAYED) for answer in answers].count(None) == 1
    assert tasks(pool) == 1


def test_of_many_at_once_at_the_limit_one_creates(api: Api, pool: db.Pool) -> None:
    api.change_model(queueLimit=1)
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: create(api, "k"), range(12)))

    assert {answer.status_code for answer in answers} == {202}
    assert tasks(pool) == 1


@contextmanager
def backend_dies_at_the_answer(pool: db.Pool) -> Iterator[None]:
    """Whoever writes what came of a request loses its connection, with everything else of it written."""
    with db.connection(pool) as conn:
        conn.execute("""
            CREATE FUNCTION dying() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_terminate_backend(pg_backend_pid());
                RETURN NEW;
            END
            $$;
            CREATE TRIGGER dying BEFORE UPDATE ON asynch_idempotency FOR EACH ROW EXECUTE FUNCTION dying()
        """)
        try:
            yield
        finally:
            conn.execute("DROP TRIGGER dying ON asynch_idempotency; DROP FUNCTION dying")


@pytest.mark.parametrize(("path", "body"), [("createTask", BODY), ("createTaskBatch", BATCH)])
def test_a_creation_that_broke_off_leaves_nothing_and_may_be_repeated(
    api: Api, pool: db.Pool, path: str, body: str
) -> None:
    with backend_dies_at_the_answer(pool):
        assert problem(create(api, "k", body, path)) == (503, "database_down")
    counts = "SELECT (SELECT count(*) FROM asynch_task) AS tasks, (SELECT count(*) FROM asynch_idempotency) AS keys,"
    left = all_rows(pool, counts + " (SELECT count(*) FROM asynch_op_log WHERE op_type = 'createTask') AS noted")

    assert left == [{"tasks": 0, "keys": 0, "noted": 0}]
    assert create(api, "k", body, path).status_code == 202


def test_a_replay_is_not_noted_as_another_task(api: Api, pool: db.Pool) -> None:
    for _ in range(3):
        create(api, "k")

    assert len(all_rows(pool, "SELECT * FROM asynch_op_log WHERE op_type = 'createTask'")) == 1


def test_without_a_key_the_same_body_is_another_task(api: Api) -> None:
    assert api.post("createTask", BODY).json()["taskId"] != api.post("createTask", BODY).json()["taskId"]


def test_a_large_batch_is_replayed_whole(api: Api) -> None:
    api.change_model(queueLimit=5000)
    body = json.dumps({"tasks": [{"modelName": "m"}] * 3000})
    first, second = (create(api, "k", body, "createTaskBatch").json() for _ in range(2))

    assert first == second
    assert len({entry["taskId"] for entry in first["list"]}) == 3000
