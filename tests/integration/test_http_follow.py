"""Asking a model that works on, on the wire: hostile Locations, loops, endless and dripping bodies, cuts, big results."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import BinaryIO

import pytest

from asynch.errors import CallCut, CutReason, ErrorCode, ExecutorError
from asynch.executors import Call, Working, http, status
from asynch.executors.egress import Policy
from asynch.executors.http import HttpExecutor
from tests.calls import LOOPBACK, Sink, assert_cut, cut_at, order, peer, read_request, saying

HOME = order("http://127.0.0.1:1/run")


def look(url: str, out: BinaryIO | None = None, **changes: object) -> Working | None:
    wanted = order("http://127.0.0.1:1/run", **changes)
    return HttpExecutor(LOOPBACK).follow(wanted, url, io.BytesIO() if out is None else out, Call(20))


def refusal(url: str, out: BinaryIO | None = None, **changes: object) -> ExecutorError:
    with pytest.raises(ExecutorError) as caught:
        look(url, out, **changes)
    return caught.value


def answer(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {line}", *headers, f"Content-Length: {len(body)}", "", ""]).encode() + body


def in_turn(answers: Iterator[bytes]) -> Callable[[socket.socket], None]:
    """One answer a connection."""
    return lambda client: saying(next(answers))(client)


@pytest.mark.parametrize("code", ["301", "302", "303", "307", "308"])
def test_a_redirect_loop_ends(code: str) -> None:
    left = iter([answer(f"{code} x", "Location: /again")] * 10)

    with peer(in_turn(left)) as at:
        error = refusal(f"http://{at}/jobs/1")

    assert (error.code, error.transient) == (ErrorCode.BAD_RESPONSE, False)
    assert len(list(left)) == 4


@pytest.mark.parametrize("code", ["301", "307", "308"])
def test_a_status_that_moved_is_a_status_still(code: str) -> None:
    new = answer("200 OK", "Retry-After: 7", body=b'{"status": "running", "progress": 5}')

    with peer(in_turn(iter([answer(f"{code} x", "Location: /new"), new]))) as at:
        assert look(f"http://{at}/jobs/1") == Working("", 7.0, 5.0)


@pytest.mark.parametrize("code", ["302", "303"])
def test_where_a_status_sends_to_is_the_result_whatever_it_looks_like(code: str) -> None:
    body = b'{"status": "running"}'
    out = io.BytesIO()
    with peer(in_turn(iter([answer(f"{code} x", "Location: result"), answer("200 OK", body=body)]))) as at:
        assert look(f"http://{at}/jobs/1", out) is None

    assert out.getvalue() == body


def test_a_result_that_is_not_there_yet_is_asked_for_again() -> None:
    with peer(in_turn(iter([answer("303 x", "Location: result"), answer("202 Accepted", "Retry-After: 3")]))) as at:
        assert look(f"http://{at}/jobs/1") == Working("", 3.0)


@pytest.mark.parametrize("target", ["http://169.254.169.254/", "http://10.1.2.3/", "http://[fe80::1]/"])
@pytest.mark.parametrize("how", ["redirect", "link"])
def test_no_hop_leads_inside(target: str, how: str) -> None:
    said = (
        answer("303 x", f"Location: {target}")
        if how == "redirect"
        else answer("200 OK", body=b'{"status": "done", "resultUrl": "%b"}' % target.encode())
    )
    with peer(saying(said)) as at:
        error = refusal(f"http://{at}/jobs/1")

    assert (error.code, error.transient) == (ErrorCode.EGRESS_BLOCKED, False)


def test_a_status_url_that_came_to_lead_inside_is_not_called() -> None:
    with pytest.raises(ExecutorError) as caught:
        HttpExecutor(Policy()).follow(HOME, "http://127.0.0.1:9/jobs/1", io.BytesIO(), Call(20))

    assert caught.value.code is ErrorCode.EGRESS_BLOCKED


@pytest.mark.parametrize(
    "location", ["", "file:///etc/passwd", "gopher://127.0.0.1/", "http://a:b@127.0.0.1/", "http:///x"]
)
def test_a_redirect_to_nowhere_is_the_models_fault(location: str) -> None:
    with peer(saying(answer("303 x", f"Location: {location}"))) as at:
        error = refusal(f"http://{at}/jobs/1")

    assert (error.code, error.transient) == (ErrorCode.BAD_RESPONSE, False)


@pytest.mark.parametrize("start", [b"", b'{"a": "'])
def test_an_endless_body_ends_at_the_limit_and_is_not_held_in_memory(start: bytes) -> None:
    def serve(client: socket.socket) -> None:
        read_request(client)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + start)
        while True:
            client.sendall(b"x" * 65536)

    out = Sink()
    with peer(serve) as at:
        error = refusal(f"http://{at}/jobs/1", out, max_bytes=4 << 20)

    assert error.code is ErrorCode.RESULT_TOO_LARGE
    assert status.MAX_BYTES < out.size <= 4 << 20


def test_a_large_json_result_comes_whole() -> None:
    body = b'{"status": "running", "x": "' + b"y" * (3 << 20) + b'"}'
    out = io.BytesIO()
    with peer(saying(answer("200 OK", "Content-Type: application/json", body=body))) as at:
        assert look(f"http://{at}/jobs/1", out) is None

    assert out.getvalue() == body


def test_a_document_that_drips_is_taken_for_a_result_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_PATIENCE_S", 0.3)
    body = b'{"status": "running", "log": "' + b"z" * 20 + b'"}'

    def serve(client: socket.socket) -> None:
        read_request(client)
        client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        for n in range(len(body)):
            client.sendall(body[n : n + 1])
            threading.Event().wait(0.01)

    out = io.BytesIO()
    with peer(serve) as at:
        assert look(f"http://{at}/jobs/1", out) is None

    assert out.getvalue() == body


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"no HTTP\r\n\r\n",
        answer("503 x"),
        answer("429 x"),
        answer("408 x"),
    ],
)
def test_what_says_nothing_of_the_models_work_is_transient(broken: bytes) -> None:
    with peer(saying(broken)) as at:
        assert refusal(f"http://{at}/jobs/1").transient


@pytest.mark.parametrize("refused", ["400 x", "401 x", "404 x", "410 x", "304 x", "501 x"])
def test_a_refusal_is_the_end_unless_it_is_the_services_own_trouble(refused: str) -> None:
    with peer(saying(answer(refused))) as at:
        assert refusal(f"http://{at}/jobs/1").transient is (refused == "501 x")


def test_retry_after_of_a_busy_status_url_is_heard() -> None:
    with peer(saying(answer("503 x", "Retry-After: 11"))) as at:
        assert refusal(f"http://{at}/jobs/1").retry_after_s == 11


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n\r\n{", b"HTTP/1.1 303 x\r\nLocation: /r\r\n\r\n"])
def test_a_cut_ends_a_look_in_any_stage(head: bytes) -> None:
    asked, redirects = threading.Event(), [head] if b"Location" in head else []

    def serve(client: socket.socket) -> None:
        read_request(client)
        if redirects:
            client.sendall(redirects.pop())
            return
        client.sendall(b"" if b"Location" in head else head)
        asked.set()
        while client.recv(65536):
            pass

    with peer(serve) as at:

        def attempt(call: Call) -> None:
            HttpExecutor(LOOPBACK).follow(HOME, f"http://{at}/jobs/1", io.BytesIO(), call)

        assert_cut(cut_at(attempt, asked.is_set, CutReason.CANCEL), CutReason.CANCEL)


def test_a_call_that_was_cut_before_asks_nothing() -> None:
    call = Call(20)
    call.cut(CutReason.DRAIN)

    with pytest.raises(CallCut):
        HttpExecutor(LOOPBACK).follow(HOME, "http://127.0.0.1:9/jobs/1", io.BytesIO(), call)


def test_a_silent_status_url_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_PATIENCE_S", 0.3)
    began = monotonic()
    with peer(_silent) as at:
        error = refusal(f"http://{at}/jobs/1")

    assert (error.code, error.transient) == (ErrorCode.MODEL_TIMEOUT, True)
    assert monotonic() - began < 5


def _silent(client: socket.socket) -> None:
    while client.recv(65536):
        pass


def accepted(*headers: str, body: bytes = b"", base: str = "") -> Callable[[str], Working | None]:
    def call(path: str) -> Working | None:
        with peer(saying(answer("202 Accepted", *headers, body=body))) as at:
            found = HttpExecutor(LOOPBACK).run(order(f"http://{at}{path}"), io.BytesIO(), Call(20))
            return None if found is None else Working(found.poll_url.replace(at, "model"), *_rest(found))

    return call


def _rest(found: Working) -> tuple[float | None, float | None, str | None]:
    return found.retry_after_s, found.progress, found.message


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/jobs/1", "http://model/jobs/1"),
        ("jobs/1?a=b#frag", "http://model/v1/jobs/1?a=b"),
        ("https://other.example/j", "https://other.example/j"),
        ("//other.example/j", "http://other.example/j"),
    ],
)
def test_a_location_may_be_relative(location: str, url: str) -> None:
    assert accepted(f"Location: {location}")("/v1/run") == Working(url)


def test_a_202_tells_when_to_ask_and_how_far_it_is() -> None:
    body = b'{"status": "queued", "progress": 0.0, "message": "third in line"}'

    assert accepted("Location: /j", "Retry-After: 5", body=body)("/") == Working(
        "http://model/j", 5.0, 0.0, "third in line"
    )


@pytest.mark.parametrize("headers", [(), ("Location: ",)])
def test_without_a_location_a_202_is_a_result(headers: tuple[str, ...]) -> None:
    assert accepted(*headers, body=b"x")("/") is None
