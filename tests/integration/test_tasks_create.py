from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asynch import db
from tests.database import all_rows
from tests.live import MakeParts, serving
from tests.model_server import ModelServer
from tests.rows import row_of
from tests.task_api import Api, Hand, pointers, problem, working
from tests.waiting import until

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


# The answer


def test_a_created_task_is_202_and_says_where_its_status_is(api: Api) -> None:
    api.model()
    answer = api.post("createTask", {"modelName": "m"})
    told = answer.json()

    assert answer.status_code == 202
    assert told == {
        "taskId": told["taskId"],
        "state": 0,
        "status": "pending",
        "statusUrl": f"{api.live.parts.settings.public_url}/task/{told['taskId']}",
    }
    assert answer.headers["Location"] == told["statusUrl"]
    assert int(answer.headers["Retry-After"]) > 0
    assert api.status(told["taskId"])["taskId"] == told["taskId"]


def test_everything_said_of_a_task_is_told_back(api: Api) -> None:
    api.model()
    given = {
        "inputRef": "s3://bucket/ключ?x=1", "bizName": "Rechnung 🧾", "clientRef": "order-17",
        "metadata": {"b": 1, "a": [None, 1.50]}, "priority": 7,
    }  # fmt: skip
    told = api.status(api.create(**given))

    assert {name: told[name] for name in given} == given
    assert (told["creator"], told["tenantId"], told["modelName"]) == ("eva", "0", "m")


def test_a_status_document_has_all_its_members(api: Api) -> None:
    api.model(retryTimes=2)
    told = api.status(api.create())
    task_url = f"{api.live.parts.settings.public_url}/task/{told['taskId']}"

    assert TIME.fullmatch(told.pop("createdAt"))
    assert TIME.fullmatch(told.pop("updatedAt"))
    assert TIME.fullmatch(told.pop("enqueueAt"))
    assert told == {
        "taskId": told["taskId"], "id": told["taskId"], "tenantId": "0", "modelName": "m", "bizName": "",
        "clientRef": "", "metadata": None, "priority": 0, "state": 0, "status": "pending", "final": False, "phase": 0,
        "progress": None, "message": "", "ossFile": "", "fileType": "", "fileSize": None, "errorMsg": "",
        "retryCount": 0, "startedAt": None, "finishedAt": None, "expireAt": None, "creator": "eva", "updater": "eva",
        "inputRef": None, "attempt": 0, "maxAttempts": 3, "queuePosition": 1, "etaSeconds": None,
        "estimatedCompletion": None, "notBefore": None, "error": None, "result": None, "attempts": [],
        "_links": {
            "self": task_url, "result": f"{task_url}/result", "cancel": f"{task_url}/cancel",
            "events": f"{task_url}/events",
        },
    }  # fmt: skip


def test_null_is_as_good_as_absent(api: Api) -> None:
    api.model()
    optional = (
        "requestPayload", "inputRef", "bizName", "clientRef", "metadata", "priority", "delaySeconds", "notBefore",
        "queueTimeoutSeconds", "callbackUrl", "expireNoticeSeconds",
    )  # fmt: skip
    absent, null = api.status(api.create()), api.status(api.create(**dict.fromkeys(optional)))
    own = {"taskId", "id", "createdAt", "updatedAt", "enqueueAt", "queuePosition", "_links"}

    assert {k: v for k, v in null.items() if k not in own} == {k: v for k, v in absent.items() if k not in own}


# Payloads

#: JSON texts that a parser and a writer would not give back as they were
TEXTS = [
    '{"b":1,"a":2}',
    '{ "a" :\t1 ,\n"b":[ 1,2 ] }',
    r'{"nul":"\u0000","half":"\ud800","other":"\udfff\ud800","pair":"\ud83d\ude00"}',
    '{"big":123456789012345678901234567890,"exp":1e400,"neg":-0.0,"one":1.0,"tiny":1E-999,"long":0.' + "1" * 5000 + "}",
    '{"a":1,"a":2,"a":{"a":3}}',
    '{"text":"Zoë 李 😀 \u2028 \ufffe \u200b é"}',
    r'{"esc":"\/\b\f\n\r\t\"\\\u0041"}',
    '{"%s":"%(x)s {0} \'; DROP TABLE asynch_task; --"}',
    '{"":{"":[[],{},null,true,false]}}',
    "{}",
]


@pytest.mark.parametrize("text", [*TEXTS, "[1, 2]", '"text"', "17", "true", "1e400"])
def test_a_payload_is_told_back_as_it_was_sent(api: Api, text: str) -> None:
    api.model()
    answer = api.post("createTask", '{"modelName":"m","requestPayload" : ' + text + " }")
    listed = api.post("listTask", {"includePayload": True})

    assert answer.status_code == 202, answer.text
    assert f'"requestPayload":{text}'.encode() in listed.content


def test_payloads_reach_the_model_as_they_were_sent_one_by_one_or_many(api: Api, dsn: str) -> None:
    with ModelServer() as model:
        api.model(baseUrl=f"{model.url}/?echo=1")
        one = [api.post("createTask", f'{{"requestPayload":{t},"modelName":"m"}}').json()["taskId"] for t in TEXTS]
        many = ",".join(f'{{"modelName":"m","requestPayload": {t} }}' for t in TEXTS)
        listed = api.post("createTaskBatch", f'{{"tasks":[{many}]}}').json()["list"]
        ids = one + [made["taskId"] for made in listed]
        with working(api.live, dsn):
            until(lambda: all(api.status(i)["final"] for i in ids), 30)

        stored = {row["task_id"]: row["oss_file"] for row in all_rows(api.live.parts.pool, "SELECT * FROM asynch_task")}
        files = api.live.parts.settings.files_path
        assert [(files / stored[i]).read_bytes() for i in ids] == [text.encode() for text in TEXTS * 2]


@pytest.mark.parametrize(
    ("fields", "sent"),
    [({}, b"{}"), ({"requestPayload": None}, b"{}"), ({"inputRef": 'a"b'}, b'{"inputRef":"a\\"b"}'),
     ({"inputRef": "x", "requestPayload": {"p": 1}}, b'{"p": 1}')],
)  # fmt: skip
def test_a_model_gets_the_payload_or_the_reference_or_an_empty_object(
    api: Api, dsn: str, fields: dict[str, Any], sent: bytes
) -> None:
    with ModelServer() as model:
        api.model(baseUrl=f"{model.url}/?echo=1")
        task_id = api.create(**fields)
        with working(api.live, dsn):
            until(lambda: api.status(task_id)["final"])

        got = (api.live.parts.settings.files_path / row_of(api.live.parts.pool, int(task_id))["oss_file"]).read_bytes()
        assert json.loads(got) == json.loads(sent)


@pytest.mark.parametrize("text", ["[1]", '"x"', "1", "true"])
def test_a_model_called_by_get_takes_only_objects(api: Api, text: str) -> None:
    api.model(httpMethod="GET")
    answer = api.post("createTask", f'{{"modelName":"m","requestPayload":{text}}}')

    assert pointers(answer) == ["#/requestPayload"]


def test_metadata_is_told_back_as_it_was_sent(api: Api) -> None:
    api.model()
    text = r'{ "z":1e400, "a":"\u0000\ud800", "a":2 }'
    task_id = api.post("createTask", f'{{"modelName":"m","metadata":{text}}}').json()["taskId"]

    assert f'"metadata":{text}'.encode() in api.get(task_id).content


# Limits


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modelName", ""), ("modelName", "x" * 129), ("modelName", 5), ("modelName", None), ("modelName", ["m"]),
        ("modelName", "a\0b"), ("bizName", "x" * 129), ("bizName", 1), ("bizName", "a\0"), ("clientRef", "x" * 129),
        ("clientRef", {}), ("inputRef", "x" * 4097), ("inputRef", "é" * 2049), ("inputRef", 1), ("inputRef", "\0"),
        ("metadata", [1]), ("metadata", "x"), ("metadata", 1), ("metadata", {"a": "x" * 4096}),
        ("priority", -1), ("priority", 10), ("priority", 1.5), ("priority", "1"), ("priority", True), ("priority", 1e99),
        ("delaySeconds", -1), ("delaySeconds", "1"), ("delaySeconds", 1e300), ("delaySeconds", 10**400),
        ("delaySeconds", True), ("notBefore", "tomorrow"), ("notBefore", 1700000000), ("notBefore", "2030-01-01"),
        ("notBefore", "2030-01-01T00:00:00"), ("notBefore", "9999-12-31T23:59:59-12:00"),
        ("queueTimeoutSeconds", 0), ("queueTimeoutSeconds", -5), ("queueTimeoutSeconds", 1.5),
        ("queueTimeoutSeconds", 2**31), ("callbackUrl", "ftp://example.com"), ("callbackUrl", 1),
        ("expireNoticeSeconds", 0), ("model_name", "m"), ("taskId", "1"), ("requestpayload", {}), ("", 1), ("a/b~c", 1),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_its_place(api: Api, field: str, value: object) -> None:
    api.model()
    answer = api.post("createTask", json.dumps({"modelName": "m", field: value}))
    place = field.replace("~", "~0").replace("/", "~1").replace("~", "%7E") if "~" in field else field

    assert [p.replace("~", "%7E") for p in pointers(answer)] == [f"#/{place}"]
    assert api.listed()["total"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("modelName", "x" * 128), ("bizName", "李" * 128), ("clientRef", "😀" * 128), ("inputRef", "é" * 2048),
     ("metadata", {"a": "x" * 4085}), ("priority", 9), ("delaySeconds", 0.5), ("queueTimeoutSeconds", 2**31 - 1),
     ("notBefore", "2999-12-31T23:59:59.999999Z"), ("notBefore", "1999-01-01T00:00:00+14:00")],
)  # fmt: skip
def test_what_is_just_allowed_is_taken(api: Api, field: str, value: object) -> None:
    api.model("x" * 128)
    answer = api.post("createTask", {"modelName": "x" * 128, field: value})

    assert answer.status_code == 202, answer.text
    assert api.get(answer.json()["taskId"]).status_code == 200


def test_delay_and_not_before_together_are_refused(api: Api) -> None:
    api.model()
    answer = api.post("createTask", {"modelName": "m", "delaySeconds": 1, "notBefore": "2030-01-01T00:00:00Z"})

    assert pointers(answer) == ["#"]


def test_the_farthest_time_with_the_longest_time_out_is_still_told(api: Api) -> None:
    api.model()
    task_id = api.create(notBefore="8999-12-31T23:59:59Z", queueTimeoutSeconds=2**31 - 1)

    assert api.status(task_id)["notBefore"] == "8999-12-31T23:59:59.000Z"
    assert [item["taskId"] for item in api.collect(task_id)["list"]] == [task_id]


def test_a_body_may_have_max_body_and_not_a_byte_more(make_parts: MakeParts) -> None:
    with serving(make_parts(server={"max_body": 2000, "max_batch_body": 5000})) as live:
        api = Api(live)
        api.model()
        fits, over = (f'{{"modelName":"m","requestPayload":"{"x" * n}"}}' for n in (2000 - 37, 2000 - 36))
        assert len(fits) == 2000
        assert api.post("createTask", fits).status_code == 202
        assert problem(api.post("createTask", over)) == (413, "body_too_large")


def test_in_a_batch_max_body_is_each_tasks_and_max_batch_body_the_whole_ones(make_parts: MakeParts) -> None:
    with serving(make_parts(server={"max_body": 2000, "max_batch_body": 5000})) as live:
        api = Api(live)
        api.model()
        small, big = ({"modelName": "m", "requestPayload": "x" * n} for n in (1990, 2100))

        listed = api.batch(small, big)
        assert "taskId" in listed[0]
        assert listed[1]["error"]["code"] == "body_too_large"
        assert problem(api.post("createTaskBatch", {"tasks": [small, small, small]})) == (413, "body_too_large")


def test_a_payload_may_be_nested_as_deep_as_allowed(make_parts: MakeParts) -> None:
    with serving(make_parts(limits={"max_payload_depth": 5})) as live:
        api = Api(live)
        api.model()
        fits, over = ('{"modelName":"m","requestPayload":' + "[" * n + "]" * n + "}" for n in (5, 6))

        assert api.post("createTask", fits).status_code == 202
        assert pointers(api.post("createTask", over)) == ["#/requestPayload"]


# Models


def test_an_unknown_model_is_404(api: Api) -> None:
    assert problem(api.post("createTask", {"modelName": "nobody"})) == (404, "model_not_found")


def test_a_disabled_model_is_409_and_its_tasks_wait(api: Api) -> None:
    api.model()
    task_id = api.create()
    api.change_model(enabled=0)

    assert problem(api.post("createTask", {"modelName": "m"})) == (409, "model_disabled")
    assert api.status(task_id)["state"] == 0


def test_an_enabled_model_takes_tasks_again_at_once(api: Api) -> None:
    api.model(enabled=0)
    api.change_model(enabled=1)

    api.create()


def test_a_deleted_model_is_404(api: Api) -> None:
    api.call("DELETE", f"/model/deleteModel?id={api.model()}")

    assert problem(api.post("createTask", {"modelName": "m"})) == (404, "model_not_found")


def test_lanes_of_the_system_take_no_tasks_by_name(api: Api, pool: db.Pool) -> None:
    api.model()
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_models SET kind = 'webhook'")

    assert problem(api.post("createTask", {"modelName": "m"})) == (404, "model_not_found")


# When it runs, and before whom


def claimable(hand: Hand, pool: db.Pool) -> list[str]:
    """What a worker would claim now, in its order."""
    lane = all_rows(pool, "SELECT lane_id FROM asynch_models")[0]["lane_id"]
    return [claim.task_id for claim in hand.worker.claim(lane, 100)]


def test_higher_priorities_come_first_and_equals_in_order_of_creation(api: Api, hand: Hand, pool: db.Pool) -> None:
    api.model()
    ids = [api.create(priority=p) for p in (0, 9, 5, 9, None, 1)]

    assert claimable(hand, pool) == [ids[n] for n in (1, 3, 2, 5, 0, 4)]


def test_tasks_of_a_batch_run_in_their_order(api: Api, hand: Hand, pool: db.Pool) -> None:
    api.model()
    ids = api.fill(20)

    assert claimable(hand, pool) == ids


@pytest.mark.parametrize("start", [{"delaySeconds": 600}, {"notBefore": "2999-01-01T00:00:00Z"}])
def test_a_delayed_task_is_pending_and_not_claimed(api: Api, hand: Hand, pool: db.Pool, start: dict[str, Any]) -> None:
    api.model()
    delayed, due = api.create(**start), api.create()

    assert claimable(hand, pool) == [due]
    assert (api.status(delayed)["state"], api.status(delayed)["status"]) == (0, "pending")


def test_a_delay_counts_from_creation(api: Api) -> None:
    api.model()
    told = api.status(api.create(delaySeconds=90.5))

    waits = datetime.fromisoformat(told["notBefore"]) - datetime.fromisoformat(told["createdAt"])
    assert abs(waits - timedelta(seconds=90.5)) <= timedelta(milliseconds=1)


def test_not_before_is_kept_to_the_millisecond_in_any_zone(api: Api) -> None:
    api.model()

    assert api.status(api.create(notBefore="2999-06-01T12:00:00.123+05:30"))["notBefore"] == "2999-06-01T06:30:00.123Z"


@pytest.mark.parametrize("start", [{"notBefore": "2001-01-01T00:00:00Z"}, {"delaySeconds": 0}])
def test_a_start_that_is_past_means_now(api: Api, hand: Hand, pool: db.Pool, start: dict[str, Any]) -> None:
    api.model()
    first = api.create()
    second = api.create(**start)

    assert api.status(second)["notBefore"] is None
    assert claimable(hand, pool) == [first, second]


@pytest.mark.parametrize(("given", "waits_s"), [({}, 24 * 3600), ({"queueTimeoutSeconds": 90}, 90)])
def test_the_queue_time_out_counts_from_when_a_task_is_due(
    api: Api, pool: db.Pool, given: dict[str, Any], waits_s: float
) -> None:
    api.model()
    row = row_of(pool, int(api.create(delaySeconds=1000, **given)))

    assert row["wake_at"] - row["created_at"] == timedelta(seconds=1000 + waits_s)


def test_an_idle_worker_hears_of_a_new_task(api: Api, dsn: str, pool: db.Pool) -> None:
    api.model()
    with db.open_session(dsn, name="tests") as session:
        session.execute("LISTEN asynch_lane")
        api.create()
        heard = next(session.notifies(timeout=10))

    assert heard.payload == str(all_rows(pool, "SELECT lane_id FROM asynch_models")[0]["lane_id"])


# The op log


def op_log(pool: db.Pool) -> list[dict[str, Any]]:
    return all_rows(pool, "SELECT * FROM asynch_op_log WHERE op_type = 'createTask' ORDER BY id")


def test_a_created_task_is_in_the_op_log(api: Api, pool: db.Pool) -> None:
    api.model()
    task_id = api.of(0).post("createTask", {"modelName": "m", "bizName": "b", "requestPayload": {"a": 1}},
                             headers={"User-Agent": "probe/1"}).json()["taskId"]  # fmt: skip
    (row,) = op_log(pool)

    assert (row["task_id"], row["model_name"], row["biz_name"], row["success"]) == (task_id, "m", "b", 1)
    assert (row["creator"], row["ip"], row["user_agent"]) == ("eva", "127.0.0.1", "probe/1")
    assert (row["api_path"], row["http_method"]) == ("/task/createTask", "POST")
    assert json.loads(row["request_payload"]) == {"a": 1}


@pytest.mark.parametrize(
    ("body", "code"),
    [({"modelName": "nobody", "bizName": "b"}, "model_not_found"), ({"modelName": "off"}, "model_disabled"),
     ({"modelName": "full"}, "queue_full"), ({"modelName": "m", "priority": 77}, "invalid_input")],
)  # fmt: skip
def test_a_refused_task_is_in_the_op_log_without_success(
    api: Api, pool: db.Pool, body: dict[str, Any], code: str
) -> None:
    api.model()
    api.model("off", enabled=0)
    api.model("full", queueLimit=1)
    api.post("createTask", {"modelName": "full"})
    answer = api.post("createTask", body)

    row = op_log(pool)[-1]
    assert answer.json()["code"] == code
    assert (row["success"], row["error_msg"], row["task_id"]) == (0, code, "")
    assert row["biz_name"] == body.get("bizName", "")


def test_a_batch_has_a_row_a_task_in_the_op_log(api: Api, pool: db.Pool) -> None:
    api.model()
    api.batch({"modelName": "m"}, {"modelName": "nobody"}, 5, {"modelName": "m"})

    assert [row["success"] for row in op_log(pool)] == [1, 0, 0, 1]


def test_the_op_log_holds_no_secret_of_a_payload(api: Api, pool: db.Pool) -> None:
    api.model()
    api.create(
        requestPayload={"Api-Key": "sk-1", "deep": {"password": ["sk-1"], "access_token": {"v": "sk-1"}}, "x": 1}
    )

    assert "sk-1" not in op_log(pool)[0]["request_payload"]
    assert '"x": 1' in op_log(pool)[0]["request_payload"]


def test_the_op_log_holds_no_payload_where_it_must_not(make_parts: MakeParts, pool: db.Pool) -> None:
    with serving(make_parts(op_log={"payloads": False})) as live:
        api = Api(live)
        api.model()
        api.create(requestPayload={"a": 1})

    assert [row["request_payload"] for row in op_log(pool)] == [""]


def test_a_creation_time_is_the_databases(api: Api, pool: db.Pool) -> None:
    api.model()
    created = datetime.fromisoformat(api.status(api.create())["createdAt"])

    assert abs(all_rows(pool, "SELECT now() AS at")[0]["at"].astimezone(UTC) - created) < timedelta(seconds=60)
