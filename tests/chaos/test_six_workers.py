"""Six workers on one lane of three, with kills, session cuts and a store outage all the while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

import pytest

from asynch.domain.states import State
from tests.chaos.farm import Farm, Worker
from tests.chaos.invariants import check_invariants
from tests.waiting import until

WORKERS, LANE = 6, 3
CALL_S = 1.0
TASKS = 60
FULL = 0.85


@dataclass
class Watch:
    """How full the lane was, sampled."""

    samples: list[tuple[float, int]] = field(default_factory=list)

    def fullness(self, since: float, until: float) -> float:
        """The mean part of the lane that was in use between two times."""
        taken = [n for at, n in self.samples if since <= at <= until]
        return sum(taken) / len(taken) / LANE


@contextmanager
def watching(farm: Farm) -> Iterator[Watch]:
    """Look at the model service's open calls all the time."""
    watch, stop = Watch(), threading.Event()

    def look() -> None:
        while not stop.wait(0.01):
            watch.samples.append((monotonic(), farm.model.ledger.open_by_path.get("/m", 0)))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


def busy(farm: Farm, workers: list[Worker]) -> list[tuple[Worker, int]]:
    """The living workers that have a call in hand, with their ids."""
    found = farm.ask(
        "SELECT DISTINCT w.pid, w.id FROM asynch_worker w JOIN asynch_task t ON t.worker_id = w.id AND t.state = 1 "
        "AND t.phase = 0"
    )
    ids = {row["pid"]: row["id"] for row in found}
    return [(worker, ids[worker.pid]) for worker in workers if worker.alive and worker.pid in ids]


@pytest.mark.slow
@pytest.mark.alone
def test_a_lane_is_never_over_its_limit_and_full_while_there_is_work(farm: Farm) -> None:
    farm.create_model(maxConcurrency=LANE)
    # One thread each, so that three of six are at work: a death then costs one slot its second, not all three.
    workers = [farm.start_worker(tmp=f"tmp-{n}", ready=False, threads=1, reserve=1) for n in range(WORKERS)]
    until(lambda: all(worker.said("worker ready") for worker in workers), 60)
    store = farm.home / "files"

    with watching(farm) as watch:
        ids = farm.create(*[{"sleep": CALL_S, "size": 5000}] * TASKS)
        until(lambda: farm.model.ledger.open == LANE)
        began = monotonic()

        def at(share: float) -> None:
            until(lambda: len(farm.model.ledger.calls) >= share * TASKS, 60)

        def kill_one() -> None:
            victim = until(lambda: busy(farm, workers))[0][0]
            victim.kill()
            again = farm.start_worker(tmp=victim.tmp_dir.name, ready=False, threads=1, reserve=1)
            workers[workers.index(victim)] = again

        def cut_one() -> None:
            _, worker_id = until(lambda: busy(farm, workers))[-1]
            farm.end_sessions(f"asynch-worker-{worker_id}")

        at(0.1)
        kill_one()
        at(0.25)
        cut_one()
        at(0.4)
        store.rename(farm.home / "away")  # every put fails
        at(0.5)
        cut_one()
        at(0.6)
        (farm.home / "away").rename(store)
        at(0.7)
        kill_one()
        at(0.8)
        cut_one()
        until(lambda: len(farm.model.ledger.calls) >= TASKS - LANE, 60)
        ended = monotonic()

    check_invariants(farm, most_s=60)
    assert {farm.task(task_id)["state"] for task_id in ids} == {State.SUCCEEDED}
    assert farm.model.ledger.max_open_by_path["/m"] == LANE
    fullness = watch.fullness(began, ended)
    print(f"lane {fullness:.1%} full over {ended - began:.1f} s")
    assert fullness >= FULL
