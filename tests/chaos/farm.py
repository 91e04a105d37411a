"""A whole installation for chaos: an API over HTTP, a model service, a store, and workers as real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from asynch import db, settings, wiring
from asynch.errors import DatabaseDown
from asynch.processes import spawn
from asynch.secretbox import SecretBox
from asynch.web import Parts
from tests.chaos.hosts import Host
from tests.live import KEY, Live, serving
from tests.model_server import ModelServer
from tests.programs import clean_environ
from tests.waiting import until

T = TypeVar("T")

#: Short times, so that a test waits for nothing but the promise itself.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "worker": {"threads": 8, "uploaders": 2, "poll_interval": 0.5, "drain_timeout": 10},
    "cleaner": {"interval": 1},
}
_LOG_TAIL = 40


@dataclass
class Worker:
    """One `asynch worker` process and its tmp_dir."""

    process: subprocess.Popen[bytes]
    tmp_dir: Path
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """A signal, to this process alone."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait(10)

    def died_by_kill(self, most_s: float = 20.0) -> None:
        """Wait until it has killed itself at its CRASH_POINT."""
        assert self.process.wait(most_s) == -signal.SIGKILL, self.tail()

    def stop(self, most_s: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(most_s)

    def said(self, words: str) -> int:
        """How often its log has these words."""
        return self.log.read_text(errors="replace").count(words)

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL:])


@dataclass
class Farm:
    """The parts, and what this test has asked of them."""

    dsn: str  #: of the API and of the test's own questions
    home: Path
    pool: db.Pool
    live: Live
    model: ModelServer
    sections: Mapping[str, Any]
    worker_dsn: str = ""  #: of the workers, where it differs
    workers: list[Worker] = field(default_factory=list)
    tmp_dirs: set[Path] = field(default_factory=set)
    accepted: dict[int, Mapping[str, Any]] = field(default_factory=dict)  #: 202'd id: its payload

    # -- workers -----------------------------------------------------------------------------------------------

    def start_worker(
        self,
        *,
        tmp: str = "tmp",
        crash_point: str = "",
        dsn: str = "",
        ready: bool = True,
        host: Host | None = None,
        **worker: Any,
    ) -> Worker:
        """Another worker, with `worker` on top of the farm's settings; `ready` waits until it claims."""
        home = self.home / host.name if host else self.home
        tmp_dir = home / tmp
        self.tmp_dirs.add(tmp_dir)
        number = len(self.workers)
        config = self.home / f"worker-{number}.yml"
        merged = {**self.sections, "data_dir": str(home), "database": {"dsn": dsn or self.worker_dsn or self.dsn}}
        merged["worker"] = {**merged["worker"], "tmp_dir": str(tmp_dir), **worker}
        config.write_text(yaml.safe_dump(merged))
        environ = clean_environ(**({"CRASH_POINT": crash_point} if crash_point else {}))
        log = self.home / f"worker-{number}.log"
        with log.open("wb") as output:
            argv = [*(host.inside if host else ()), sys.executable, "-m", "asynch", "worker", "--config", str(config)]
            process = spawn(argv, death_signal=signal.SIGKILL, env=environ, stdout=output)
        started = Worker(process, tmp_dir, log)
        self.workers.append(started)
        if ready:
            until(lambda: started.said("worker ready") or not started.alive, 30, what="the worker's start")
            assert started.alive, started.tail()
        return started

    def stop_workers(self) -> None:
        """SIGTERM to all, and wait; each must end by itself."""
        living = [worker for worker in self.workers if worker.alive]
        for worker in living:
            worker.process.terminate()
        for worker in living:
            assert worker.process.wait(30) == 0, worker.tail()

    def kill_workers(self) -> None:
        """End whatever is left."""
        for worker in self.workers:
            if worker.alive:
                worker.send(signal.SIGCONT)
                worker.kill()

    # -- the API -----------------------------------------------------------------------------------------------

    def create_model(self, name: str = "m", *, base_url: str = "", **fields: Any) -> str:
        """A model of the test's model service, on a path of its own; its name."""
        body = {"modelName": name, "baseUrl": base_url or self.model.url, "route": name, **fields}
        answer = self.live.call("POST", "/model/createModel", body)
        assert answer.status_code == 200, answer.text
        return name

    def create(self, *payloads: Mapping[str, Any], model: str = "m") -> list[int]:
        """Tasks, all of them accepted; their ids."""
        tasks = [{"modelName": model, "requestPayload": payload} for payload in payloads]
        answer = self.live.call("POST", "/task/createTaskBatch", {"tasks": tasks})
        assert answer.status_code == 202, answer.text
        listed = answer.json()["list"]
        assert all("taskId" in item for item in listed), listed
        ids = [int(item["taskId"]) for item in listed]
        self.accepted.update(zip(ids, payloads, strict=True))
        return ids

    def cancel(self, task_id: int) -> None:
        """The user ends a task."""
        answer = self.live.call("POST", f"/task/{task_id}/cancel")
        assert answer.status_code == 200, answer.text

    # -- the database ------------------------------------------------------------------------------------------

    def ask(self, statement: str, *params: Any) -> list[db.Row]:
        """The rows of a test's own question."""
        with db.connection(self.pool) as conn:
            return conn.execute(statement, params).fetchall()

    def task(self, task_id: int) -> db.Row:
        """One row."""
        (row,) = self.ask("SELECT * FROM asynch_task WHERE id = %s", task_id)
        return row

    def is_final(self, ids: Iterable[int]) -> bool:
        """Whether all of these are done, in whatever way; a database that is away does not say so."""
        try:
            (row,) = self.ask("SELECT count(*) AS n FROM asynch_task WHERE NOT final AND id = ANY(%s)", list(ids))
        except DatabaseDown:
            return False
        return bool(row["n"] == 0)

    def finish(self, ids: Iterable[int] | None = None, most_s: float = 30.0) -> None:
        """Wait until these tasks (else all) are final."""
        wanted = list(self.accepted if ids is None else ids)
        until(lambda: self.is_final(wanted), most_s, what="the end of all tasks")

    def sessions_of(self, like: str) -> list[int]:
        """Backends whose application_name is like this."""
        found = self.ask(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s", like
        )
        return [row["pid"] for row in found]

    def end_sessions(self, like: str) -> int:
        """pg_terminate_backend for those backends; how many."""
        pids = self.sessions_of(like)
        self.ask("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", pids)
        return len(pids)

    def worker_ids(self) -> dict[int, int]:
        """The living workers' process ids, with the worker ids they have now."""
        return {row["pid"]: row["id"] for row in self.ask("SELECT pid, max(id) AS id FROM asynch_worker GROUP BY pid")}

    def has_heard_of_cancel(self, worker: Worker, task_id: int) -> bool:
        """Whether the worker has asked for cancelled claims since this one was."""
        found = self.ask(
            "SELECT w.seen_at > t.updated_at AS heard FROM asynch_worker w, asynch_task t "
            "WHERE w.pid = %s AND t.id = %s",
            worker.pid,
            task_id,
        )
        return any(row["heard"] for row in found)

    # -- what is there -----------------------------------------------------------------------------------------

    def calls(self, task_id: int) -> list[int]:
        """The attempts of a task that the model service saw, in order."""
        return [entry.attempt for entry in self.model.ledger.of(str(task_id))]


@contextmanager
def farming(dsn: str, home: Path, *, sections: Mapping[str, Any] | None = None, worker_dsn: str = "") -> Iterator[Farm]:
    """A farm without workers; sections of the settings may be given, merged into the quick ones."""
    chosen: dict[str, Any] = {"data_dir": str(home), "secrets": {"keys": [KEY]}, **QUICK}
    for name, values in (sections or {}).items():
        chosen[name] = {**chosen.get(name, {}), **values}
    with ExitStack() as stack:
        pool = stack.enter_context(db.open_pool(dsn, size=4, name="chaos-api"))
        model = stack.enter_context(ModelServer())
        box = SecretBox([KEY])
        built = settings.build(chosen)
        live = stack.enter_context(serving(Parts(built, pool, box, wiring.make_storage(built, box))))
        farm = Farm(dsn, home, pool, live, model, chosen, worker_dsn)
        try:
            yield farm
        finally:
            farm.kill_workers()
            for number, worker in enumerate(farm.workers):  # shown where a test has failed
                print(f"--- worker {number} (pid {worker.pid})\n{worker.tail()}")
