"""Streams of a task's changes, on the real server with few threads: nothing final is lost, nobody holds anybody up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import requests
import yaml
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from asynch import db
from asynch.processes import spawn
from tests.live import KEY
from tests.programs import clean_environ, free_port
from tests.rows import bend
from tests.task_api import Api, Hand
from tests.waiting import until

MOST = 40


class Server:
    """`asynch api` with two threads, which can be killed and started again on the same port."""

    def __init__(self, dsn: str, home: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = home / "streams.yml"
        server = {"port": self.port, "threads": 2, "streams": MOST}
        chosen = {"data_dir": str(home), "database": {"dsn": dsn}, "secrets": {"keys": [KEY]}, "server": server}
        self._config.write_text(yaml.safe_dump(chosen))
        self.log = home / "streams.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = spawn(
                [sys.executable, "-m", "asynch", "api", "--config", str(self._config)],
                death_signal=signal.SIGKILL,
                env=clean_environ(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until(self._is_up, 30)

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/healthz", timeout=5).ok
        return False

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(20)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(f"{self.url}/task/{path}", timeout=20, **options)


@pytest.fixture
def server(dsn: str, tmp_path: Path, pool: db.Pool) -> Iterator[Server]:
    made = Server(dsn, tmp_path)
    made.start()
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.end(signal.SIGKILL)
        print(made.log.read_text())


@pytest.fixture
def task(api: Api) -> str:
    api.model()
    return api.create()


def events(answer: requests.Response) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Id, name and document of each event, as they come."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


@contextmanager
def reading(server: Server, task: str, last: int | None = None) -> Iterator[Iterator[tuple[int, str, dict[str, Any]]]]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with server.get(f"{task}/events", headers=headers, stream=True) as answer:
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert answer.headers["X-Request-Id"]
        yield events(answer)


def test_every_change_comes_as_an_event_and_the_final_one_ends_it(server: Server, task: str, hand: Hand) -> None:
    with reading(server, task) as stream:
        got = [next(stream)]
        (claim,) = hand.take(task)
        got.append(next(stream))
        bend(hand.pool, [int(task)], progress=50.0, version=got[-1][0] + 1)
        got.append(next(stream))
        hand.deliver(claim)
        got += list(stream)

    assert [(name, told["status"], told["progress"]) for _, name, told in got][:3] == [
        ("status", "pending", None),
        ("status", "processing", None),
        ("status", "processing", 50.0),
    ]
    assert (got[-1][1], got[-1][2]["status"], got[-1][2]["final"]) == ("done", "completed", True)
    assert got[-1][2]["result"]["size"] > 0
    ids = [number for number, _, _ in got]
    assert ids == sorted(set(ids))


def test_who_comes_back_gets_what_he_missed_and_the_end_only_once(server: Server, task: str, hand: Hand) -> None:
    with reading(server, task) as stream:
        last, _, _ = next(stream)
    hand.succeed(task)

    with reading(server, task, last) as stream:
        missed = list(stream)
    assert [name for _, name, _ in missed] == ["done"]
    again = server.get(f"{task}/events", headers={"Last-Event-ID": str(missed[0][0])})
    assert (again.status_code, again.text) == (204, "")


def test_the_final_event_survives_a_killed_server(server: Server, task: str, hand: Hand) -> None:
    with reading(server, task) as stream:
        last, _, _ = next(stream)
        server.end(signal.SIGKILL)
        with suppress(requests.RequestException):
            assert list(stream) == []
    hand.succeed(task)
    server.start()

    with reading(server, task, last) as stream:
        assert [(name, told["status"]) for _, name, told in stream] == [("done", "completed")]


def test_the_same_over_a_websocket(server: Server, task: str, hand: Hand) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/task/{task}/ws") as stream:
        got = [json.loads(stream.recv(10))]
        stream.ping().wait(5)
        (claim,) = hand.take(task)
        got.append(json.loads(stream.recv(10)))
        hand.deliver(claim)
        got += [json.loads(message) for message in stream]

    assert [told["status"] for told in got[:2]] == ["pending", "processing"]
    assert got[-1]["status"] == "completed"
    assert stream.close_code == 1000


def test_a_server_that_stops_tells_its_readers_to_come_again(server: Server, task: str) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/task/{task}/ws") as stream, reading(server, task) as others:
        stream.recv(10)
        next(others)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            stream.recv(15)
        assert list(others) == []

    assert closed.value.rcvd is not None
    assert stream.close_code == 1012
    assert server.process.wait(20) == 0


def test_what_is_not_there_is_said_before_the_stream_begins(server: Server, task: str, api: Api, hand: Hand) -> None:
    stranger = json.dumps({"tenantId": 8})
    for path, upgrade in (("events", {}), ("ws", {"Upgrade": "websocket", "Connection": "Upgrade"})):
        assert server.get(f"17/{path}", headers=upgrade).status_code == 404
        assert server.get(f"{task}/{path}", headers=upgrade | {"X-User-Info": stranger}).status_code == 404
    assert server.get(f"{task}/ws").status_code == 426
    assert server.get(f"{task}/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_more_than_it_may_have_open_are_refused_and_room_comes_back(server: Server, task: str) -> None:
    with ExitStack() as stack:
        for _ in range(MOST):
            next(stack.enter_context(reading(server, task)))
        refused = server.get(f"{task}/events")
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert int(refused.headers["Retry-After"]) > 0

        # idle streams hold none of its two threads
        began = monotonic()
        for _ in range(20):
            assert requests.post(f"{server.url}/task/createTask", json={"modelName": "m"}, timeout=5).status_code == 202
        assert monotonic() - began < 5

    def has_room() -> bool:
        with server.get(f"{task}/events", stream=True) as answer:
            return answer.status_code == 200

    until(has_room, 10)


def test_a_reader_that_takes_nothing_holds_up_nobody(server: Server, api: Api, hand: Hand) -> None:
    api.model()
    api.model("other")
    loud = api.create(metadata={"x": "y" * 3000})
    quiet = api.post("createTask", {"modelName": "other"}).json()["taskId"]
    stuck = server.get(f"{loud}/events", stream=True)
    shouting = threading.Event()

    def shout() -> None:
        number = 10
        while not shouting.wait(0.001):
            number += 1
            bend(hand.pool, [int(loud)], version=number, message=f"{number}" * 200)
            with db.connection(hand.pool) as conn:
                conn.execute(f"NOTIFY asynch_task, '{loud}'".encode())

    thread = threading.Thread(target=shout)
    thread.start()
    try:
        with reading(server, quiet) as stream:
            next(stream)
            hand.succeed(quiet)
            began = monotonic()
            assert list(stream)[-1][1] == "done"
            assert monotonic() - began < 5
    finally:
        shouting.set()
        thread.join()
        stuck.close()
