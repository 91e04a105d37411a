"""A call to a model service ends at once when another thread cuts it, whatever it is waiting for."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from asynch.errors import CallCut, CutReason
from asynch.executors import Call
from asynch.executors.http import HttpExecutor
from asynch.executors.session import Line, Wire
from tests.calls import Sink, assert_cut, attempt, cut_at, open_fds, order, peer, read_request, saying
from tests.model_server import ModelServer
from tests.waiting import until


@pytest.mark.parametrize("reason", list(CutReason))
def test_a_call_cut_while_waiting_for_the_answer_ends(
    executor: HttpExecutor, model: ModelServer, reason: CutReason
) -> None:
    trial = attempt(executor, order(model.url, {"hang": True}))
    assert_cut(cut_at(trial, lambda: model.ledger.open == 1, reason), reason)
    until(lambda: model.ledger.calls[0].outcome == "gone")


def test_a_call_cut_on_a_kept_connection_ends(executor: HttpExecutor, model: ModelServer) -> None:
    def twice(call: Call) -> None:
        executor.run(order(model.url, {}), io.BytesIO(), Call(10))
        executor.run(order(model.url, {"hang": True}), io.BytesIO(), call)

    outcome = cut_at(twice, lambda: len(model.ledger.calls) == 2 and model.ledger.open == 1)
    assert model.accepted == 1
    assert_cut(outcome)


@pytest.mark.parametrize("payload", [{"drip": 0.05, "size": 10_000}, {"drip": 0.05, "size": 99, "chunked": True}])
def test_a_call_cut_while_the_answer_drips_ends(
    executor: HttpExecutor, model: ModelServer, payload: dict[str, Any]
) -> None:
    sink = Sink()
    assert_cut(cut_at(attempt(executor, order(model.url, payload), sink), lambda: sink.size >= 2))


def test_a_call_cut_while_a_failed_answer_drips_ends(executor: HttpExecutor, model: ModelServer) -> None:
    trial = attempt(executor, order(model.url, {"status": 500, "drip": 0.05, "size": 1000}))
    assert_cut(cut_at(trial, lambda: model.ledger.open == 1))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_call_cut_in_full_stream_ends(executor: HttpExecutor, model: ModelServer, chunked: bool) -> None:
    sink = Sink()
    wanted = order(model.url, {"size": 10**12, "chunked": chunked}, max_bytes=10**13)
    assert_cut(cut_at(attempt(executor, wanted, sink), lambda: sink.size > 1_000_000))


def test_a_call_cut_while_the_headers_drip_ends(executor: HttpExecutor) -> None:
    sent, pause = threading.Event(), threading.Event()

    def drip(client: socket.socket) -> None:
        read_request(client)
        for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000:
            client.sendall(bytes([byte]))
            sent.set()
            pause.wait(0.05)

    with peer(drip) as host:
        assert_cut(cut_at(attempt(executor, order(f"http://{host}/")), sent.is_set))


def test_a_call_cut_while_its_request_is_not_read_ends(executor: HttpExecutor) -> None:
    started, never = threading.Event(), threading.Event()

    def serve(client: socket.socket) -> None:
        client.recv(10)
        started.set()
        never.wait(20)

    with peer(serve) as host:
        wanted = order(f"http://{host}/", json.dumps("x" * 30_000_000))
        assert_cut(cut_at(attempt(executor, wanted), started.is_set))
        never.set()


def test_a_body_that_ends_with_its_connection_is_no_result_when_cut(executor: HttpExecutor) -> None:
    sink = Sink()
    with peer(saying(b"HTTP/1.1 200 OK\r\n\r\nhalf", then_close=False)) as host:
        assert_cut(cut_at(attempt(executor, order(f"http://{host}/"), sink), lambda: sink.size == 4))


def test_a_call_cut_while_connecting_ends(executor: HttpExecutor) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        before = open_fds()
        trial = attempt(executor, order(f"http://127.0.0.1:{full.getsockname()[1]}/"))
        outcome = cut_at(trial, lambda: open_fds() > before + 1)
        for filler in fillers:
            filler.close()
    assert_cut(outcome)


def test_a_call_cut_during_the_name_look_up_ends(executor: HttpExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, never = threading.Event(), threading.Event()

    def hanging(host: str, port: int, **options: Any) -> Any:
        if options.get("flags"):
            raise socket.gaierror
        asked.set()
        never.wait(20)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    assert_cut(cut_at(attempt(executor, order("http://slow.example/")), asked.is_set))
    never.set()


def test_a_call_cut_during_the_tls_handshake_ends(executor: HttpExecutor) -> None:
    hello, never = threading.Event(), threading.Event()

    def silent(client: socket.socket) -> None:
        client.recv(10)
        hello.set()
        never.wait(20)

    with peer(silent) as host:
        assert_cut(cut_at(attempt(executor, order(f"https://{host}/")), hello.is_set))
        never.set()


def test_a_call_cut_before_it_began_is_not_made(executor: HttpExecutor, model: ModelServer) -> None:
    call = Call(10)
    call.cut(CutReason.DRAIN)
    with pytest.raises(CallCut):
        executor.run(order(model.url, {}), io.BytesIO(), call)
    assert model.ledger.calls == []


def test_a_connection_made_just_after_the_cut_is_shut() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        call = Call(10)
        wire = Wire(call)
        call.cut(CutReason.TIMEOUT)
        wire.attach(Line(ours))
        assert theirs.recv(1) == b""
        wire.close()


def test_a_late_cut_of_a_finished_call_does_not_touch_the_next_one(executor: HttpExecutor, model: ModelServer) -> None:
    first = Call(10)
    executor.run(order(model.url, {}), io.BytesIO(), first)

    def second(call: Call) -> None:
        executor.run(order(model.url, {}), io.BytesIO(), Call(10))
        executor.run(order(model.url, {"hang": True}, task_id="next"), io.BytesIO(), call)

    def cut_the_first() -> bool:
        if not model.ledger.of("next"):
            return False
        first.cut(CutReason.CANCEL)
        return True

    outcome = cut_at(second, cut_the_first, CutReason.TIMEOUT)
    assert_cut(outcome, CutReason.TIMEOUT)


def test_cut_calls_leak_no_descriptor(executor: HttpExecutor, model: ModelServer) -> None:
    def cut_some(times: int) -> None:
        for number in range(times):
            cut_at(attempt(executor, order(model.url, {"hang": True}, task_id=f"{number}")), _opened(model))
            until(lambda: model.connections == 0)

    cut_some(3)
    before = open_fds()
    cut_some(50)
    assert open_fds() <= before + 2


def _opened(model: ModelServer) -> Callable[[], bool]:
    return lambda: model.ledger.open == 1
