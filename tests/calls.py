"""What the tests of the HTTP executor share: orders, a peer that says anything, a resolver that lies, a cut."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, BinaryIO

import pytest

from asynch.errors import CallCut, CutReason, ExecutorError
from asynch.executors import Call, Order
from asynch.executors.egress import Policy
from asynch.executors.http import HttpExecutor
from tests.waiting import until

LOOPBACK = Policy(allow_loopback=True)
CUT_WITHIN_S = 0.5


@pytest.fixture
def executor() -> HttpExecutor:
    """One that may call this machine."""
    return HttpExecutor(LOOPBACK)


def order(url: str, payload: Any = None, **changes: Any) -> Order:
    fields: dict[str, Any] = {
        "task_id": "task-1",
        "attempt": 1,
        "url": url,
        "method": "POST",
        "payload": payload if payload is None or isinstance(payload, str) else json.dumps(payload),
        "input_ref": None,
        "headers": {},
        "timeout_s": 20.0,
    }
    return Order(**fields | changes)


def run(executor: HttpExecutor, wanted: Order) -> bytes:
    out = io.BytesIO()
    executor.run(wanted, out, Call(wanted.timeout_s))
    return out.getvalue()


def failure(executor: HttpExecutor, wanted: Order, out: BinaryIO | None = None) -> ExecutorError:
    with pytest.raises(ExecutorError) as caught:
        executor.run(wanted, io.BytesIO() if out is None else out, Call(wanted.timeout_s))
    return caught.value


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def peer(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that answers each connection with `serve`, for what no HTTP library would send."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                clients.append(client)
                threading.Thread(target=guarded, args=(client,), daemon=True).start()

        def guarded(client: socket.socket) -> None:
            try:
                serve(client)
            except OSError:
                return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for client in clients:
            client.close()


def read_request(client: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)


def saying(answer: bytes, *, then_close: bool = True) -> Callable[[socket.socket], None]:
    def serve(client: socket.socket) -> None:
        read_request(client)
        client.sendall(answer)
        if then_close:
            client.shutdown(socket.SHUT_RDWR)

    return serve


class Names:
    """A resolver whose answers change from one question to the next, as a rebinding attacker's do."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self._real = socket.getaddrinfo

    def __call__(self, host: str, port: int, **options: Any) -> Any:
        if not host.endswith(".example"):
            return self._real(host, port, **options)
        if options.get("flags"):
            raise socket.gaierror
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [info for ip in answer for info in self._real(ip, port, type=socket.SOCK_STREAM)]


@dataclass
class Outcome:
    error: BaseException | None = None
    seconds: float = 0.0


def cut_at(
    attempt: Callable[[Call], None], condition: Callable[[], object], reason: CutReason = CutReason.TIMEOUT
) -> Outcome:
    """Run `attempt`, cut it as soon as `condition` holds, and say how it ended and how long after the cut."""
    call, outcome = Call(60), Outcome()

    def body() -> None:
        try:
            attempt(call)
        except BaseException as exc:
            outcome.error = exc

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    until(condition)
    assert thread.is_alive(), f"the call ended before it was cut: {outcome.error!r}"
    began = monotonic()
    call.cut(reason)
    thread.join(10)
    outcome.seconds = monotonic() - began
    return outcome


def assert_cut(outcome: Outcome, reason: CutReason = CutReason.TIMEOUT) -> None:
    assert isinstance(outcome.error, CallCut), outcome.error
    assert outcome.error.reason is reason
    assert outcome.seconds < CUT_WITHIN_S


class Sink(io.BytesIO):
    """Counts what it is given."""

    size = 0

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)


def attempt(executor: HttpExecutor, wanted: Order, out: BinaryIO | None = None) -> Callable[[Call], None]:
    return lambda call: executor.run(wanted, io.BytesIO() if out is None else out, call)
