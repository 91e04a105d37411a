from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from asynch import db
from asynch.store import models as store
from tests.database import all_rows
from tests.live import Live, MakeParts, serving
from tests.waiting import until

URL = "http://127.0.0.1:9/run"
SECRET = "sk-0123456789abcdef"
DEFAULTS = {
    "route": "",
    "httpMethod": "POST",
    "apiKey": "",
    "enabled": 1,
    "maxConcurrency": 10,
    "queueLimit": 1000,
    "timeoutSeconds": 60,
    "retryTimes": 0,
    "retryQueueMaxSeconds": 0,
    "retryOn": "any",
    "retryBackoffSeconds": 0,
    "autoCleanSeconds": 86400,
    "maxResultBytes": 1 << 30,
    "remark": "",
}


def create(live: Live, name: str = "m", /, **fields: Any) -> str:
    answer = live.call("POST", "/model/createModel", {"modelName": name, "baseUrl": URL, **fields})
    assert answer.status_code == 200, answer.text
    made: str = answer.json()["id"]
    return made


def refused(live: Live, **fields: Any) -> list[str]:
    """The pointers of a createModel that is refused."""
    answer = live.call("POST", "/model/createModel", {"modelName": "m", "baseUrl": URL, **fields})
    assert answer.status_code == 422, answer.text
    return [error["pointer"] for error in answer.json()["errors"]]


def get(live: Live, **key: Any) -> dict[str, Any]:
    answer = live.call("GET", "/model/getModel", params=key)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def update(live: Live, **fields: Any) -> requests.Response:
    return live.call("PUT", "/model/updateModel", fields)


def delete(live: Live, model_id: str, **query: Any) -> requests.Response:
    return live.call("DELETE", "/model/deleteModel", params={"id": model_id, **query})


def names(live: Live, **body: Any) -> list[str]:
    return [item["modelName"] for item in live.call("POST", "/model/listModel", body).json()["list"]]


def headers(tenant: int, role: str = "admin") -> dict[str, str]:
    return {"X-User-Info": json.dumps({"tenantId": tenant, "userName": "eva", "role": role})}


def add_task(pool: db.Pool, model_id: str, *, state: int, final: bool, phase: int = 0) -> int:
    """A task of a model in a given state; its id."""
    made = """INSERT INTO asynch_task (id, tenant_id, lane_id, model_name, state, final, phase, tmp_file, tmp_host)
              SELECT asynch_new_id(), tenant_id, lane_id, model_name, %s, %s, %s, 'f', 'h'
              FROM asynch_models WHERE id = %s RETURNING id"""
    with db.transaction(pool) as conn:
        row = conn.execute(made, (state, final, phase, int(model_id))).fetchone()
    assert row is not None
    task_id: int = row["id"]
    return task_id


# Creation


def test_a_model_has_the_contracts_defaults(live: Live) -> None:
    create(live)

    assert get(live, modelName="m").items() >= {"modelName": "m", "baseUrl": URL, "kind": "model", **DEFAULTS}.items()


def test_a_model_keeps_everything_it_was_given(live: Live) -> None:
    given = {
        "route": "v1/x", "httpMethod": "GET", "enabled": 0, "maxConcurrency": 3, "queueLimit": 4, "timeoutSeconds": 5,
        "retryTimes": 6, "retryQueueMaxSeconds": -1, "retryOn": "transient", "retryBackoffSeconds": 7,
        "autoCleanSeconds": 8, "maxResultBytes": 9, "remark": "hello",
    }  # fmt: skip
    create(live, **given)

    assert get(live, modelName="m").items() >= given.items()


@pytest.mark.parametrize("unset", [None, 0, -5])
@pytest.mark.parametrize("field", ["maxConcurrency", "queueLimit", "timeoutSeconds", "autoCleanSeconds"])
def test_null_and_what_is_not_positive_mean_the_default(live: Live, field: str, unset: int | None) -> None:
    create(live, **{field: unset})

    assert get(live, modelName="m")[field] == DEFAULTS[field]


def test_null_means_the_default_everywhere(live: Live) -> None:
    create(live, **dict.fromkeys(DEFAULTS))

    assert get(live, modelName="m").items() >= DEFAULTS.items()


@pytest.mark.parametrize(("given", "kept"), [(True, 1), (False, 0), (1, 1), (0, 0)])
def test_enabled_may_be_a_boolean(live: Live, given: object, kept: int) -> None:
    create(live, enabled=given)

    assert get(live, modelName="m")["enabled"] == kept


def test_ids_are_strings_and_times_have_milliseconds(live: Live) -> None:
    model_id = create(live)
    model = get(live, id=model_id)

    assert isinstance(model["id"], str)
    assert model["id"] == model_id
    assert isinstance(model["tenantId"], str)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", model["createdAt"])
    age = datetime.now(UTC) - datetime.fromisoformat(model["createdAt"])
    assert abs(age) < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modelName", ""), ("modelName", "x" * 129), ("modelName", 5), ("modelName", None),
        ("baseUrl", ""), ("baseUrl", None), ("baseUrl", "ftp://h/"), ("baseUrl", "http://"),
        ("baseUrl", "http://h/" + "x" * 250), ("baseUrl", "http://u:p@h/"), ("baseUrl", "http://h/#f"),
        ("baseUrl", "http://10.0.0.1/"), ("baseUrl", "http://169.254.169.254/"), ("baseUrl", "http://2852039166/"),
        ("route", "x" * 257), ("route", "../admin"), ("route", 1),
        ("httpMethod", "PUT"), ("httpMethod", 1),
        ("enabled", 2), ("enabled", "1"), ("enabled", 0.5), ("enabled", []),
        ("maxConcurrency", "10"), ("maxConcurrency", 1.5), ("maxConcurrency", True), ("maxConcurrency", 2**31),
        ("queueLimit", 2**31), ("timeoutSeconds", 2**40), ("autoCleanSeconds", 10**30),
        ("retryTimes", -1), ("retryTimes", 2**31), ("retryQueueMaxSeconds", -2), ("retryOn", "never"),
        ("retryBackoffSeconds", -1), ("maxResultBytes", 0), ("maxResultBytes", 2**63),
        ("remark", "x" * 1025), ("remark", {}), ("id", "1"), ("model_name", "m"), ("tenantId", 1),
        ("apiKey", "nothing"), ("apiKey", "A:"), ("apiKey", "A B:c"), ("apiKey", "A:b\r\nC:d"), ("apiKey", "Host:x"),
        ("apiKey", "A:" + "x" * 1024), ("apiKey", "Transfer-Encoding:chunked"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_its_place(live: Live, field: str, value: object) -> None:
    assert refused(live, **{field: value}) == [f"#/{field}"]
    assert names(live) == []


def test_all_mistakes_are_told_at_once(live: Live) -> None:
    assert set(refused(live, modelName="", enabled=7, unknown=1)) == {"#/modelName", "#/enabled", "#/unknown"}


def test_a_refused_secret_is_not_told_back(live: Live) -> None:
    answer = live.call("POST", "/model/createModel", {"modelName": "m", "baseUrl": URL, "apiKey": f"A B:{SECRET}"})

    assert answer.status_code == 422
    assert SECRET not in answer.text


def test_a_name_is_there_once(live: Live) -> None:
    create(live)
    answer = live.call("POST", "/model/createModel", {"modelName": "m", "baseUrl": URL})

    assert (answer.status_code, answer.json()["code"]) == (409, "model_exists")


def test_of_many_creators_of_a_name_one_wins(live: Live) -> None:
    def attempt(_: int) -> int:
        body = {"modelName": "m", "baseUrl": URL}
        return requests.post(live.url + "/model/createModel", json=body, timeout=30).status_code

    with ThreadPoolExecutor(12) as pool:
        assert sorted(pool.map(attempt, range(12))) == [200] + [409] * 11


def test_tenants_share_no_names_and_see_no_models_of_each_other(live: Live) -> None:
    model_id = create(live)
    own = live.call("POST", "/model/createModel", {"modelName": "m", "baseUrl": URL}, headers=headers(5))
    foreign = live.call("GET", f"/model/getModel?id={model_id}", headers=headers(5))

    assert own.status_code == 200
    assert foreign.status_code == 404


# Secrets


def test_bindings_are_answered_masked_and_stored_sealed(live: Live, pool: db.Pool) -> None:
    create(live, apiKey=f"Authorization:Bearer {SECRET}")

    shown = get(live, modelName="m")["apiKey"]
    assert shown.startswith("Authorization:")
    assert SECRET not in shown
    assert SECRET not in str(all_rows(pool, "SELECT * FROM asynch_models"))


def test_bindings_come_out_as_they_went_in(live: Live, pool: db.Pool) -> None:
    given = f'Authorization:Bearer {SECRET},X-More:"a,b:c"'
    create(live, apiKey=given)

    sealed = all_rows(pool, "SELECT api_key FROM asynch_models")[0]["api_key"]
    assert live.parts.box.open(0, "api_key", sealed) == given


def test_the_mask_sent_back_changes_nothing(live: Live, pool: db.Pool) -> None:
    create(live, apiKey=f"Authorization:Bearer {SECRET}")
    before = all_rows(pool, "SELECT api_key FROM asynch_models")

    assert update(live, modelName="m", apiKey=get(live, modelName="m")["apiKey"]).status_code == 200
    assert all_rows(pool, "SELECT api_key FROM asynch_models") == before


def test_the_op_log_holds_no_secret(live: Live, pool: db.Pool) -> None:
    create(live, apiKey=f"Authorization:Bearer {SECRET}")
    update(live, modelName="m", apiKey=f"X-Key:{SECRET}")

    logged = all_rows(pool, "SELECT request_payload FROM asynch_op_log")
    assert "X-Key:" in str(logged)
    assert SECRET not in str(logged)


# Change


def test_what_is_absent_or_null_stays(live: Live) -> None:
    create(live, route="r", remark="x", retryTimes=3, apiKey="A:b", queueLimit=7)
    before = get(live, modelName="m")
    update(live, modelName="m", timeoutSeconds=99, **dict.fromkeys(["route", "remark", "apiKey", "queueLimit"]))

    after = get(live, modelName="m")
    assert after.pop("updatedAt") > before.pop("updatedAt")
    assert after == {**before, "timeoutSeconds": 99}


@pytest.mark.parametrize("field", ["route", "apiKey", "remark"])
def test_an_empty_text_clears(live: Live, field: str) -> None:
    create(live, route="r", remark="x", apiKey="A:b")
    update(live, modelName="m", **{field: ""})

    model = get(live, modelName="m")
    assert [name for name in ("route", "apiKey", "remark") if model[name] == ""] == [field]


@pytest.mark.parametrize("as_number", [True, False])
def test_an_id_lets_the_name_change(live: Live, as_number: bool) -> None:
    model_id = create(live)
    assert update(live, id=int(model_id) if as_number else model_id, modelName="n").status_code == 200

    assert get(live, id=model_id)["modelName"] == "n"
    assert names(live) == ["n"]


def test_a_new_name_must_be_free(live: Live) -> None:
    create(live, "taken")
    answer = update(live, id=create(live), modelName="taken")

    assert (answer.status_code, answer.json()["code"]) == (409, "model_exists")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [({"baseUrl": ""}, "#/baseUrl"), ({"baseUrl": "http://10.0.0.1"}, "#/baseUrl"), ({"route": "../x"}, "#/route"),
     ({"queueLimit": 0}, "#/queueLimit"), ({"apiKey": "A"}, "#/apiKey"), ({"kind": "webhook"}, "#/kind")],
)  # fmt: skip
def test_a_change_is_checked_like_a_creation(live: Live, fields: dict[str, Any], pointer: str) -> None:
    create(live)
    before = get(live, modelName="m")
    answer = update(live, modelName="m", **fields)

    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert get(live, modelName="m") == before


def test_a_change_needs_a_model(live: Live) -> None:
    assert update(live, remark="x").status_code == 422
    assert update(live, modelName="nobody", remark="x").status_code == 404
    assert update(live, id="1", remark="x").status_code == 404
    assert update(live, id="0", remark="x").status_code == 422


# Deletion


def test_a_deleted_model_is_gone_and_its_name_free(live: Live) -> None:
    first = create(live)
    assert delete(live, first).status_code == 200

    assert live.call("GET", "/model/getModel?modelName=m").status_code == 404
    assert delete(live, first).status_code == 404
    assert create(live) != first


@pytest.mark.parametrize(("state", "final", "phase"), [(0, False, 0), (0, False, 1), (1, False, 0), (3, False, 0)])
def test_tasks_that_are_not_final_protect_their_model(
    live: Live, pool: db.Pool, state: int, final: bool, phase: int
) -> None:
    model_id = create(live)
    add_task(pool, model_id, state=state, final=final, phase=phase)
    answer = delete(live, model_id)

    assert (answer.status_code, answer.json()["code"]) == (409, "tasks_not_final")
    assert names(live) == ["m"]


def test_final_tasks_do_not_protect_their_model(live: Live, pool: db.Pool) -> None:
    model_id = create(live)
    for state in (2, 3, 4, 5):
        add_task(pool, model_id, state=state, final=True)

    assert delete(live, model_id).status_code == 200


def test_force_cancels_what_waits_and_asks_for_what_runs(live: Live, pool: db.Pool) -> None:
    model_id, other = create(live), create(live, "other")
    waiting = add_task(pool, model_id, state=0, final=False)
    running = add_task(pool, model_id, state=1, final=False)
    saved = add_task(pool, model_id, state=0, final=False, phase=1)
    failed = add_task(pool, model_id, state=3, final=False)
    done = add_task(pool, model_id, state=2, final=True)
    elsewhere = add_task(pool, other, state=0, final=False)

    assert delete(live, model_id, force="true").status_code == 200

    tasks = {r["id"]: (r["state"], r["cancel_requested"]) for r in all_rows(pool, "SELECT * FROM asynch_task")}
    cancelled = dict.fromkeys([waiting, saved, failed], (5, False))
    assert tasks == {**cancelled, running: (1, True), done: (2, False), elsewhere: (0, False)}


def test_a_deletion_waits_for_a_creator_that_is_in_the_lane(live: Live, pool: db.Pool) -> None:
    model_id = create(live)
    lane = all_rows(pool, "SELECT lane_id FROM asynch_models")[0]["lane_id"]
    with ThreadPoolExecutor(1) as threads:
        with db.transaction(pool) as creator:
            creator.execute("SELECT pg_advisory_xact_lock_shared(%s, -1)", (lane,))
            deletion = threads.submit(delete, live, model_id)
            until_someone_waits(pool)
            assert not deletion.done()
            creator.execute(
                "INSERT INTO asynch_task (id, tenant_id, lane_id, model_name) VALUES (asynch_new_id(), 0, %s, 'm')",
                (lane,),
            )
        assert deletion.result().status_code == 409


def until_someone_waits(pool: db.Pool) -> None:
    """Return when some session waits for an advisory lock."""
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    until(lambda: all_rows(pool, waiting), what="a wait for the lane")


@pytest.mark.parametrize("query", ["", "id=x", "id=1&force=maybe", "id=1&id=2", "id=1&more=1", "id=-1"])
def test_a_deletion_that_is_not_understood_is_422(live: Live, query: str) -> None:
    assert live.call("DELETE", f"/model/deleteModel?{query}").status_code == 422


# Lists


@pytest.fixture
def five(live: Live) -> Live:
    for name in ("alpha", "beta", "a%b", "a_b", "axb"):
        create(live, name)
    return live


def test_a_list_is_newest_first_in_pages(five: Live) -> None:
    assert names(five) == ["axb", "a_b", "a%b", "beta", "alpha"]
    answer = five.call("POST", "/model/listModel", {"page": {"pageNum": 2, "pageSize": 2}}).json()
    assert [item["modelName"] for item in answer["list"]] == ["a%b", "beta"]
    assert answer["total"] == 5


def test_a_page_beyond_the_end_still_knows_the_total(five: Live) -> None:
    answer = five.call("POST", "/model/listModel", {"page": {"pageNum": 2**31 - 1, "pageSize": 1000}}).json()

    assert answer == {"list": [], "total": 5}


@pytest.mark.parametrize(("text", "found"), [("%", ["a%b"]), ("_", ["a_b"]), ("et", ["beta"]), ("zz", [])])
def test_a_filter_means_contains_and_takes_no_wildcards(five: Live, text: str, found: list[str]) -> None:
    assert names(five, modelName=text) == found


@pytest.mark.parametrize("page", [{"pageNum": 0}, {"pageSize": 0}, {"pageSize": 1001}, {"size": 1}, [], "1"])
def test_a_page_that_cannot_be_is_422(live: Live, page: object) -> None:
    assert live.call("POST", "/model/listModel", {"page": page}).status_code == 422


def test_lanes_of_the_system_are_shown_to_admins_only(live: Live, pool: db.Pool) -> None:
    create(live)
    with db.transaction(pool) as conn:
        conn.execute(
            "INSERT INTO asynch_models (tenant_id, kind, model_name, base_url) VALUES (0, 'webhook', 'hook', 'x')"
        )
    user = live.call("POST", "/model/listModel", {"kind": "webhook"}, headers=headers(0, "user")).json()

    assert names(live) == ["hook", "m"]
    assert names(live, kind="model") == ["m"]
    assert [item["modelName"] for item in user["list"]] == ["m"]


# Rights and records


def test_users_manage_models_only_where_they_may(make_parts: MakeParts) -> None:
    with serving(make_parts(auth={"users_manage_models": False})) as live:
        model_id = create(live)
        user = headers(0, "user")
        answers = [
            live.call("POST", "/model/createModel", {"modelName": "n", "baseUrl": URL}, headers=user),
            live.call("PUT", "/model/updateModel", {"modelName": "m", "remark": "x"}, headers=user),
            live.call("DELETE", f"/model/deleteModel?id={model_id}", headers=user),
        ]
        assert [answer.status_code for answer in answers] == [403, 403, 403]
        assert live.call("GET", "/model/getModel?modelName=m", headers=user).status_code == 200


def test_each_change_is_in_the_op_log_with_who_and_what(live: Live, pool: db.Pool) -> None:
    who = {**headers(3), "User-Agent": "tests/1"}
    made = live.call("POST", "/model/createModel", {"modelName": "m", "baseUrl": URL}, headers=who).json()["id"]
    live.call("PUT", "/model/updateModel", {"modelName": "m", "retryTimes": 2}, headers=who)
    live.call("DELETE", f"/model/deleteModel?id={made}", headers=who)

    rows = all_rows(pool, "SELECT * FROM asynch_op_log ORDER BY id")
    assert [r["op_type"] for r in rows] == ["createModel", "updateModel", "deleteModel"]
    assert {(r["tenant_id"], r["creator"], r["model_name"], r["ip"], r["user_agent"], r["success"]) for r in rows} == {
        (3, "eva", "m", "127.0.0.1", "tests/1", 1)
    }
    assert (rows[1]["api_path"], rows[1]["http_method"]) == ("/model/updateModel", "PUT")
    assert json.loads(rows[1]["request_payload"]) == {"id": made, "modelName": "m", "retryTimes": 2}


def test_payloads_stay_out_of_the_op_log_where_they_are_not_wanted(make_parts: MakeParts, pool: db.Pool) -> None:
    with serving(make_parts(op_log={"payloads": False})) as live:
        create(live)

    assert [r["request_payload"] for r in all_rows(pool, "SELECT request_payload FROM asynch_op_log")] == [""]


def test_a_refused_change_leaves_no_row(live: Live, pool: db.Pool) -> None:
    create(live)
    live.call("POST", "/model/createModel", {"modelName": "m", "baseUrl": URL})

    assert len(all_rows(pool, "SELECT id FROM asynch_op_log")) == 1


def test_a_model_whose_secret_cannot_be_read_does_not_spoil_the_list(live: Live, pool: db.Pool) -> None:
    create(live, apiKey=f"A:{SECRET}")
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_models SET api_key = 'not a token'")

    assert names(live) == ["m"]


def test_the_specs_fields_are_the_tables_columns(pool: db.Pool) -> None:
    columns = {
        r["column_name"]
        for r in all_rows(pool, "SELECT column_name FROM information_schema.columns WHERE table_name = 'asynch_models'")
    }

    assert set(store.ModelSpec.__dataclass_fields__) <= columns
