"""The op log over HTTP: what it tells, how it is narrowed, and who may read it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from asynch import db
from asynch.service import listing
from asynch.web.app import create_app
from asynch.web.oplog import LOOKS
from tests.live import MakeParts, serving
from tests.task_api import Api, Hand, pointers, problem, purge_rows

FIELDS = {
    "id", "tenantId", "creator", "createdAt", "ip", "userAgent", "apiPath", "httpMethod", "bizName", "modelName",
    "taskId", "opType", "success", "errorMsg", "costMs", "requestPayload", "responsePayload",
}  # fmt: skip


def told(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.call("POST", "/opLog/listOpLog", body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert len(found["list"]) <= found["total"] or found["totalCapped"]
    return found


def ops(api: Api, **body: Any) -> list[str]:
    return [row["opType"] for row in told(api, **body)["list"]]


def log(pool: db.Pool, **columns: Any) -> None:
    """A row as somebody may have written it, its id of the time it was created."""
    at = columns.pop("at", None)
    values = {"tenant_id": 0, "op_type": "createTask", **columns}
    if at is not None:
        values["created_at"] = at
    names, marks = ", ".join(values), ", ".join(f"%({name})s" for name in values)
    own_id = "asynch_id_at(%(created_at)s) + nextval('asynch_id')" if at is not None else "asynch_new_id()"
    with db.transaction(pool) as conn:
        conn.execute(f"INSERT INTO asynch_op_log (id, {names}) VALUES ({own_id}, {marks})".encode(), values)


def test_it_tells_of_changes_and_tasks_newest_first(api: Api) -> None:
    api.model()
    task_id = api.create(bizName="b", requestPayload={"text": "x", "password": "hidden"})
    api.change_model(remark="new")
    changed, created, made = told(api)["list"]

    assert [row["opType"] for row in (changed, created, made)] == ["updateModel", "createTask", "createModel"]
    assert set(created) == FIELDS
    assert created.items() >= {
        "tenantId": "0", "creator": "eva", "ip": "127.0.0.1", "apiPath": "/task/createTask", "httpMethod": "POST",
        "bizName": "b", "modelName": "m", "taskId": task_id, "success": 1, "errorMsg": "", "responsePayload": "",
        "requestPayload": '{"text": "x", "password":"***"}',
    }.items()  # fmt: skip
    assert created["userAgent"].startswith("python-requests")
    assert isinstance(created["costMs"], int)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", created["createdAt"])
    assert int(changed["id"]) > int(created["id"]) > int(made["id"])


def test_it_tells_of_what_was_refused(api: Api) -> None:
    problem(api.post("createTask", {"modelName": "unknown", "bizName": "b"}))
    (row,) = told(api)["list"]

    assert row.items() >= {"success": 0, "errorMsg": "model_not_found", "taskId": "", "modelName": "unknown"}.items()


def test_all_that_happened_to_a_task_is_found_by_its_id(api: Api, hand: Hand) -> None:
    api.model()
    task_id, other = api.fill(2)
    hand.fail(task_id)
    api.post(f"{task_id}/retry")
    api.post(f"{task_id}/cancel")
    purge_rows(api.live, [task_id])

    assert ops(api, taskId=task_id) == ["purgeTask", "cancelTask", "retryTask", "createTask"]
    assert ops(api, taskId=int(task_id), page={"pageNum": 2, "pageSize": 3}) == ["createTask"]
    assert told(api, taskId=task_id, page={"pageSize": 1})["total"] == 4
    assert ops(api, taskId=task_id, opType="Task", success=1, creator="eva") == [
        "purgeTask", "cancelTask", "retryTask", "createTask",
    ]  # fmt: skip
    assert ops(api, taskId=task_id, opType="retry") == ["retryTask"]
    assert ops(api, taskId=other) == ["createTask"]
    assert ops(api, taskId=task_id[:-1]) == ops(api, taskId="x") == []


@pytest.mark.parametrize("column", ["op_type", "biz_name", "model_name", "creator"])
def test_text_filters_mean_contains_and_nothing_else(api: Api, pool: db.Pool, column: str) -> None:
    names = ["a%b", "a_b", "axb", "a\\b", "%", "A", "😀", "createTask", "purgeTask", "deleteModel"]
    for name in names:
        log(pool, **{column: name})
    field = {"op_type": "opType", "biz_name": "bizName", "model_name": "modelName", "creator": "creator"}[column]

    for text in ("%", "_", "a%b", "\\", "A", "a", "😀", "%s", "Task", "teM", "deleteModel", "createTask"):
        found = told(api, page={"pageSize": 100}, **{field: text})
        assert sorted(row[field] for row in found["list"]) == sorted(name for name in names if text in name)
        assert found["total"] == len(found["list"])
    assert told(api, **{field: ""})["total"] == told(api, **{field: None})["total"] == len(names)


@pytest.mark.parametrize(("asked", "kept"), [(0, [0]), (False, [0]), (1, [1, 1]), (True, [1, 1]), (None, [1, 0, 1])])
def test_success_narrows(api: Api, pool: db.Pool, asked: object, kept: list[int]) -> None:
    for success in (1, 0, 1):
        log(pool, success=success)

    assert [row["success"] for row in told(api, success=asked)["list"]] == kept


def test_times_are_from_and_before(api: Api, pool: db.Pool) -> None:
    for day in (1, 2, 3):
        log(pool, op_type=f"op{day}", at=f"2025-01-0{day}T00:00:00Z")

    assert ops(api, createdFrom="2025-01-02T00:00:00Z") == ["op3", "op2"]
    assert ops(api, createdTo="2025-01-02T00:00:00Z") == ["op1"]
    assert ops(api, createdFrom="2025-01-02T01:00:00+01:00", createdTo="2025-01-02T00:00:00.001Z") == ["op2"]
    assert ops(api, createdFrom="2025-01-03T00:00:00Z", createdTo="2025-01-01T00:00:00Z") == []
    assert len(ops(api, createdFrom="0001-01-01T00:00:00+14:00", createdTo="8999-12-31T23:59:59Z")) == 3


def test_a_row_of_a_transaction_that_took_its_time_is_found_by_when_it_began(api: Api, pool: db.Pool) -> None:
    log(pool, op_type="late", at="2025-01-02T00:50:00Z")
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_op_log SET created_at = '2025-01-02T00:00:00Z'")

    assert ops(api, createdFrom="2025-01-02T00:00:00Z", createdTo="2025-01-02T00:00:01Z") == ["late"]


def test_who_looked_is_told_where_that_is_wanted(make_parts: MakeParts) -> None:
    with serving(make_parts(op_log={"reads": True})) as live:
        api = Api(live)
        api.model()
        task_id = api.create()
        api.status(task_id)
        problem(api.call("GET", "/task/1"))
        api.call("POST", "/task/listTask", {})
        listed, refused, looked, created, _ = told(api)["list"]

    assert [row["opType"] for row in (listed, refused, looked, created)] == [
        "listTask", "taskStatus", "taskStatus", "createTask",
    ]  # fmt: skip
    assert looked.items() >= {
        "creator": "eva", "apiPath": f"/task/{task_id}", "httpMethod": "GET", "taskId": task_id, "success": 1,
        "requestPayload": "", "responsePayload": "",
    }.items()  # fmt: skip
    assert refused.items() >= {"taskId": "1", "success": 0, "errorMsg": "not_found"}.items()


def test_who_looked_is_not_told_otherwise(api: Api) -> None:
    api.model()
    api.call("POST", "/task/listTask", {})
    told(api)

    assert ops(api) == ["createModel"]


def test_who_looks_too_often_is_not_noted(make_parts: MakeParts) -> None:
    with serving(make_parts(op_log={"reads": True}, limits={"reads_per_minute": 1})) as live:
        answers = [Api(live).call("POST", "/task/listTask", {}).status_code for _ in range(3)]
        noted = ops(Api(live))

    assert (answers, noted) == ([200, 429, 429], ["listTask"])


def test_every_call_that_looks_is_one_of_the_application(make_parts: MakeParts) -> None:
    assert set(create_app(make_parts()).view_functions) >= LOOKS


def test_a_total_over_the_cap_says_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "TOTAL_CAP", 20)
    api.model()
    api.fill(19)
    assert told(api)["total"] == 20
    assert not told(api)["totalCapped"]

    api.create()
    assert (told(api)["total"], told(api)["totalCapped"]) == (20, True)
    assert told(api, opType="createModel") == told(api, opType="Model") == {
        **told(api, opType="createModel"), "total": 1, "totalCapped": False,
    }  # fmt: skip


def test_it_is_for_admins(api: Api) -> None:
    assert problem(api.of(7).call("POST", "/opLog/listOpLog", {})) == (403, "forbidden")


def test_an_admin_reads_its_own_tenants_or_the_one_it_names(api: Api) -> None:
    api.of(7).model("mine")
    api.of(8).model("theirs")
    admin = api.of(8, "admin")

    assert [row["modelName"] for row in told(admin)["list"]] == ["theirs"]
    assert [row["modelName"] for row in told(admin, tenantId="7")["list"]] == ["mine"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"success": 2}, "#/success"), ({"success": "1"}, "#/success"), ({"opType": 1}, "#/opType"),
        ({"creator": "\0"}, "#/creator"), ({"taskId": 1.5}, "#/taskId"), ({"createdFrom": "today"}, "#/createdFrom"),
        ({"createdTo": "2026-01-01T00:00:00"}, "#/createdTo"), ({"page": {"pageNum": 0}}, "#/page/pageNum"),
        ({"tenantId": 2**63}, "#/tenantId"), ({"op_type": "x"}, "#/op_type"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_is_refused_at_its_place(api: Api, body: dict[str, Any], pointer: str) -> None:
    assert pointers(api.call("POST", "/opLog/listOpLog", body)) == [pointer]
