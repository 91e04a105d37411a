from __future__ import annotations

import json
from typing import Any

import pytest

from asynch import db
from tests.database import all_rows
from tests.task_api import Api, pointers, problem


def errors(item: dict[str, Any]) -> list[str]:
    """Where one item of a batch is wrong."""
    assert item["error"]["code"] == "invalid_input", item
    return [error["pointer"] for error in item["error"]["errors"]]


def test_a_batch_is_202_with_the_ids_in_the_order_of_its_tasks(api: Api) -> None:
    api.model()
    answer = api.post("createTaskBatch", {"tasks": [{"modelName": "m", "clientRef": str(n)} for n in range(30)]})
    listed = answer.json()["list"]

    assert answer.status_code == 202
    assert [item["index"] for item in listed] == list(range(30))
    assert [api.status(item["taskId"])["clientRef"] for item in listed[::7]] == ["0", "7", "14", "21", "28"]


def test_the_good_ones_are_created_even_when_others_are_bad(api: Api) -> None:
    api.model()
    api.model("off", enabled=0)
    api.model("get", httpMethod="GET")
    listed = api.batch(
        {"modelName": "m"}, {"modelName": "nobody"}, {"modelName": "off"}, {"modelName": "m", "priority": 10},
        {"modelName": "get", "requestPayload": [1]}, "text", {}, {"modelName": "m"},
    )  # fmt: skip

    assert [item["index"] for item in listed] == list(range(8))
    assert [n for n, item in enumerate(listed) if "taskId" in item] == [0, 7]
    codes = [item["error"]["code"] for item in listed[1:7]]
    assert codes == ["model_not_found", "model_disabled"] + ["invalid_input"] * 4
    assert api.listed()["total"] == 2


def test_each_mistake_has_its_place_in_the_whole_body(api: Api) -> None:
    api.model()
    api.model("get", httpMethod="GET")
    deep: Any = 1
    for _ in range(65):
        deep = [deep]
    listed = api.batch(
        {"modelName": "m", "priority": 10, "more": 1}, 5, {}, {"modelName": "get", "requestPayload": [1]},
        {"modelName": "m", "requestPayload": deep}, {"modelName": "m", "delaySeconds": 1, "notBefore": "2030-01-01T00:00:00Z"},
    )  # fmt: skip

    assert [errors(item) for item in listed] == [
        ["#/tasks/0/priority", "#/tasks/0/more"], ["#/tasks/1"], ["#/tasks/2/modelName"],
        ["#/tasks/3/requestPayload"], ["#/tasks/4/requestPayload"], ["#/tasks/5"],
    ]  # fmt: skip
    assert "#/tasks/3/requestPayload" in listed[3]["error"]["detail"]


def test_a_batch_of_nothing_is_nothing(api: Api) -> None:
    assert api.batch() == []


def test_a_batch_of_refusals_creates_nothing(api: Api) -> None:
    assert [item["error"]["code"] for item in api.batch({"modelName": "nobody"}, {})] == [
        "model_not_found",
        "invalid_input",
    ]


def test_a_batch_over_many_models_puts_each_task_into_its_lane(api: Api, pool: db.Pool) -> None:
    names = [f"m{n}" for n in range(20)]
    for name in names:
        api.model(name)
    api.batch(*[{"modelName": name} for name in names * 3])

    counted = """SELECT m.model_name, t.model_name AS said, count(*) FROM asynch_task t JOIN asynch_models m USING (lane_id)
                 GROUP BY 1, 2"""
    found = {(row["model_name"], row["said"], row["count"]) for row in all_rows(pool, counted)}
    assert found == {(name, name, 3) for name in names}


@pytest.mark.parametrize(
    ("body", "status"),
    [("[]", 400), ('"x"', 400), ("", 400), ("{}", 422), ('{"tasks":{}}', 422), ('{"tasks":null}', 422),
     ('{"tasks":[],"more":1}', 422), ('{"tasks":[{"modelName":"m"},]}', 400), ('{"tasks":[{"modelName":"m"}', 400)],
)  # fmt: skip
def test_a_body_that_is_no_batch_creates_nothing(api: Api, body: str, status: int) -> None:
    api.model()

    assert problem(api.post("createTaskBatch", body))[0] == status
    assert api.listed()["total"] == 0


def test_a_batch_has_10000_tasks_at_most(api: Api) -> None:
    api.model(queueLimit=20_000)
    fits, over = ('{"tasks":[' + ",".join(['{"modelName":"m"}'] * n) + "]}" for n in (10_000, 10_001))

    assert pointers(api.post("createTaskBatch", over)) == ["#/tasks"]
    listed = json.loads(api.post("createTaskBatch", fits).content)["list"]
    assert len({item["taskId"] for item in listed}) == 10_000
