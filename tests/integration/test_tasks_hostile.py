from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asynch import db
from tests.database import all_rows
from tests.live import Live
from tests.task_api import Api, problem

POSTS = ("createTask", "createTaskBatch", "getTaskBatch", "listTask", "cancelBatch", "retryBatch")
#: the member of each body that may hold a text, and a body around it
AROUND = {
    "createTask": '{"modelName":"m","requestPayload":%s}',
    "createTaskBatch": '{"tasks":[{"modelName":"m","requestPayload":%s}]}',
    "getTaskBatch": '{"taskIds":%s}',
    "listTask": '{"modelName":%s}',
    "cancelBatch": '{"taskIds":%s}',
    "retryBatch": '{"bizName":%s}',
}
MANY = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def api(live: Live) -> Api:
    """Tenant 0, with a model."""
    made = Api(live)
    made.model(queueLimit=1_000_000)
    return made


def understood(answer: requests.Response, *allowed: int) -> None:
    """One of the statuses allowed, and a problem document if it is an error."""
    assert answer.status_code in allowed, (answer.status_code, answer.text[:500])
    if answer.status_code >= 400:
        problem(answer)


# Bodies that cannot be read


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b"}", b"null", b"[]", b"[[]]", b'"x"', b"1", b"nul", b"{'a':1}", b'{"a":1,}', b"{} {}", b"{}x",
     b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":01}', b'{"a":+1}', b'{"a":"\n"}', b'{"a":"\x00"}',
     b'{"a":"\\x"}', b'{"a":"\\u12"}', b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b"\xef\xbb\xbf{}", b"\x00",
     "{}".encode("utf-16"), "{}".encode("utf-32"), b"modelName=m", b"<a/>", b"\x1f\x8b\x08\x00"],
)  # fmt: skip
def test_what_is_no_json_object_is_400(api: Api, path: str, body: bytes) -> None:
    assert problem(api.post(path, body)) == (400, "malformed_body")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "x"])
def test_another_type_is_415(api: Api, path: str, kind: str) -> None:
    assert problem(api.post(path, b"{}", headers={"Content-Type": kind}))[0] == 415


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_another_method_is_405(api: Api, path: str, method: str) -> None:
    assert problem(api.call(method, f"/task/{path}", b"{}"))[0] == 405


@pytest.mark.parametrize("path", POSTS)
def test_ten_megabytes_are_the_right_answer_or_413(api: Api, pool: db.Pool, path: str) -> None:
    answer = api.post(path, (AROUND[path] % json.dumps("x" * (10 << 20))).encode())

    if path == "createTaskBatch":
        assert [entry["error"]["code"] for entry in answer.json()["list"]] == ["body_too_large"]
    else:
        assert problem(answer) == (413, "body_too_large")
    assert all_rows(pool, "SELECT * FROM asynch_task") == []


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("levels", [65, 1000, 200_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_deep_nesting_is_a_mistake_and_no_more(api: Api, path: str, levels: int, brackets: str) -> None:
    opening, closing = brackets if brackets == "[]" else ('{"a":', "}")
    deep = opening * levels + "1" + closing * levels
    answer = api.post(path, AROUND[path] % deep)

    if path == "createTaskBatch" and answer.status_code == 202:
        assert [entry["error"]["code"] for entry in answer.json()["list"]] == ["invalid_input"]
    else:
        understood(answer, 413, 422)


@pytest.mark.parametrize("text", ["1e400", "-1e400", "9" * 5000, "1e999999999", "0." + "1" * 5000])
@pytest.mark.parametrize("member", [
    "modelName", "inputRef", "bizName", "clientRef", "metadata", "priority", "delaySeconds", "notBefore",
    "queueTimeoutSeconds", "unknown",
])  # fmt: skip
def test_numbers_beyond_all_numbers_are_mistakes_at_their_place(api: Api, member: str, text: str) -> None:
    if (member, text[:2]) == ("delaySeconds", "0."):
        return
    answer = api.post("createTask", f'{{"modelName":"m","{member}":{text}}}')

    assert problem(answer) == (422, "invalid_input")
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/{member}"]


@pytest.mark.parametrize("member", ["modelName", "inputRef", "bizName", "clientRef"])
@pytest.mark.parametrize("text", [r'"\u0000"', r'"a\ud800b"', r'"\udfff\ud800"'])
def test_what_cannot_be_stored_is_refused_and_not_changed(api: Api, member: str, text: str) -> None:
    answer = api.post("createTask", f'{{"modelName":"m","{member}":{text}}}')

    assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/{member}"]


def test_of_equal_members_the_last_counts(api: Api) -> None:
    told = api.status(
        api.post("createTask", '{"modelName":"x","modelName":"m","bizName":"a","bizName":"b"}').json()["taskId"]
    )

    assert (told["modelName"], told["bizName"]) == ("m", "b")


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE asynch_task; --", "%s %(x)s %%", "{0} {x}", "\\", "$1", "﷽" * 100, "\u202e"]
)
def test_any_text_is_only_a_text(api: Api, text: str) -> None:
    api.model(text)
    answer = api.post("createTask", {"modelName": text, "bizName": text, "clientRef": text, "inputRef": text})
    told = api.status(answer.json()["taskId"])

    assert {told[name] for name in ("modelName", "bizName", "clientRef", "inputRef")} == {text}


# Anything at all

KEYS = st.sampled_from([
    "modelName", "requestPayload", "inputRef", "bizName", "clientRef", "metadata", "priority", "delaySeconds", "notBefore",
    "queueTimeoutSeconds", "callbackUrl", "expireNoticeSeconds", "tasks", "taskIds", "waitSeconds", "page", "pageNum",
    "pageSize", "taskId", "state", "final", "createdFrom", "createdTo", "includePayload", "tenantId", "", "a/b", "~",
])  # fmt: skip
#: texts of JSON values, among them such as no program would write
SCALARS = st.one_of(
    st.sampled_from([
        "null", "true", "false", "0", "-0", "1", "-1", "1.0", "9", "10", "1e400", "-1E+999", "1e-400", "2147483647",
        "2147483648", "9223372036854775807", "9223372036854775808", "123456789012345678901234567890", "0.1",
        '"m"', '""', r'"\u0000"', r'"\ud800"', r'"\ud83d\ude00"', r'"\\"', '"%"', '"2030-01-01T00:00:00Z"',
        '"9999-12-31T23:59:59-23:59"', '"0001-01-01T00:00:00+23:59"', '"1"', '"' + "x" * 129 + '"', '"' + "y" * 5000 + '"',
    ]),
    st.text(max_size=12).map(json.dumps),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers().map(str),
)  # fmt: skip
SPACE = st.sampled_from(["", "", "", " ", "\n\t "])


def _object(pairs: list[tuple[str, str]], space: str) -> str:
    return "{" + ",".join(f"{space}{json.dumps(key)}{space}:{space}{value}{space}" for key, value in pairs) + "}"


def _values(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    keys = KEYS | st.text(max_size=6)
    return st.builds(_object, st.lists(st.tuples(keys, inner), max_size=4), SPACE) | st.lists(inner, max_size=4).map(
        lambda items: "[" + ",".join(items) + "]"
    )


JSON = st.recursive(SCALARS, _values, max_leaves=12)
MEMBERS = st.lists(st.tuples(KEYS, JSON), max_size=5)
TASK = st.builds(lambda pairs, space: _object([("modelName", '"m"'), *pairs], space), MEMBERS, SPACE)
BODIES = st.one_of(
    st.binary(max_size=40),
    JSON.map(str.encode),
    st.builds(_object, MEMBERS, SPACE).map(str.encode),
    TASK.map(str.encode),
    st.builds(lambda body, at, bit: _broken(body.encode(), at, bit), TASK, st.integers(0, 10_000), st.integers(0, 255)),
)
PAYLOADS = JSON.filter(lambda text: text != "null")


def _broken(body: bytes, at: int, byte: int) -> bytes:
    at %= len(body)
    return body[:at] + bytes([byte]) + body[at + 1 :]


@MANY
@given(BODIES)
@example(b'{"modelName":"m","requestPayload":1e400}')
def test_any_body_is_a_task_or_a_problem(api: Api, body: bytes) -> None:
    understood(api.post("createTask", body), 202, 400, 404, 409, 413, 415, 422, 429)


@settings(MANY, max_examples=40)
@given(st.lists(TASK | JSON, max_size=6))
def test_any_batch_is_answered_task_by_task(api: Api, tasks: list[str]) -> None:
    answer = api.post("createTaskBatch", ('{"tasks":[' + ",".join(tasks) + "]}").encode())

    understood(answer, 202)
    assert [entry["index"] for entry in answer.json()["list"]] == list(range(len(tasks)))


@MANY
@given(st.sampled_from(POSTS[2:]), BODIES)
def test_any_question_is_answered_or_a_problem(api: Api, path: str, body: bytes) -> None:
    if b'"waitSeconds"' not in body:
        understood(api.post(path, body), 200, 400, 413, 422)


@MANY
@given(PAYLOADS, SPACE, SPACE)
def test_no_payload_is_ever_changed(api: Api, payload: str, before: str, after: str) -> None:
    body = '{"requestPayload"' + before + ":" + before + payload + after + ',"modelName":"m"}'
    answer = api.post("createTask", body.encode())

    assert answer.status_code == 202, answer.text
    told = api.post("listTask", {"taskId": answer.json()["taskId"], "includePayload": True})
    assert b'"requestPayload":' + payload.encode() + b"}]" in told.content


HEADERS = st.dictionaries(
    st.sampled_from(["Idempotency-Key", "X-Request-Id", "User-Agent", "X-Forwarded-For", "Prefer", "If-None-Match"]),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f\xa0\x85"), max_size=300),
    max_size=3,
)


@MANY
@given(HEADERS)
def test_any_header_is_taken_or_a_problem(api: Api, headers: dict[str, str]) -> None:
    sent = {name: value.strip().encode("latin-1") for name, value in headers.items()}

    understood(api.post("createTask", b'{"modelName":"m"}', headers=sent), 202, 422)


@pytest.fixture
def odd_ids() -> list[Any]:
    return ["%", "_", "' OR 1=1 --", "\0", "1 OR 1", "{}", "%s", "９", 0, -1, 10**18]


def test_odd_ids_are_missing_and_harm_nothing(api: Api, odd_ids: list[Any]) -> None:
    task_id = api.create()
    for path in ("getTaskBatch", "cancelBatch", "retryBatch"):
        answer = api.post(path, {"taskIds": [i for i in odd_ids if i != "\0"]})
        understood(answer, 200)
        assert answer.json()["missing"] == [str(i) for i in odd_ids if i != "\0"]
        understood(api.post(path, {"taskIds": odd_ids}), 422)

    assert api.status(task_id)["state"] == 0
