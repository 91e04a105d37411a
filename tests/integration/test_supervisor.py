"""`asynch up`: starts everything, repairs what ends by itself, and leaves nothing running however it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import psutil
import pytest
import requests

from tests.model_server import ModelServer
from tests.programs import REPOSITORY, clean_environ
from tests.waiting import until

GONE_S = 10.0


class Up:
    """One `asynch up`, with what it said."""

    def __init__(self, data_dir: Path, *more: str, **environ: str) -> None:
        self.data_dir = data_dir
        self.errors = data_dir.with_name(f"{data_dir.name}.stderr")
        config = data_dir.with_name("config.yml")
        config.write_text("worker: {threads: 4, drain_timeout: 2s}\ncleaner: {interval: 1s}\n")
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "asynch",
                    "up",
                    "--config",
                    config,
                    "--data-dir",
                    data_dir,
                    "--port",
                    "0",
                    *more,
                ],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=REPOSITORY,
                env=clean_environ(**environ),
            )
        self.url = ""

    def wait_ready(self) -> None:
        """Read its first word and the URL."""
        assert self.process.stdout is not None
        word, _, self.url = self.process.stdout.readline().strip().partition(" ")
        assert word == "ready", self.errors.read_text()

    def descendants(self) -> dict[int, psutil.Process]:
        """Everything it has started, by process id."""
        return {p.pid: p for p in psutil.Process(self.process.pid).children(recursive=True)}

    def child(self, *words: str) -> psutil.Process:
        """The direct child with these words in its command line."""
        for process in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if all(any(word in part for part in process.cmdline()) for word in words):
                    return process
        raise AssertionError(f"no child {words}")

    def call(self, method: str, path: str, body: Any = None) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, json=body, timeout=30)

    def post(self, path: str, body: Any) -> Any:
        answer = self.call("POST", path, body)
        assert answer.ok, answer.text
        return answer.json()

    def is_ready(self) -> bool:
        with suppress(requests.RequestException):
            return self.call("GET", "/readyz").status_code == 200
        return False

    def come_back(self) -> None:
        """Wait until it is ready again, which may take the end of what hangs first; AssertionError with what it said."""
        try:
            until(self.is_ready, 90.0)
        except AssertionError as exc:
            raise AssertionError("\n".join(self.errors.read_text().splitlines()[-40:])) from exc

    def finish(self, number: signal.Signals) -> int:
        """End it by a signal; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(40)


@contextmanager
def up(data_dir: Path, *more: str, wait: bool = True, **environ: str) -> Iterator[Up]:
    """A running one; ready, unless it is not to be waited for."""
    running = Up(data_dir, *more, **environ)
    with running.process as process:
        try:
            if wait:
                running.wait_ready()
            yield running
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(40)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data directory for the tests that only start and stop: making a cluster takes seconds."""
    return tmp_path_factory.mktemp("up") / "data"


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[Up]:
    """One for the tests after which it still runs; on a directory of its own, as others start and stop there."""
    with up(home.with_name("running")) as one:
        yield one


def result_of(running: Up, task_id: str) -> Any:
    """The item of a task once it is final."""
    item: dict[str, Any] = {}

    def final() -> bool:
        found = running.post("/task/getTaskBatch", {"taskIds": [task_id], "waitSeconds": 5})["list"]
        item.update(found[0])
        return bool(item["final"])

    until(final, 40.0)
    return item


def create(running: Up, model: ModelServer, **payload: Any) -> str:
    name = f"m{model.port}"
    running.call("POST", "/model/createModel", {"modelName": name, "baseUrl": model.url})  # or it is there
    task = running.post("/task/createTask", {"modelName": name, "requestPayload": payload})
    return str(task["taskId"])


def port_of(postgres: psutil.Process) -> int:
    return int(postgres.cmdline()[-1].rpartition("=")[2])


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Somebody else has this port: as soon as the last child of the killed server has closed what it inherited."""
    listeners: list[socket.socket] = []

    def listens() -> bool:
        with suppress(OSError):
            listeners.append(socket.create_server(("127.0.0.1", port)))
        return bool(listeners)

    until(listens)
    with listeners[0]:
        yield


def test_it_says_ready_and_where_once_it_is(running: Up) -> None:
    assert running.url.startswith("http://127.0.0.1:")
    assert running.call("GET", "/readyz").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_with_exit_code_0(home: Path, number: signal.Signals) -> None:
    with up(home) as running:
        started = running.descendants()
        assert len(started) >= 4  # Postgres, gunicorn and its worker, the worker

        assert running.finish(number) == 0

        assert not [pid for pid, p in started.items() if p.is_running()]
        with pytest.raises(requests.ConnectionError):
            running.call("GET", "/healthz")


def test_a_signal_during_the_start_ends_everything(home: Path) -> None:
    with up(home, wait=False) as running:
        until(running.descendants, 20.0)

        code = running.finish(signal.SIGTERM)

        assert running.process.stdout is not None
        assert (code, running.process.stdout.read()) == (0, "")


def test_killed_it_leaves_no_process_and_starts_again_with_its_tasks(home: Path, model: ModelServer) -> None:
    with up(home) as first:
        task = create(first, model, hang=True)
        until(lambda: model.ledger.of(task))
        started = list(first.descendants().values())
        first.finish(signal.SIGKILL)

        _, alive = psutil.wait_procs(started, timeout=GONE_S)
        assert alive == []

    model.stop()
    with up(home) as second:
        found = second.post("/task/getTaskBatch", {"taskIds": [task]})
        assert [item["taskId"] for item in found["list"]] == [task]
        second.post(f"/task/{task}/cancel", None)


@pytest.mark.parametrize("role", ["worker", "api"])
def test_a_child_that_is_killed_is_started_again(running: Up, model: ModelServer, role: str) -> None:
    victim = running.child("asynch", role)
    victim.kill()
    until(lambda: not victim.is_running())
    running.come_back()

    assert result_of(running, create(running, model))["status"] == "completed"


def test_tasks_outlive_a_killed_postgres(running: Up, model: ModelServer) -> None:
    tasks = [create(running, model, sleep=1.0) for _ in range(3)]
    postgres = running.child("postgres", "--port")
    postgres.kill()
    until(lambda: not postgres.is_running())
    running.come_back()

    assert [result_of(running, task)["status"] for task in tasks] == ["completed"] * 3


def test_a_killed_postgres_takes_no_child_along(running: Up) -> None:
    before = {role: running.child("asynch", role).pid for role in ("api", "worker")}
    postgres = running.child("postgres", "--port")
    postgres.kill()
    until(lambda: not postgres.is_running())
    running.come_back()

    assert {role: running.child("asynch", role).pid for role in ("api", "worker")} == before


def test_a_postgres_that_ends_again_as_soon_as_it_is_there_is_started_again(running: Up) -> None:
    def starts() -> int:
        return (running.data_dir / "postgres.log").read_text().count("ready to accept connections")

    before = starts()
    for turn in range(3):
        until(lambda: starts() >= before + turn)  # noqa: B023 - asked before the next turn
        sleep(0.03 * turn)
        postgres = running.child("postgres", "--port")
        postgres.kill()
        until(partial(lambda ended: not ended.is_running(), postgres))

    running.come_back()


def test_a_postgres_that_lost_its_port_comes_back_on_another(running: Up, model: ModelServer) -> None:
    supervisor, postgres = psutil.Process(running.process.pid), running.child("postgres", "--port")
    port = port_of(postgres)
    supervisor.suspend()
    postgres.kill()
    until(lambda: postgres.status() == psutil.STATUS_ZOMBIE)
    with taken(port):
        supervisor.resume()
        until(lambda: not postgres.is_running())
        running.come_back()
        assert port_of(running.child("postgres", "--port")) != port
        assert result_of(running, create(running, model))["status"] == "completed"


def test_a_second_up_on_the_directory_says_so_and_ends_with_2(running: Up) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "asynch", "up", "--data-dir", running.data_dir,
         "--port", running.url.rpartition(":")[2]],  # not even the port is free
        capture_output=True, text=True, cwd=REPOSITORY, env=clean_environ(), timeout=30, check=False,
    )  # fmt: skip

    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr.splitlines() == [
        f"asynch: {running.data_dir} is in use: asynch is already running there (pid {running.process.pid})"
    ]
    assert running.is_ready()


def test_a_port_in_use_ends_it_with_2_and_stops_postgres(home: Path) -> None:
    with ModelServer() as other, up(home, "--port", str(other.port), wait=False) as running:
        assert running.process.wait(30) == 2
        assert f"server.host:port = 127.0.0.1:{other.port}" in running.errors.read_text().splitlines()[-1]

    with up(home) as running:
        assert running.is_ready()


def test_a_child_that_cannot_start_tells_its_own_reason(home: Path) -> None:
    blocked = home.with_name("not-a-directory")
    blocked.write_text("")
    before = len(home.with_name("data.stderr").read_text())
    with up(home, wait=False, ASYNCH_WORKER__TMP_DIR=str(blocked / "tmp")) as running:
        assert running.process.wait(40) == 2

    said = [line for line in running.errors.read_text()[before:].splitlines() if line.startswith("asynch: ")]
    assert said[0].startswith("asynch: worker.tmp_dir")
    ends = [f"asynch: {role} ended with exit code 2, it said why above" for role in ("api", "worker")]
    assert said[-1] in ends  # both use the directory


def test_without_a_worker_tasks_wait(home: Path, model: ModelServer) -> None:
    with up(home, ASYNCH_WORKER__ENABLED="false") as running:
        task = create(running, model)
        with pytest.raises(AssertionError, match="no child"):
            running.child("asynch", "worker")
        (item,) = running.post("/task/getTaskBatch", {"taskIds": [task], "waitSeconds": 1})["list"]

    assert item["status"] == "pending"


def test_a_configured_database_is_used_and_left_running(home: Path, dsn: str, model: ModelServer) -> None:
    with up(home.with_name("own"), ASYNCH_DATABASE__DSN=dsn) as running:
        assert result_of(running, create(running, model))["status"] == "completed"
        assert [p for p in running.descendants().values() if p.name() == "postgres"] == []


def test_nothing_it_said_was_a_traceback(home: Path) -> None:
    assert "Traceback" not in home.with_name(f"{home.name}.stderr").read_text()
