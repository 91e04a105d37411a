from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from flask import Flask

from asynch import db
from asynch.web.app import create_app
from tests.live import MakeParts
from tests.rows import row_of
from tests.task_api import Api, Hand, problem, purge_rows

MINE, THEIRS = 7, 8


@pytest.fixture
def mine(api: Api) -> Api:
    return api.of(MINE)


@pytest.fixture
def theirs(api: Api) -> Api:
    """Another tenant's admin, who may name tenants in lists and nothing else."""
    return api.of(THEIRS, "admin")


@pytest.fixture
def tasks(mine: Api, hand: Hand) -> dict[str, str]:
    """A tenant's tasks: one waits, one failed, one succeeded, one is purged."""
    mine.model()
    done, failed, purged, waiting = mine.fill(4)
    hand.succeed(done)
    hand.fail(failed)
    hand.fail(purged)
    purge_rows(mine.live, [purged])
    return {"done": done, "failed": failed, "purged": purged, "waiting": waiting}


def not_found(answer: requests.Response) -> None:
    assert problem(answer) == (404, "not_found")


def missing(answer: requests.Response, task_id: str) -> None:
    """A list of what is asked for by ids, in which the id is only missing."""
    told = answer.json()
    assert (answer.status_code, told["list"], told["missing"], told.get("gone", [])) == (200, [], [task_id], [])


def nothing(answer: requests.Response, _: str = "") -> None:
    told = answer.json()
    assert answer.status_code == 200
    assert told in ({"list": [], "total": 0, "totalCapped": False}, {"changed": 0})


UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade"}

#: What every route of /task answers to another tenant's id.
ROUTES: dict[str, Callable[[Api, str], None]] = {
    "GET /task/<id:task_id>": lambda api, i: not_found(api.get(i)),
    "GET /task/<id:task_id>/result": lambda api, i: not_found(api.get(f"{i}/result")),
    "GET /task/<id:task_id>/events": lambda api, i: not_found(api.get(f"{i}/events")),
    "GET /task/<id:task_id>/ws": lambda api, i: not_found(api.get(f"{i}/ws", headers=UPGRADE)),
    "POST /task/<id:task_id>/cancel": lambda api, i: not_found(api.post(f"{i}/cancel")),
    "POST /task/<id:task_id>/progress": lambda api, i: unsigned(api.post(f"{i}/progress", {"progress": 1})),
    "POST /task/<id:task_id>/retry": lambda api, i: not_found(api.post(f"{i}/retry")),
    "GET /task/getTaskResult": lambda api, i: not_found(api.get(f"getTaskResult?taskId={i}")),
    "POST /task/getTaskBatch": lambda api, i: missing(api.post("getTaskBatch", {"taskIds": [i], "waitSeconds": 1}), i),
    "POST /task/cancelBatch": lambda api, i: missing(api.post("cancelBatch", {"taskIds": [i]}), i),
    "POST /task/retryBatch": lambda api, i: missing(api.post("retryBatch", {"taskIds": [i]}), i),
    "POST /task/listTask": lambda api, i: nothing(api.post("listTask", {"taskId": i, "includePayload": True})),
    "POST /task/createTask": lambda api, _: unknown_model(api.post("createTask", {"modelName": "m"})),
    "POST /task/createTaskBatch": lambda api, _: unknown_models(api.batch({"modelName": "m"})),
}


def unsigned(answer: requests.Response) -> None:
    assert problem(answer) == (403, "link_invalid")  # whoever asks: the link alone opens it


def unknown_model(answer: requests.Response) -> None:
    assert problem(answer) == (404, "model_not_found")


def unknown_models(listed: list[dict[str, Any]]) -> None:
    assert [item["error"]["code"] for item in listed] == ["model_not_found"]


@pytest.fixture
def app(make_parts: MakeParts) -> Flask:
    return create_app(make_parts())


def test_every_route_of_tasks_is_walked_here(app: Flask) -> None:
    there = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/task/")
    }

    assert there == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["done", "failed", "purged", "waiting"])
def test_another_tenants_task_is_not_there(
    theirs: Api, tasks: dict[str, str], pool: db.Pool, route: str, name: str
) -> None:
    task_id = tasks[name]
    before = None if name == "purged" else row_of(pool, int(task_id))
    ROUTES[route](theirs, task_id)

    assert name == "purged" or row_of(pool, int(task_id)) == before


@pytest.mark.parametrize("path", ["cancelBatch", "retryBatch"])
def test_a_filter_finds_only_the_own_tenants_tasks(
    theirs: Api, tasks: dict[str, str], pool: db.Pool, path: str
) -> None:
    before = [row_of(pool, int(tasks[name])) for name in ("waiting", "failed", "done")]
    for body in ({"modelName": "m"}, {"state": 0}, {"state": 3}, {"final": False}, {"taskId": tasks["waiting"]}):
        nothing(theirs.post(path, body))

    assert [row_of(pool, int(tasks[name])) for name in ("waiting", "failed", "done")] == before


def test_an_admin_may_name_a_tenant_in_a_list_and_a_user_may_not(mine: Api, theirs: Api, tasks: dict[str, str]) -> None:
    assert theirs.listed(tenantId=str(MINE))["total"] == 3
    assert problem(theirs.of(THEIRS).post("listTask", {"tenantId": MINE})) == (403, "forbidden")
    assert mine.listed(tenantId=MINE)["total"] == 3


def test_the_same_model_name_is_another_lane_in_each_tenant(mine: Api, theirs: Api, tasks: dict[str, str]) -> None:
    theirs.model(queueLimit=1)
    own = theirs.create()

    assert problem(theirs.post("createTask", {"modelName": "m"})) == (429, "queue_full")
    assert [item["taskId"] for item in theirs.listed()["list"]] == [own]
    mine.create()


def test_no_tenant_is_negative(api: Api) -> None:
    """The system works for tenants under numbers that are."""
    for tenant in (-(2**63), -1):
        assert problem(api.of(tenant).post("listTask", {})) == (401, "unauthenticated")


def test_tenants_may_have_any_63_bit_number(api: Api) -> None:
    for tenant in (0, 2**63 - 1):
        own = api.of(tenant)
        own.model()
        assert own.status(own.create())["tenantId"] == str(tenant)
        assert own.listed()["total"] == 1
