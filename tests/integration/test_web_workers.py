"""The living workers over HTTP: those that live, what they do, and who may see it."""

from __future__ import annotations

import re
from typing import Any

from asynch import db
from asynch.store import slots
from tests.model_server import ModelServer
from tests.rows import worker
from tests.task_api import Api, problem, working
from tests.waiting import until

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def told(api: Api) -> list[dict[str, Any]]:
    answer = api.call("GET", "/worker/listWorker")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["total"] == len(found["list"])
    listed: list[dict[str, Any]] = found["list"]
    return listed


def test_a_worker_tells_what_it_runs_and_how_much_room_it_has(api: Api, dsn: str) -> None:
    with ModelServer() as model:
        api.model(baseUrl=model.url)
        with working(api.live, dsn):
            task_id = api.create(requestPayload={"hang": True})
            until(lambda: told(api) and told(api)[0]["running"])
            (row,) = told(api)

    (task,) = row["running"]
    since = task.pop("since")
    assert TIME.fullmatch(since)
    assert task == {"taskId": task_id, "tenantId": "0", "modelName": "m", "phase": 0}
    assert (row["runningTotal"], row["threads"], row["freeThreads"], row["trouble"]) == (1, 4, 3, "")
    assert isinstance(row["tmpBytes"], int)
    assert isinstance(row["pid"], int)
    assert row["host"]
    assert row["tmpHost"]
    assert TIME.fullmatch(row["startedAt"])
    assert TIME.fullmatch(row["seenAt"])


def test_a_worker_that_has_not_beaten_yet_is_there(api: Api, dsn: str) -> None:
    with worker(dsn, host="here", tmp_host="t") as one:
        (row,) = told(api)

    assert row.items() >= {
        "id": str(one.id), "host": "here", "tmpHost": "t", "running": [], "runningTotal": 0, "freeThreads": None,
    }.items()  # fmt: skip


def test_a_dead_worker_is_gone_at_once_whoever_has_noticed(api: Api, dsn: str) -> None:
    with worker(dsn), worker(dsn) as second:
        assert len(told(api)) == 2
        second.session.close()
        until(lambda: len(told(api)) == 1)

    until(lambda: told(api) == [])


def test_a_silent_worker_is_not_among_the_living(api: Api, dsn: str, pool: db.Pool) -> None:
    with worker(dsn):
        with db.transaction(pool) as conn:
            conn.execute("UPDATE asynch_worker SET seen_at = now() - interval '21 s'")
        assert told(api) == []


def test_one_given_up_by_others_is_not_among_the_living(api: Api, dsn: str) -> None:
    with worker(dsn) as one:
        slots.mark_dead(one.session, [one.id])
        assert told(api) == []


def test_looking_kills_nobody(api: Api, dsn: str) -> None:
    """Whoever can take a worker's lock takes it for dead: the look must not keep what it takes."""
    with worker(dsn) as one, worker(dsn) as other:
        for _ in range(20):
            told(api)
        one.session.close()
        until(lambda: len(told(api)) == 1)

        assert slots.find_dead(other.session, worker_id=other.id) == {one.id: False}


def test_it_is_for_admins(api: Api) -> None:
    assert problem(api.of(7).call("GET", "/worker/listWorker")) == (403, "forbidden")
