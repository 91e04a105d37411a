"""Row 9: how soon the tasks of a worker run again that was killed, or that stands still."""

from __future__ import annotations

import signal
import subprocess
from contextlib import ExitStack
from time import monotonic

from asynch.cleaner.leader import LEADER_LOCK
from tests.bench import model, stock
from tests.bench.figures import Figure
from tests.bench.model import Model
from tests.bench.place import Bench, BenchError, Site, until

_TASKS = 30
_THREADS = 32  #: enough for the other worker to take them all


def run(bench: Bench) -> list[Figure]:
    """Of two workers always the one that leads the cleaner."""
    return [
        _figure(bench, "kill -9 → its tasks run again", signal.SIGKILL, 3.0),
        _figure(bench, "SIGSTOP → its tasks run again", signal.SIGSTOP, 20.0),
    ]


def _figure(bench: Bench, name: str, number: signal.Signals, target: float) -> Figure:
    took = [_once(bench, number) for _ in range(bench.scaled(3, 1))]
    return Figure(name, max(took), "s", target, at_most=True, parts={"each": took})


def _once(bench: Bench, number: signal.Signals) -> float:
    """Seconds until the last of its tasks was called again; BenchError when one is lost or delivered twice."""
    with bench.site() as site, model.serving(site.home) as service, ExitStack() as stack:
        lanes = stock.add_lanes(site, slots=_TASKS, url=service.url, route="once")
        leader = stack.enter_context(site.worker(threads=_THREADS))
        stock.add_tasks(site, lanes, _TASKS)
        until(lambda: len(service.calls()) == _TASKS, 30, what="the first calls")
        until(lambda: _leads(site, leader), 30, what="leading the cleaner")
        stack.enter_context(site.worker(threads=_THREADS))
        struck = _running(site, leader)
        ended = monotonic()
        leader.send_signal(number)
        again = until(lambda: _second_calls(service, struck), 60, what="the second calls")
        leader.send_signal(signal.SIGCONT)  # what it does now, it does too late
        _check(site, service, struck)
        return max(again) - ended


def _leads(site: Site, worker: subprocess.Popen[bytes]) -> bool:
    """Whether its session holds the leader's lock."""
    found = site.ask(
        "SELECT w.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
        "JOIN asynch_worker w ON a.application_name = 'asynch-worker-' || w.id "
        "WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database() "
        "AND (l.classid::bigint << 32) | l.objid::bigint = %s AND l.objsubid = 1",
        LEADER_LOCK,
    )
    return [row["pid"] for row in found] == [worker.pid]


def _running(site: Site, worker: subprocess.Popen[bytes]) -> set[str]:
    """Ids of the calls a worker has open."""
    found = site.ask(
        "SELECT t.task_id FROM asynch_task t JOIN asynch_worker w ON w.id = t.worker_id WHERE t.state = 1 AND w.pid = %s",
        worker.pid,
    )
    if not found:
        raise BenchError("the worker that leads runs nothing")
    return {row["task_id"] for row in found}


def _second_calls(service: Model, struck: set[str]) -> list[float]:
    """When each was called again; nothing as long as one was not."""
    again = {task_id: at for task_id, attempt, at in service.calls() if attempt == 2 and task_id in struck}
    return list(again.values()) if again.keys() == struck else []


def _check(site: Site, service: Model, struck: set[str]) -> None:
    """Nothing lost, no result twice."""
    until(lambda: site.count("state = 2") == len(struck), 30, what="the delivery of what ran again")
    files = [path.name.split("-")[0] for path in site.files.rglob("*.json")]
    if sorted(files) != sorted(struck):
        raise BenchError(f"{len(struck)} tasks have {len(files)} results in storage")
    if len(service.calls()) != 2 * len(struck):
        raise BenchError(f"{len(struck)} tasks were called {len(service.calls())} times")
