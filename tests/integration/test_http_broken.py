"""What a call to a model service survives: broken answers, lost connections, full disks; without a leak."""

from __future__ import annotations

import io
import resource
import socket
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from asynch.errors import ErrorCode, ExecutorError
from asynch.executors import Call
from asynch.executors.http import HttpExecutor
from tests.calls import failure, open_fds, order, peer, read_request, run, saying
from tests.model_server import ModelServer
from tests.waiting import until


@pytest.mark.parametrize(
    "payload",
    [
        {"size": 100_000, "cut_after": 99_999},
        {"size": 100_000, "cut_after": 0},
        {"lie_length": 1},
        {"size": 200_000, "chunked": True, "cut_after": 100_000},
        {"size": 200_000, "chunked": True, "cut_after": 65_536},
    ],
)
def test_a_body_that_breaks_off_is_a_bad_response(
    executor: HttpExecutor, model: ModelServer, payload: dict[str, Any]
) -> None:
    error = failure(executor, order(model.url, payload))
    assert (error.code, error.transient) == (ErrorCode.BAD_RESPONSE, True)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: " + b"1" * 600_000 + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ],
)
def test_an_answer_that_is_not_http_is_a_bad_response(executor: HttpExecutor, answer: bytes) -> None:
    with peer(saying(answer)) as host:
        error = failure(executor, order(f"http://{host}/"))
    assert (error.code, error.transient) == (ErrorCode.BAD_RESPONSE, True)


@pytest.mark.parametrize("with_the_answer", [True, False])
def test_what_a_model_sends_unasked_is_not_taken_for_the_next_answer(
    executor: HttpExecutor, with_the_answer: bool
) -> None:
    forged, asked = threading.Event(), threading.Event()

    def serve(client: socket.socket) -> None:
        read_request(client)
        if asked.is_set():
            client.sendall(answer(b"real"))
            return
        client.sendall(answer(b"first") + (answer(b"forged") if with_the_answer else b""))
        asked.wait(10)
        if not with_the_answer:
            client.sendall(answer(b"forged"))
        forged.set()
        serve(client)

    with peer(serve) as host:
        assert run(executor, order(f"http://{host}/", method="GET")) == b"first"
        asked.set()
        forged.wait(10)
        assert run(executor, order(f"http://{host}/", method="GET")) == b"real"


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def test_a_refused_connection_is_a_connection_error(executor: HttpExecutor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    error = failure(executor, order(f"http://127.0.0.1:{port}/?token=secret"))
    assert (error.code, error.transient) == (ErrorCode.MODEL_CONNECTION, True)
    assert "refused" in error.detail


def test_an_unknown_name_is_a_connection_error(executor: HttpExecutor) -> None:
    error = failure(executor, order("http://nowhere.invalid/"))
    assert (error.code, error.transient) == (ErrorCode.MODEL_CONNECTION, True)


@pytest.mark.parametrize(
    ("answer", "code"), [(b"", ErrorCode.MODEL_CONNECTION), (b"HTTP/1.1 2", ErrorCode.BAD_RESPONSE)]
)
def test_a_connection_closed_before_the_answer_is_a_failure_that_may_pass(
    executor: HttpExecutor, answer: bytes, code: ErrorCode
) -> None:
    with peer(saying(answer)) as host:
        error = failure(executor, order(f"http://{host}/?token=secret"))
    assert (error.code, error.transient) == (code, True)
    assert "secret" not in error.detail


@pytest.mark.parametrize("payload", [{"hang": True}, {"size": 10, "drip": 5}])
def test_a_silent_model_times_out_without_anyone_cutting(
    executor: HttpExecutor, model: ModelServer, payload: dict[str, Any]
) -> None:
    error = failure(executor, order(model.url, payload, timeout_s=0.3))
    assert (error.code, error.transient) == (ErrorCode.MODEL_TIMEOUT, True)


def test_a_full_disk_is_not_the_models_fault(executor: HttpExecutor, model: ModelServer) -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space") as caught:
        executor.run(order(model.url, {"size": 100_000}), full, Call(10))
    assert not isinstance(caught.value, ExecutorError)


def test_a_result_that_the_disk_takes_only_in_part_is_not_a_result(
    executor: HttpExecutor, model: ModelServer, tmp_path: Path
) -> None:
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open(tmp_path / "result", "wb", buffering=0) as out:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, former[1]))
        try:
            with pytest.raises(OSError, match="No space"):
                executor.run(order(model.url, {"size": 60_000}), out, Call(10))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_a_url_that_cannot_be_called_fails_for_good(executor: HttpExecutor) -> None:
    assert not failure(executor, order("http://a..b:x/")).transient


def test_calls_of_one_thread_share_one_connection(executor: HttpExecutor, model: ModelServer) -> None:
    for payload in ({}, {"size": 300_000}, {"chunked": True}, {"size": 0}, {"status": 500}, {"kind": "png"}):
        with pytest.raises(ExecutorError) if "status" in payload else nullcontext():
            run(executor, order(model.url, payload))
        assert model.connections == 1
    assert model.accepted == 1


def test_a_connection_that_the_model_closed_while_idle_fails_no_call(
    executor: HttpExecutor, model: ModelServer
) -> None:
    for _ in range(20):
        run(executor, order(model.url, {}))
        model.drop_connections()
        until(lambda: model.connections == 0)
    assert [call.outcome for call in model.ledger.calls] == ["200"] * 20


def test_a_call_is_sent_once_even_when_its_connection_breaks(executor: HttpExecutor, model: ModelServer) -> None:
    run(executor, order(model.url, {}))
    failing = threading.Thread(target=failure, args=(executor, order(model.url, {"hang": True}, task_id="t2")))
    failing.start()
    until(lambda: model.ledger.open == 1)
    model.drop_connections()
    failing.join(10)
    assert len(model.ledger.of("t2")) == 1


def test_thousands_of_calls_leak_no_descriptor(executor: HttpExecutor, model: ModelServer) -> None:
    payloads: list[dict[str, Any]] = [
        {},
        {"status": 500, "size": 5000},
        {"size": 100_000, "cut_after": 10},
        {"size": 100_000, "chunked": True},
        {"size": 100_000, "lie_length": 2_000_000},
        {"redirect": model.url, "size": 5000},
        {"headers": {"Connection": "close"}},
    ]

    def call_all(times: int) -> None:
        for number in range(times):
            out = io.BytesIO()
            try:
                executor.run(order(model.url, payloads[number % len(payloads)], max_bytes=1_000_000), out, Call(10))
            except ExecutorError:
                continue

    def idle() -> int:
        until(lambda: model.connections <= 1)
        return open_fds()

    call_all(50)
    before = idle()
    call_all(2000)
    assert idle() <= before + 2
