from __future__ import annotations

import json
from typing import Any

import pytest
from psycopg import sql

from asynch import db
from asynch.service import listing
from tests.live import MakeParts, serving
from tests.rows import bend
from tests.task_api import Api, Hand, pointers, problem


def ids(api: Api, **body: Any) -> list[str]:
    return [item["taskId"] for item in api.listed(**body)["list"]]


def test_a_list_is_newest_first_in_pages_of_ten(api: Api) -> None:
    api.model()
    made = api.fill(25)[::-1]

    assert ids(api) == made[:10]
    assert ids(api, page={"pageNum": 3}) == made[20:]
    assert ids(api, page={"pageNum": 2, "pageSize": 7}) == made[7:14]
    assert ids(api, page={"pageNum": 4}) == []
    assert ids(api, page={"pageSize": 1000}) == made


def test_the_total_counts_all_pages(api: Api) -> None:
    api.model()
    api.fill(25)
    told = api.listed(page={"pageNum": 9, "pageSize": 3})

    assert (told["total"], told["totalCapped"]) == (25, False)


def test_a_total_over_the_cap_says_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "TOTAL_CAP", 20)
    api.model()
    api.fill(20)
    assert (api.listed()["total"], api.listed()["totalCapped"]) == (20, False)

    api.create()
    assert (api.listed()["total"], api.listed()["totalCapped"]) == (20, True)


def test_the_last_page_there_can_be_is_empty(api: Api) -> None:
    api.model()
    api.create()

    assert ids(api, page={"pageNum": 2**31 - 1, "pageSize": 1000}) == []


def test_an_entry_tells_more_than_an_item_but_nothing_of_the_inside(api: Api) -> None:
    api.model()
    api.create(requestPayload={"a": 1}, inputRef="ref")
    (entry,) = api.listed()["list"]

    assert set(entry) - set(api.collect(entry["taskId"])["list"][0]) == {
        "id", "tenantId", "creator", "updater", "updatedAt", "enqueueAt", "inputRef",
    }  # fmt: skip
    assert entry["id"] == entry["taskId"]


@pytest.mark.parametrize(("asked", "there"), [(True, True), (1, True), (False, False), (0, False)])
def test_payloads_are_told_where_asked(api: Api, asked: object, there: bool) -> None:
    api.model()
    api.create(requestPayload={"a": 1})
    api.create()
    entries = api.listed(includePayload=asked)["list"]

    assert [entry.get("requestPayload", "absent") for entry in entries] == (
        [None, {"a": 1}] if there else ["absent", "absent"]
    )


def test_a_page_of_payloads_too_large_to_answer_is_refused(make_parts: MakeParts) -> None:
    with serving(make_parts(server={"max_body": 3000, "max_batch_body": 5000})) as live:
        api = Api(live)
        api.model()
        for _ in range(3):
            api.create(requestPayload="x" * 2400)

        assert problem(api.post("listTask", {"includePayload": True})) == (413, "body_too_large")
        assert len(ids(api, includePayload=True, page={"pageSize": 2})) == 2
        assert len(ids(api)) == 3


# Filters


@pytest.fixture
def mixed(api: Api, hand: Hand) -> dict[str, str]:
    """Tasks in every state, by the name of the state."""
    api.model(retryTimes=1, retryBackoffSeconds=600)
    api.model("once")
    found = {name: api.create() for name in ("running", "fetched", "succeeded", "retrying")}
    failed = api.post("createTask", {"modelName": "once"}).json()["taskId"]
    hand.take(*found.values(), failed)
    bend(hand.pool, [int(i) for i in found.values()], state=0)
    hand.succeed(found["running"], found["fetched"], found["succeeded"], found["retrying"])
    bend(hand.pool, [int(found["running"])], state=1, final=False)
    bend(hand.pool, [int(found["retrying"])], state=3, final=False)
    bend(hand.pool, [int(failed)], state=3, final=True)
    bend(hand.pool, [int(found["fetched"])], state=4)
    found |= {"failed": failed, "pending": api.create(), "cancelled": api.create()}
    api.post(f"{found['cancelled']}/cancel")
    return found


@pytest.mark.parametrize(
    ("body", "names"),
    [({"state": 0}, {"pending"}), ({"state": 1}, {"running"}), ({"state": 2}, {"succeeded"}),
     ({"state": 3}, {"retrying", "failed"}), ({"state": 4}, {"fetched"}), ({"state": 5}, {"cancelled"}),
     ({"final": False}, {"pending", "running", "retrying"}), ({"final": True, "state": 3}, {"failed"}),
     ({"final": False, "state": 5}, set()), ({"modelName": "once"}, {"failed"}),
     ({"modelName": "nc", "state": 3}, {"failed"}), ({"modelName": "", "state": 0}, {"pending"})],
)  # fmt: skip
def test_filters_narrow_list_and_total(api: Api, mixed: dict[str, str], body: dict[str, Any], names: set[str]) -> None:
    told = api.listed(**body)

    assert {entry["taskId"] for entry in told["list"]} == {mixed[name] for name in names}
    assert told["total"] == len(names)


def test_null_narrows_nothing(api: Api) -> None:
    api.model()
    api.create()
    nothing = dict.fromkeys(
        ("modelName", "taskId", "bizName", "state", "final", "createdFrom", "createdTo", "tenantId")
    )

    assert api.listed(**nothing)["total"] == 1


@pytest.mark.parametrize("as_number", [True, False])
def test_one_task_is_found_by_its_id(api: Api, as_number: bool) -> None:
    api.model()
    task_id = api.fill(3)[1]

    assert ids(api, taskId=int(task_id) if as_number else task_id) == [task_id]
    assert ids(api, taskId=task_id[:-1]) == []
    assert ids(api, taskId="x") == []


NAMES = ["a%b", "a_b", "axb", "a\\b", "a'b", 'a"b', "%", "A", "ä", "😀", "a b", "$1", "%s", "%(x)s", "{}"]


@pytest.mark.parametrize("text", ["%", "_", "a%b", "a_b", "\\", "'", '"', "A", "a", "😀", " ", "$1", "%s", "%(x)s", "{}", "zz"])  # fmt: skip
def test_text_filters_mean_contains_and_nothing_else(api: Api, text: str) -> None:
    api.model()
    for name in NAMES:
        api.create(bizName=name)
        api.model(name)
        api.post("createTask", {"modelName": name})
    expected = [name for name in NAMES if text in name]

    by_biz = api.listed(bizName=text, page={"pageSize": 100})["list"]
    by_model = api.listed(modelName=text, page={"pageSize": 100})["list"]
    assert sorted(entry["bizName"] for entry in by_biz) == sorted(expected)
    assert sorted(entry["modelName"] for entry in by_model) == sorted(expected)


def test_times_of_creation_are_from_and_before(api: Api, pool: db.Pool) -> None:
    api.model()
    for n, task_id in enumerate(api.fill(3)):
        age(pool, task_id, f"2024-01-0{n + 1}T00:00:00Z")
    made = ids(api)[::-1]

    assert ids(api, createdFrom="2024-01-02T00:00:00Z") == made[:0:-1]
    assert ids(api, createdTo="2024-01-02T00:00:00Z") == made[:1]
    assert ids(api, createdFrom="2024-01-02T01:00:00+01:00", createdTo="2024-01-02T00:00:00.001Z") == [made[1]]
    assert ids(api, createdFrom="2024-01-03T00:00:00Z", createdTo="2024-01-01T00:00:00Z") == []
    assert len(ids(api, createdFrom="0001-01-01T00:00:00+14:00")) == 3
    assert len(ids(api, createdTo="8999-12-31T00:00:00Z")) == 3


def age(pool: db.Pool, task_id: str, at: str, *, late_s: float = 0.0) -> None:
    """Make a task as old as if it had been created at that time, its id drawn so long after."""
    drawn = f"asynch_id_at(timestamptz '{at}' + make_interval(secs => {late_s})) + id % 4194304"
    bend(pool, [int(task_id)], created_at=at, id=sql.SQL(drawn))  # type: ignore[arg-type]  # a time and a number


def test_a_task_whose_creation_took_its_time_is_found_by_its_time(api: Api, pool: db.Pool) -> None:
    """created_at is when the transaction began, the id tells when it was drawn."""
    api.model()
    age(pool, api.create(), "2024-01-01T12:00:00Z", late_s=3500.0)

    assert len(ids(api, createdTo="2024-01-01T12:00:01Z")) == 1
    assert len(ids(api, createdFrom="2024-01-01T12:00:00Z", createdTo="2024-01-01T12:00:01Z")) == 1
    assert ids(api, createdFrom="2024-01-01T12:00:01Z") == []


def test_tasks_keep_the_names_that_their_model_had(api: Api) -> None:
    model = api.model("early")
    first = api.create(modelName="early")
    rename(api, model, "middle")
    second = api.create(modelName="middle")
    rename(api, model, "late")
    api.model("early")
    third = api.create(modelName="early")

    assert ids(api, modelName="early") == [third, first]
    assert ids(api, modelName="middle") == [second]
    assert ids(api, modelName="late") == []


def test_a_name_that_a_model_got_back_finds_its_tasks(api: Api) -> None:
    model = api.model("one")
    first = api.create(modelName="one")
    rename(api, model, "two")
    rename(api, model, "one")
    second = api.create(modelName="one")

    assert ids(api, modelName="one") == [second, first]
    assert ids(api, modelName="two") == []


def rename(api: Api, model_id: str, to: str) -> None:
    assert api.call("PUT", "/model/updateModel", {"id": model_id, "modelName": to}).status_code == 200


def test_tasks_of_a_deleted_model_are_found_by_its_name(api: Api) -> None:
    model = api.model("gone")
    task_id = api.create(modelName="gone")
    assert api.call("DELETE", f"/model/deleteModel?id={model}&force=true").status_code == 200

    assert ids(api, modelName="gone") == [task_id]


def test_tasks_of_many_models_are_one_list(api: Api) -> None:
    for name in ("a1", "a2", "b"):
        api.model(name)
    made = [api.create(modelName=name) for _ in range(4) for name in ("a1", "b", "a2")]
    expected = [task_id for n, task_id in enumerate(made) if n % 3 != 1][::-1]

    assert ids(api, modelName="a") == expected
    assert ids(api, modelName="a", page={"pageNum": 2, "pageSize": 3}) == expected[3:6]
    assert api.listed(modelName="a", page={"pageNum": 3, "pageSize": 4})["total"] == 8
    assert api.listed(modelName="a", page={"pageSize": 3})["total"] == 8


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"page": {"pageNum": 0}}, "#/page/pageNum"), ({"page": {"pageNum": 2**31}}, "#/page/pageNum"),
        ({"page": {"pageSize": 0}}, "#/page/pageSize"), ({"page": {"pageSize": 1001}}, "#/page/pageSize"),
        ({"page": {"pageSize": "10"}}, "#/page/pageSize"), ({"page": {"pageNum": 1.5}}, "#/page/pageNum"),
        ({"page": {"size": 1}}, "#/page/size"), ({"page": 1}, "#/page"), ({"state": 6}, "#/state"),
        ({"state": -1}, "#/state"), ({"state": "2"}, "#/state"), ({"state": True}, "#/state"), ({"final": 1}, "#/final"),
        ({"final": "true"}, "#/final"), ({"createdFrom": "yesterday"}, "#/createdFrom"),
        ({"createdTo": "2020-01-01T00:00:00"}, "#/createdTo"), ({"createdTo": 0}, "#/createdTo"),
        ({"includePayload": "yes"}, "#/includePayload"), ({"modelName": 1}, "#/modelName"),
        ({"modelName": "\0"}, "#/modelName"), ({"bizName": "\ud800"}, "#/bizName"), ({"taskId": 1.5}, "#/taskId"),
        ({"taskId": []}, "#/taskId"), ({"tenantId": "x"}, "#/tenantId"), ({"tenantId": 2**63}, "#/tenantId"),
        ({"pageNum": 1}, "#/pageNum"), ({"status": "failed"}, "#/status"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_is_refused_at_its_place(api: Api, body: dict[str, Any], pointer: str) -> None:
    assert pointers(api.post("listTask", json.dumps(body))) == [pointer]


def test_a_list_of_nothing_is_empty(api: Api) -> None:
    assert api.listed() == {"list": [], "total": 0, "totalCapped": False}
