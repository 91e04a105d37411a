"""What a model's status document says: the shapes that real services answer with, and what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynch.executors import status
from asynch.executors.status import Kind, Status


def read(document: Any) -> Status | None:
    return status.read(json.dumps(document).encode())


#: documents as these services answer them, with what they say
SHAPES: dict[str, tuple[Any, Status]] = {
    "replicate at work": ({"id": "x", "status": "processing", "output": None}, Status(Kind.WORKING)),
    "replicate done": (
        {"status": "succeeded", "output": ["https://cdn.example/out.png"]},
        Status(Kind.DONE, result_url="https://cdn.example/out.png"),
    ),
    "replicate with output inline": ({"status": "succeeded", "output": "a text"}, Status(Kind.DONE)),
    "replicate failed": (
        {"status": "failed", "error": "CUDA out of memory"},
        Status(Kind.FAILED, message="CUDA out of memory"),
    ),
    "fal queued": ({"status": "IN_QUEUE", "response_url": "https://q.example/r"}, Status(Kind.WORKING)),
    "fal done": (
        {"status": "COMPLETED", "response_url": "https://q.example/r"},
        Status(Kind.DONE, result_url="https://q.example/r"),
    ),
    "runpod": ({"status": "TIMED_OUT"}, Status(Kind.FAILED)),
    "azure at work": ({"status": "notStarted", "percentComplete": 1}, Status(Kind.WORKING, progress=1.0)),
    "azure done": (
        {"status": "Succeeded", "resourceLocation": "https://a.example/r"},
        Status(Kind.DONE, result_url="https://a.example/r"),
    ),
    "azure failed": (
        {"status": "Failed", "error": {"code": "Bad", "message": "no such voice"}},
        Status(Kind.FAILED, message="no such voice"),
    ),
    "openai": ({"status": "in_progress", "progress": 33}, Status(Kind.WORKING, progress=33.0)),
    "celery": ({"state": "REVOKED"}, Status(Kind.FAILED)),
    "dashscope": ({"output": {"task_status": "RUNNING"}, "request_id": "1"}, Status(Kind.WORKING)),
    "wrapped": (
        {"code": 0, "data": {"status": "running", "progress": 0.25, "message": "step 5"}},
        Status(Kind.WORKING, progress=25.0, message="step 5"),
    ),
    "google": ({"name": "operations/1", "done": False}, Status(Kind.WORKING)),
    "links": ({"state": "done", "_links": {"result": {"href": "/r/1"}}}, Status(Kind.DONE, result_url="/r/1")),
    "a relative link": ({"status": "done", "resultUrl": "/r/1"}, Status(Kind.DONE, result_url="/r/1")),
    "a link alone": ({"result_url": "https://x.example/r"}, Status(Kind.DONE, result_url="https://x.example/r")),
    "asynch itself": (
        {"status": "completed", "progress": None, "message": "", "result": {"url": "https://x.example/r"}},
        Status(Kind.DONE, result_url="https://x.example/r"),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_status_document_is_understood(name: str) -> None:
    document, meant = SHAPES[name]

    assert read(document) == meant


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"RIFF....WAVE",
        b'{"text": "hello"}',
        b'{"status": "a word of its own"}',
        b'{"status": 200}',
        b'{"status": null, "done": true}',
        b'[{"status": "running"}]',
        b'{"status": "running"',
        b'{"a": ' * 5000 + b"1" + b"}" * 5000,
        b'{"n": ' + b"9" * 5000 + b"}",
    ],
)
def test_anything_else_is_a_result(body: bytes) -> None:
    assert status.read(body) is None


@pytest.mark.parametrize(
    ("member", "percent"),
    [
        ('"progress": 0', 0.0),
        ('"progress": 0.5', 50.0),
        ('"progress": 1.0', 100.0),
        ('"progress": 1', 1.0),
        ('"progress": 99.5', 99.5),
        ('"progress": "45%"', 45.0),
        ('"percent": 0.5', 0.5),
        ('"progress_percent": 7', 7.0),
        ('"progress": 101', None),
        ('"progress": -1', None),
        ('"progress": NaN', None),
        ('"progress": true', None),
        ('"progress": "soon"', None),
        ('"progress": {"step": 1}', None),
        ('"progress": null, "percent": 4', 4.0),
    ],
)
def test_progress_has_many_ways(member: str, percent: float | None) -> None:
    found = status.read(f'{{"status": "running", {member}}}'.encode())

    assert found is not None
    assert found.progress == percent


def test_a_long_message_is_cut() -> None:
    found = read({"status": "running", "message": "m" * 5000})

    assert found is not None
    assert found.message == "m" * 1024


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["running", "done", "failed"]),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["status", "state", "data", "output", "result", "progress", "error", "urls", "x"]), below
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_document_is_too_strange(document: Any) -> None:
    found = read(document)

    assert found is None or (isinstance(found.kind, Kind) and (found.progress is None or 0 <= found.progress <= 100))
