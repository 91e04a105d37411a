from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

from asynch import db, settings
from asynch.errors import UserError
from asynch.web import server
from tests.live import KEY
from tests.programs import REPOSITORY
from tests.waiting import until

#: a process like `asynch api`, with as little as it takes
PROGRAM = """
import sys
from pathlib import Path
from asynch import db, log, settings
from asynch.secretbox import SecretBox
from asynch.storage.local import LocalStorage
from asynch.web import Parts
from asynch.web.app import create_app
from asynch.web.server import serve

dsn, data_dir, key, fd = sys.argv[1:]
log.configure("INFO", "json")
chosen = settings.build({"data_dir": data_dir, "server": {"processes": 2, "threads": 4, "max_body": 1000}})

def make():
    box = SecretBox([key])
    storage = LocalStorage(
        chosen.files_path, base_url="http://h", signing_key=box.signing_key("files"), url_ttl_s=60
    )
    return create_app(Parts(chosen, db.open_pool(dsn, size=4, name="api"), box, storage))

serve(make, chosen, fd=int(fd))
"""


class Api:
    """The process, its port and its log."""

    def __init__(self, dsn: str, data_dir: Path) -> None:
        self.log = data_dir / "log"
        with socket.create_server(("127.0.0.1", 0)) as listener, self.log.open("wb") as log:
            self.port = listener.getsockname()[1]
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, dsn, str(data_dir), KEY, str(listener.fileno())],
                pass_fds=[listener.fileno()],
                stderr=log,
                cwd=REPOSITORY,
            )

    def is_up(self) -> bool:
        assert self.process.poll() is None, "it ended instead of serving"
        with suppress(requests.ConnectionError, psutil.NoSuchProcess):
            return len(self.workers()) == 2 and requests.get(self.url("/healthz"), timeout=5).ok
        return False

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def list_models(self, **options: object) -> requests.Response:
        return requests.post(self.url("/model/listModel"), timeout=20, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        with suppress(psutil.NoSuchProcess):
            for worker in self.workers():
                worker.kill()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def api(dsn: str, tmp_path: Path) -> Iterator[Api]:
    made = Api(dsn, tmp_path)
    try:
        until(made.is_up, most_s=60)
        yield made
    finally:
        print(made.log.read_text())
        made.close()


def refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def test_it_serves_on_the_socket_it_was_given(api: Api) -> None:
    answer = api.list_models(json={})

    assert (answer.status_code, answer.json()) == (200, {"list": [], "total": 0})


def test_its_own_lines_are_in_our_format(api: Api) -> None:
    lines = api.log.read_text().splitlines()

    assert [line for line in lines if "Listening at" in line]
    assert all(line.startswith("{") for line in lines)


@pytest.mark.parametrize("size", [2_000, 20_000_000])
def test_a_client_that_sends_too_much_hears_why(api: Api, size: int) -> None:
    def pieces() -> Iterator[bytes]:
        for start in range(0, size, 100_000):
            yield b" " * min(100_000, size - start)

    headers = {"Content-Type": "application/json"}
    chunked = api.list_models(data=pieces(), headers=headers)
    whole = api.list_models(data=b" " * size, headers=headers)

    assert [answer.status_code for answer in (chunked, whole)] == [413, 413]


def test_a_connection_serves_many_requests(api: Api) -> None:
    with requests.Session() as session:
        for _ in range(3):
            answer = session.get(api.url("/healthz"), timeout=5, stream=True)
            assert answer.content
            assert answer.headers["Connection"] == "keep-alive"


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_answered_before_the_end(api: Api, pool: db.Pool, ending: signal.Signals) -> None:
    answers: list[int] = []
    ask = threading.Thread(target=lambda: answers.append(api.list_models(json={}).status_code))
    with db.transaction(pool) as conn:
        conn.execute("LOCK TABLE asynch_models")
        ask.start()
        until(lambda: conn.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone())
        for worker in api.workers() if ending is signal.SIGINT else []:
            worker.send_signal(ending)  # as a terminal does
        api.process.send_signal(ending)
        until(lambda: "Handling signal" in api.log.read_text())
    ask.join()

    assert answers == [200]
    assert api.process.wait(server.GRACE_S + 15) == 0
    assert refuses(api.port)


def test_killed_with_its_workers_gone_and_the_port_free(api: Api) -> None:
    workers = api.workers()
    os.kill(api.process.pid, signal.SIGKILL)
    api.process.wait()

    gone, alive = psutil.wait_procs(workers, timeout=3)
    assert (len(gone), alive) == (2, [])
    assert refuses(api.port)


def test_a_key_that_cannot_be_one_ends_before_gunicorn_begins() -> None:
    chosen = settings.build({"auth": {"mode": "jwt", "jwt": {"issuer": "i", "audience": "a", "key": "k"}}})

    with pytest.raises(UserError, match="jwt"):
        server.serve(lambda: pytest.fail("was asked for an application"), chosen)


def test_it_leaves_no_control_socket_behind(api: Api) -> None:
    files = [
        connection
        for process in (psutil.Process(api.process.pid), *api.workers())
        for connection in process.net_connections("unix")
    ]

    assert [found.laddr for found in files if found.laddr] == []
