from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator

import psutil
import pytest
import requests

from asynch import db, settings
from asynch.errors import UserError
from asynch.web import server
from tests.served import Served
from tests.waiting import until


def refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def test_it_serves_on_the_socket_it_was_given(served: Served) -> None:
    answer = served.list_models(json={})

    assert (answer.status_code, answer.json()) == (200, {"list": [], "total": 0})


def test_its_own_lines_are_in_our_format(served: Served) -> None:
    lines = served.log.read_text().splitlines()

    assert [line for line in lines if "Listening at" in line]
    assert all(line.startswith("{") for line in lines)


@pytest.mark.parametrize("size", [2_000, 20_000_000])
def test_a_client_that_sends_too_much_hears_why(served: Served, size: int) -> None:
    def pieces() -> Iterator[bytes]:
        for start in range(0, size, 100_000):
            yield b" " * min(100_000, size - start)

    headers = {"Content-Type": "application/json"}
    chunked = served.list_models(data=pieces(), headers=headers)
    whole = served.list_models(data=b" " * size, headers=headers)

    assert [answer.status_code for answer in (chunked, whole)] == [413, 413]


def test_a_connection_serves_many_requests(served: Served) -> None:
    with requests.Session() as session:
        for _ in range(3):
            answer = session.get(served.url("/healthz"), timeout=5, stream=True)
            assert answer.content
            assert answer.headers["Connection"] == "keep-alive"


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_answered_before_the_end(served: Served, pool: db.Pool, ending: signal.Signals) -> None:
    answers: list[int] = []
    ask = threading.Thread(target=lambda: answers.append(served.list_models(json={}).status_code))
    with db.transaction(pool) as conn:
        conn.execute("LOCK TABLE asynch_models")
        ask.start()
        until(lambda: conn.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone())
        for worker in served.workers() if ending is signal.SIGINT else []:
            worker.send_signal(ending)  # as a terminal does
        served.process.send_signal(ending)
        until(lambda: "Handling signal" in served.log.read_text())
    ask.join()

    assert answers == [200]
    assert served.process.wait(server.GRACE_S + 15) == 0
    assert refuses(served.port)


def test_killed_with_its_workers_gone_and_the_port_free(served: Served) -> None:
    workers = served.workers()
    os.kill(served.process.pid, signal.SIGKILL)
    served.process.wait()

    gone, alive = psutil.wait_procs(workers, timeout=3)
    assert (len(gone), alive) == (2, [])
    assert refuses(served.port)


def test_a_key_that_cannot_be_one_ends_before_gunicorn_begins() -> None:
    chosen = settings.build({"auth": {"mode": "jwt", "jwt": {"issuer": "i", "audience": "a", "key": "k"}}})

    with pytest.raises(UserError, match="jwt"):
        server.serve(lambda: pytest.fail("was asked for an application"), chosen)


def test_it_leaves_no_control_socket_behind(served: Served) -> None:
    files = [
        connection
        for process in (psutil.Process(served.process.pid), *served.workers())
        for connection in process.net_connections("unix")
    ]

    assert [found.laddr for found in files if found.laddr and found.laddr[0] != "@"] == []  # @: no file
