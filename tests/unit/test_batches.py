"""A batch that is read in one go is, task by task, what TaskIn makes of it; what TaskIn refuses is not read so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asynch.domain import callbacks, rawjson
from asynch.errors import InvalidInput
from asynch.store.tasks import NewTask
from asynch.web import batches
from asynch.web.bodies import INT4_MAX, checked
from asynch.web.task_bodies import MAX_BATCH, MAX_NAME, MAX_NOTE, RAW, TaskIn

MAX_DEPTH = 4
USUAL: list[dict[str, Any]] = [
    {},
    {"requestPayload": {"prompt": "a [cat]"}},
    {"requestPayload": [[[[1]]]], "priority": 9},
    {"requestPayload": None, "metadata": None, "priority": None, "bizName": None},
    {"inputRef": "/files/a.mp4", "bizName": "b" * MAX_NAME, "clientRef": "", "metadata": {"k": "é"}},
    {"priority": 0, "delaySeconds": 1, "queueTimeoutSeconds": INT4_MAX, "callbackUrl": "http://a/", "requestPayload": ""},
    {"delaySeconds": 0.5, "callbackUrl": "http://a/", "expireNoticeSeconds": 1, "requestPayload": 1e300},
    {"metadata": {"k": "m" * (MAX_NOTE - 9)}, "inputRef": "é" * (MAX_NOTE // 2)},
    {"bizName": "\U0001f600" * MAX_NAME, "callbackUrl": "h" * callbacks.MAX_URL},
]  # fmt: skip
MISTAKEN: list[dict[str, Any]] = [
    {"modelName": ""},
    {"modelName": None},
    {"modelName": "m" * (MAX_NAME + 1)},
    {"modelName": "\0"},
    {"modelName": "\ud800"},
    {"modelname": "m"},
    {"requestPayload": [[[[[1]]]]]},
    {"metadata": [[[[[1]]]]]},
    {"metadata": [1]},
    {"metadata": {"k": "m" * (MAX_NOTE - 8)}},
    {"inputRef": "é" * (MAX_NOTE // 2 + 1)},
    {"inputRef": "\0"},
    {"bizName": "b" * (MAX_NAME + 1)},
    {"bizName": 1},
    {"clientRef": "b" * (MAX_NAME + 1)},
    {"priority": 10},
    {"priority": -1},
    {"priority": True},
    {"priority": "1"},
    {"delaySeconds": -0.1},
    {"delaySeconds": INT4_MAX + 1},
    {"delaySeconds": False},
    {"queueTimeoutSeconds": 0},
    {"queueTimeoutSeconds": INT4_MAX + 1},
    {"callbackUrl": "h" * (callbacks.MAX_URL + 1)},
    {"callbackUrl": "http://a/", "expireNoticeSeconds": 0},
    {"expireNoticeSeconds": 1},
    {"notBefore": "tomorrow"},
]
#: right, and yet left to TaskIn
ODD: list[dict[str, Any]] = [
    {"priority": 1.0},
    {"notBefore": "2026-01-31T12:00:00Z"},
    {"requestPayload": {"half of a pair": "\ud800"}},
    {"requestPayload": "\0"},
]


def ascii_head(task: dict[str, Any]) -> str:
    return ascii(task)[:50]


def of(*tasks: dict[str, Any]) -> bytes:
    return json.dumps({"tasks": [{"modelName": "m", **task} for task in tasks]}).encode()


def thoroughly(body: bytes) -> list[NewTask] | None:
    """By TaskIn, one by one; None when one of them is no task."""
    try:
        values = rawjson.elements(rawjson.decode(body), "tasks", raw=RAW, max_depth=MAX_DEPTH, max_items=MAX_BATCH)
        return [checked(TaskIn, value).new_task() for value in values]
    except (rawjson.BadJson, InvalidInput, TypeError):
        return None


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types throughout: 1 is not 1.0 to everyone who reads it."""
    return bool(one == other) and [*map(repr, one)] == [*map(repr, other)]


@pytest.mark.parametrize("task", USUAL, ids=ascii_head)
def test_a_usual_task_is_read_at_once_and_as_taskin_does(task: dict[str, Any]) -> None:
    read = batches.read(of(task, {}), max_depth=MAX_DEPTH)
    assert read is not None
    assert same(read, thoroughly(of(task, {})))


@pytest.mark.parametrize("task", MISTAKEN, ids=ascii_head)
def test_what_taskin_refuses_is_not_read(task: dict[str, Any]) -> None:
    assert thoroughly(of({}, task)) is None
    assert batches.read(of({}, task), max_depth=MAX_DEPTH) is None


@pytest.mark.parametrize("task", ODD, ids=ascii_head)
def test_what_is_odd_is_left_to_taskin(task: dict[str, Any]) -> None:
    assert thoroughly(of({}, task)) is not None
    assert batches.read(of({}, task), max_depth=MAX_DEPTH) is None


def test_a_payload_stays_as_it_was_sent() -> None:
    payload = '{ "a" :[1.50,\t"\\u00e9\\/" ]\n, "n": 123456789012345678901234567890, "n":1e400}'
    body = f'{{"tasks": [ {{"modelName" : "m" ,"requestPayload":  {payload}  }} ] }}'.encode()
    [task] = batches.read(body, max_depth=MAX_DEPTH) or []
    assert task.payload == payload


@pytest.mark.parametrize(
    "body",
    [b'{"tasks":[{"modelName":"m"}],"more":1}', b'{"tasks":{}}', b"{}", b"[]", b"", b'{"tasks":[{"modelName":"m"}]} x',
     b'{"tasks":[7]}', b'{"tasks":[' + b"[" * 100_000, b'{"tasks":[{"modelName":"m","requestPayload":' + b"[" * 100_000],
    ids=lambda body: repr(body)[:40],
)  # fmt: skip
def test_what_is_no_batch_is_not_read(body: bytes) -> None:
    assert batches.read(body, max_depth=MAX_DEPTH) is None


@pytest.mark.parametrize(("count", "is_read"), [(0, True), (MAX_BATCH, True), (MAX_BATCH + 1, False)])
def test_a_batch_has_so_many_tasks_at_most(count: int, is_read: bool) -> None:
    read = batches.read(of(*[{}] * count), max_depth=MAX_DEPTH)
    assert (read is not None) == is_read
    assert not is_read or len(read or ()) == count


TEXTS = st.text(st.characters() | st.sampled_from('\\"[]{}/\0\ud800'), max_size=6)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXTS, v, max_size=3))
MEMBERS = dict.fromkeys(TaskIn.model_json_schema()["properties"], VALUES)
SAID = st.fixed_dictionaries({}, optional=MEMBERS) | st.sampled_from([*USUAL, *MISTAKEN, *ODD])


@given(st.lists(SAID, max_size=3), st.booleans())
def test_what_is_read_at_once_is_what_taskin_reads(said: list[dict[str, Any]], as_utf8: bool) -> None:
    text = json.dumps({"tasks": [{"modelName": "m", **task} for task in said]}, ensure_ascii=not as_utf8)
    agree(text.encode(errors="replace"))


@settings(max_examples=500)
@given(st.sampled_from(USUAL), st.data())
@example(USUAL[0], None)
def test_a_spoilt_body_is_read_by_both_or_by_taskin_alone(task: dict[str, Any], data: st.DataObject | None) -> None:
    body = of({}, task)
    if data is not None:
        at = data.draw(st.integers(0, len(body)))
        piece = data.draw(
            st.sampled_from([*'{}[],:"\\0.-+eEu \t\x01\x0b\x7f', '"a":1,', ',"modelName":"n"', "null", "//"])
        )
        body = body[:at] + piece.encode() + body[at + data.draw(st.integers(0, 2)) :]
    agree(body)


def agree(body: bytes) -> None:
    read = batches.read(body, max_depth=MAX_DEPTH)
    assert read is None or same(read, thoroughly(body) or [])
