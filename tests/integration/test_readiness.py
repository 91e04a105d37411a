"""What systemd hears of real roles: ready when they can work and not before, and how long their end may take."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.programs import REPOSITORY, answers, environ, free_port
from tests.waiting import until


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(30)
        yield ear


@pytest.fixture
def bare_dsn(dsn: str) -> Iterator[str]:
    """A place in the database where no schema is yet."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA bare")
        yield f"{dsn} options='-c search_path=bare'"
        conn.execute("DROP SCHEMA bare CASCADE")


def has_heard(ear: socket.socket) -> bool:
    """Whether anything was said that was not read yet."""
    return bool(select.select([ear], [], [], 0)[0])


@contextmanager
def role(name: str, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "asynch", name], env=env, cwd=REPOSITORY)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()


def test_the_api_is_ready_when_its_database_is(tmp_path: Path, ear: socket.socket, bare_dsn: str) -> None:
    port = str(free_port())
    env = environ(tmp_path, bare_dsn)
    with role("api", {**env, "ASYNCH_SERVER__PORT": port, "NOTIFY_SOCKET": ear.getsockname()}):
        until(lambda: answers(f"http://127.0.0.1:{port}/healthz"), 30.0)
        assert not has_heard(ear)

        subprocess.run([sys.executable, "-m", "asynch", "migrate"], env=env, cwd=REPOSITORY, check=True)

        assert ear.recv(100) == b"READY=1"


def test_a_worker_asks_for_the_time_its_drain_needs(tmp_path: Path, ear: socket.socket, dsn: str) -> None:
    env = environ(tmp_path, dsn, ASYNCH_WORKER__DRAIN_TIMEOUT="5m")
    with role("worker", {**env, "NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "60000000"}) as worker:
        assert [ear.recv(100), ear.recv(100)] == [b"READY=1", b"WATCHDOG=1"]

        worker.terminate()

        assert ear.recv(100) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=330000000"
        assert worker.wait(20) == 0
