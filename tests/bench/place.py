"""Where the bench runs: a private Postgres as `asynch up` would start it, and the product's real processes on it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg
import yaml

from asynch import db
from asynch.embedded import EmbeddedPostgres
from asynch.processes import spawn
from asynch.service import schema
from tests.database import run_on
from tests.live import KEY

T = TypeVar("T")
_LOG_TAIL = 20


class BenchError(Exception):
    """A measurement that could not be made; the row says so and the others go on."""


class Skipped(Exception):
    """Something this row needs is not there."""


def until(condition: Callable[[], T], most_s: float, *, what: str, every_s: float = 0.02) -> T:
    """What the condition gives as soon as that is true; BenchError after `most_s`."""
    end, pause = monotonic() + most_s, threading.Event()
    while not (found := condition()):
        if monotonic() > end:
            raise BenchError(f"{what} did not come true in {most_s:g} s")
        pause.wait(every_s)
    return found


@contextmanager
def child(argv: list[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the bench's own that dies with it, and in any case at the end of the block."""
    with log.open("wb") as output:
        process = spawn(argv, death_signal=signal.SIGKILL, env={**_environ(), **(env or {})}, stdout=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ASYNCH_")}


def free_port() -> int:
    """A port of the loopback address that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Site:
    """One database with the product's schema, a directory, and what runs on the two."""

    dsn: str
    home: Path
    pool: db.Pool

    @property
    def files(self) -> Path:
        """Where local storage keeps results."""
        return self.home / "files"

    def ask(self, statement: str, *params: Any) -> list[db.Row]:
        """The rows of the bench's own question."""
        with db.connection(self.pool) as conn:
            return conn.execute(statement, params).fetchall()

    def count(self, where: str) -> int:
        """How many tasks are so."""
        return int(self.ask(f"SELECT count(*) AS n FROM asynch_task WHERE {where}")[0]["n"])

    def clear(self) -> None:
        """No task; models stay, and files, as where many were deleted a file system looks longer for room."""
        with db.transaction(self.pool) as conn:
            conn.execute(
                "TRUNCATE asynch_task, asynch_op_log, asynch_model_stat, asynch_model_tally, asynch_idempotency"
            )

    def config(self, **sections: Any) -> Path:
        """A config.yml: all defaults but the database, the directory, the key and these sections."""
        chosen = {"data_dir": str(self.home), "database": {"dsn": self.dsn}, "secrets": {"keys": [KEY]}, **sections}
        path = self.home / f"config-{uuid.uuid4().hex[:8]}.yml"
        path.write_text(yaml.safe_dump(chosen))
        return path

    @contextmanager
    def worker(self, *, sections: Mapping[str, Any] | None = None, **worker: Any) -> Iterator[subprocess.Popen[bytes]]:
        """`asynch worker`, once it claims; `sections` are further ones of its settings."""
        with self.workers(1, sections=sections, **worker) as (process,):
            yield process

    @contextmanager
    def workers(
        self, count: int, *, sections: Mapping[str, Any] | None = None, **worker: Any
    ) -> Iterator[list[subprocess.Popen[bytes]]]:
        """So many, started together, once all of them claim."""
        config = self.config(worker=worker, **(sections or {}))
        logs = [config.with_suffix(f".{n}.log") for n in range(count)]
        argv = [sys.executable, "-m", "asynch", "worker", "--config", str(config)]
        with ExitStack() as stack:
            processes = [stack.enter_context(child(argv, log)) for log in logs]
            for process, log in zip(processes, logs, strict=True):
                _until_it_says(process, log, "worker ready")
            yield processes

    @contextmanager
    def api(self) -> Iterator[str]:
        """`asynch api`; its URL once it answers."""
        port = free_port()
        config = self.config(server={"port": port})
        log = config.with_suffix(".log")
        with child([sys.executable, "-m", "asynch", "api", "--config", str(config)], log) as process:
            until_it_listens(process, log, port)
            yield f"http://127.0.0.1:{port}"


def _until_it_says(process: subprocess.Popen[bytes], log: Path, words: str) -> None:
    until(lambda: words in log.read_text(errors="replace") or process.poll() is not None, 60, what=words)
    _still_there(process, log)


def until_it_listens(process: subprocess.Popen[bytes], log: Path, port: int) -> None:
    """Wait for a server that was just started; BenchError with the end of its log when it ends instead."""

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0 or process.poll() is not None

    until(listens, 60, what=f"port {port}")
    _still_there(process, log)


def _still_there(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.poll() is not None:
        raise BenchError("\n".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL:]))


@dataclass(frozen=True)
class Bench:
    """The server all rows share, and how much of everything there shall be."""

    server: str
    home: Path
    quick: bool
    rows: int  #: of the table that the list row reads

    def scaled(self, full: int, quick: int) -> int:
        """A number of tasks, rows or seconds."""
        return quick if self.quick else full

    @contextmanager
    def site(self) -> Iterator[Site]:
        """A new database with the schema in it, and an empty directory, which stays until the bench ends."""
        name = f"bench_{uuid.uuid4().hex[:12]}"
        run_on(self.server, "CREATE DATABASE {}", name)
        home = self.home / name
        home.mkdir()
        dsn = urlsplit(self.server)._replace(path=f"/{name}").geturl()  # a URL: not every driver takes another form
        try:
            with db.open_pool(dsn, size=4, name="bench") as pool:
                schema.migrate(pool)
                yield Site(dsn, home, pool)
        finally:
            run_on(self.server, "DROP DATABASE {} WITH (FORCE)", name)


@contextmanager
def private_postgres(home: Path) -> Iterator[str]:
    """The embedded server with its own settings and fsync on; only checkpoints are rarer, for less noise."""
    with ExitStack() as held:
        server = EmbeddedPostgres(home / "server")
        held.callback(server.stop)
        dsn = server.start()
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("ALTER SYSTEM SET max_wal_size = '8GB'")
            conn.execute("ALTER SYSTEM SET checkpoint_timeout = '30min'")
            conn.execute("SELECT pg_reload_conf()")
        yield dsn
