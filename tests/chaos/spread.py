"""A farm whose API processes and workers run on hosts of their own, in front of one Postgres, one model, one store."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import requests
import yaml

from asynch import db, settings, wiring
from asynch.processes import spawn
from asynch.secretbox import SecretBox
from asynch.service import keys
from asynch.web import Parts
from tests.chaos.farm import QUICK, Farm, Worker
from tests.chaos.hosts import Host, Network
from tests.live import KEY, Live
from tests.model_server import ModelServer
from tests.waiting import until

TENANT = 7
_PORT = 8080


@dataclass
class Front:
    """One `asynch api` process on its host, and the way to talk to it."""

    host: Host
    live: Live
    process: subprocess.Popen[bytes]
    log: Path

    def status(self, path: str) -> int:
        """What a GET answers; 0 when nobody does."""
        try:
            return self.live.call("GET", path, timeout=60).status_code
        except requests.ConnectionError:
            return 0


@dataclass
class Spread(Farm):
    """Two API hosts and hosts for workers; tasks are created through the one and the other in turn."""

    fronts: list[Front] = field(default_factory=list)
    hosts: Mapping[str, Host] = field(default_factory=dict)

    def create(self, *payloads: Mapping[str, Any], model: str = "m") -> list[int]:
        """As a farm does, but each task through another API."""
        turns = zip(payloads, cycle(self.fronts), strict=False)
        return [self.create_through(front, payload, model=model) for payload, front in turns]

    def create_through(self, front: Front, payload: Mapping[str, Any], model: str = "m") -> int:
        """One task, accepted by this API; its id."""
        self.live = front.live
        return super().create(payload, model=model)[0]

    def start_on(self, *names: str, **worker: Any) -> list[Worker]:
        """A worker on each of these hosts, ready."""
        started = [self.start_worker(host=self.hosts[name], ready=False, **worker) for name in names]
        for one in started:
            until(lambda one=one: one.said("worker ready") or not one.alive, 40, what="the worker's start")
            assert one.alive, one.tail()
        return started

    def start_api(self, name: str, token: str, parts: Parts) -> None:
        """Another API process, which need not be ready yet."""
        host, home = self.hosts[name], self.home / name
        home.mkdir()
        config, log = home / "config.yml", home / "log"
        own = {
            "data_dir": str(home),
            "database": {"dsn": self.dsn},
            "server": {"host": host.address, "port": _PORT, "threads": 8},
            "auth": {"mode": "apikey"},
        }
        config.write_text(yaml.safe_dump({**self.sections, **own}))
        argv = [*host.inside, sys.executable, "-m", "asynch", "api", "--config", str(config)]
        with log.open("wb") as output:
            process = spawn(argv, death_signal=signal.SIGKILL, stdout=output)
        live = Live(f"http://{host.address}:{_PORT}", parts)
        live.session.trust_env = False
        live.session.headers["Authorization"] = f"Bearer {token}"
        self.fronts.append(Front(host, live, process, log))

    def lose(self, worker: Worker, name: str) -> None:
        """A host is gone for good, with everything on it."""
        self.hosts[name].lose()
        worker.process.wait(10)
        shutil.rmtree(self.home / name)
        self.tmp_dirs.discard(worker.tmp_dir)

    def ran_on(self, task_id: int) -> list[str]:
        """The hosts of a task's attempts, in order, as it tells them."""
        return [record["host"] for record in self.task(task_id)["attempts"] if record["phase"] == 0]


@contextmanager
def spreading(
    dsn: str, home: Path, network: Network, *, apis: Sequence[str], workers: Sequence[str], storage: Mapping[str, Any]
) -> Iterator[Spread]:
    """A farm with its API processes ready and no worker yet; every host is removed at the end."""
    with ExitStack() as stack:
        hosts = {}
        for name in (*apis, *workers):
            hosts[name] = network.add(name)
            stack.callback(hosts[name].remove)
        pool = stack.enter_context(db.open_pool(dsn, size=4, name="chaos-tests"))
        model = stack.enter_context(ModelServer(host=network.model))
        sections = {
            **QUICK,
            "data_dir": str(home),
            "secrets": {"keys": [KEY]},
            "storage": storage,
            "egress": {"models_allow": [network.model]},
        }
        built, box = settings.build(sections), SecretBox([KEY])
        parts = Parts(built, pool, box, wiring.make_storage(built, box))
        farm = Spread(dsn, home, pool, Live("", parts), model, sections, hosts=hosts)
        _, token = keys.create_key(pool, TENANT, "tests")
        try:
            for name in apis:
                farm.start_api(name, token, parts)
            until(
                lambda: all(front.status("/readyz") == 200 for front in farm.fronts), 60, what="the start of all APIs"
            )
            farm.live = farm.fronts[0].live
            yield farm
        except BaseException:
            for log in home.rglob("*log"):
                print(f"--- {log.relative_to(home)}\n{log.read_text(errors='replace')[-6000:]}")
            raise
        finally:
            farm.kill_workers()
            for front in farm.fronts:
                front.live.session.close()
                front.process.kill()
                front.process.wait(10)
