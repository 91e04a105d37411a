"""Row 13: the drain beside other queues that do the same call and leave the same fsynced file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from statistics import median
from time import monotonic

from tests.bench import drain, floor, model, stock
from tests.bench.figures import Figure
from tests.bench.model import Model
from tests.bench.peers import job
from tests.bench.place import Bench, BenchError, Site, Skipped, child, until

#: What each needs to be installed; the extra `bench` brings them.
_NEEDS = {
    "procrastinate": ("procrastinate",),
    "pgqueuer": ("pgqueuer", "asyncpg"),
    "celery": ("celery", "redis"),
    "dramatiq": ("dramatiq", "redis"),
}
_ON_REDIS = ("celery", "dramatiq")
_REDIS = "redis://127.0.0.1:6379/15"
_LANES = 4


def run(bench: Bench) -> list[Figure]:
    """With one worker process and with two: our median rate / that of the best of them."""
    peers = [name for name, modules in _NEEDS.items() if all(map(find_spec, modules))]
    with ExitStack() as stack:
        if not (redis := stack.enter_context(_redis())):
            peers = [name for name in peers if name not in _ON_REDIS]
        if not peers:
            raise Skipped("no peer is installed: pip install '.[bench]'")
        missing = sorted(_NEEDS.keys() - peers)
        return [_figure(bench, peers, workers, {"missing": missing, "redis": redis}) for workers in (1, 2)]


@contextmanager
def _redis() -> Iterator[bool]:
    """Whether there is a Redis whose database 15 is empty; it is emptied again afterwards."""
    if not find_spec("redis"):
        yield False
        return
    import redis

    client = redis.Redis.from_url(_REDIS)
    try:
        usable = client.dbsize() == 0
    except redis.ConnectionError:
        usable = False
    yield usable
    if usable:
        client.flushdb()


def _figure(bench: Bench, peers: list[str], workers: int, notes: dict[str, object]) -> Figure:
    """All in turn, as often as it takes; a peer's place in the turn is always the same."""
    tasks = bench.scaled(6000, 3000)
    rates: dict[str, list[float]] = {name: [] for name in ("asynch", *peers)}
    for _ in range(bench.scaled(3, 1)):
        for name, measured in rates.items():
            measured.append(_ours(bench, tasks, workers) if name == "asynch" else _rate(bench, name, tasks, workers))
    medians = {name: median(measured) for name, measured in rates.items()}
    best = max(peers, key=medians.__getitem__)
    name = f"drain, {workers} worker{'s' * (workers > 1)} / the best peer ({best})"
    return Figure(name, medians["asynch"] / medians[best], "x", 1.2, parts={"rates": rates, **notes})


def _ours(bench: Bench, tasks: int, workers: int) -> float:
    with bench.site() as site, model.serving(site.home) as service:
        lanes = stock.add_lanes(site, _LANES, slots=2 * floor.THREADS, url=service.url, route="noop")
        return drain.rate(site, service, lanes, tasks, workers=workers)


def _rate(bench: Bench, peer: str, tasks: int, workers: int) -> float:
    """Its workers start on a full queue, as ours do."""
    with bench.site() as site, model.serving(site.home) as service, ExitStack() as stack:
        argv, env = [sys.executable, "-m", f"tests.bench.peers.on_{peer}"], _environ(site, service)
        _fill(argv, env, tasks)
        for number in range(workers):
            stack.enter_context(child([*argv, "work"], site.home / f"{peer}-{number}.log", env))
        files = env[job.FILES]
        until(lambda: len(os.listdir(files)) >= tasks, 300, what=f"the last file of {peer}", every_s=0.05)
        return drain.steady(service, tasks, monotonic())


def _environ(site: Site, service: Model) -> dict[str, str]:
    files = site.home / "peer"
    files.mkdir()
    return {job.DSN: site.dsn, job.REDIS: _REDIS, job.URL: f"{service.url}/noop", job.FILES: str(files)}


def _fill(argv: list[str], env: dict[str, str], tasks: int) -> None:
    done = subprocess.run([*argv, "fill", str(tasks)], env=os.environ | env, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(done.stderr[-2000:])
