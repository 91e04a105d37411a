"""Workers that are killed, frozen, stopped or poisoned: their tasks go on, and nothing late is believed."""

from __future__ import annotations

import signal
from time import monotonic

import pytest

from asynch.domain.states import State
from tests.chaos.farm import Farm, Worker
from tests.chaos.invariants import check_invariants
from tests.proxy import Proxy
from tests.waiting import until

RUNS_AGAIN_WITHIN_S = 3.0
THAWS_WITHIN_S = 20.0


def running_on(farm: Farm, worker: Worker) -> list[int]:
    """The tasks whose call this process has in hand."""
    rows = farm.ask(
        "SELECT t.id FROM asynch_task t JOIN asynch_worker w ON w.id = t.worker_id "
        "WHERE t.state = 1 AND t.phase = 0 AND w.pid = %s",
        worker.pid,
    )
    return [row["id"] for row in rows]


@pytest.mark.alone
def test_a_killed_leaders_tasks_run_again_within_three_seconds(farm: Farm) -> None:
    farm.create_model(retryTimes=1)
    leader = farm.start_worker(tmp="a")
    until(lambda: leader.said("leading the cleaner"))
    other = farm.start_worker(tmp="b")
    other.send(signal.SIGSTOP)  # else it may be the one that takes them all
    farm.create(*[{"sleep": 2, "size": 2000}] * 6)
    victims = until(lambda: len(found := running_on(farm, leader)) >= 2 and found)
    other.send(signal.SIGCONT)

    leader.kill()
    killed_at = monotonic()
    until(lambda: all(2 in farm.calls(task_id) for task_id in victims), 10)

    assert monotonic() - killed_at <= RUNS_AGAIN_WITHIN_S
    farm.create({"fail_times": 1})  # needs a cleaner
    check_invariants(farm)
    assert other.said("leading the cleaner")


@pytest.mark.slow
def test_a_frozen_workers_tasks_run_again_and_its_late_writes_are_refused(s3_farm: Farm, store_line: Proxy) -> None:
    farm = s3_farm
    farm.create_model()
    frozen = farm.start_worker(tmp="a")
    store_line.stall()
    uploading, *_ = farm.create({"size": 2000})
    until(lambda: farm.task(uploading)["phase"] == 1)
    calling, *_ = farm.create({"sleep": 2})
    until(lambda: farm.calls(calling))
    frozen.send(signal.SIGSTOP)
    frozen_at = monotonic()
    store_line.resume()
    farm.cancel(uploading)
    former = farm.worker_ids()[frozen.pid]
    farm.start_worker(tmp="b")

    until(lambda: farm.calls(calling) == [1, 2], 30)
    assert monotonic() - frozen_at <= THAWS_WITHIN_S
    frozen.send(signal.SIGCONT)

    until(lambda: farm.worker_ids().get(frozen.pid, former) != former, what="its new life")
    farm.finish()
    assert farm.task(uploading)["state"] == State.CANCELLED
    until(lambda: frozen.said("upload is void"))
    check_invariants(farm)
    row = farm.task(calling)
    assert (row["state"], row["retry_count"], row["crash_count"]) == (State.SUCCEEDED, 0, 1)
    assert row["oss_file"].endswith("-2.json")
    assert frozen.said("attempt is void")


def test_a_stopped_worker_gives_back_what_it_cannot_end(farm: Farm) -> None:
    farm.create_model()
    worker = farm.start_worker(drain_timeout=1)
    quick, slow, waiting, *_ = farm.create({"sleep": 1}, {"hang": True}, {"sleep": 0.1, "size": 10})[:3]
    until(lambda: farm.calls(quick) and farm.calls(slow))

    assert worker.stop() == 0

    row = farm.task(slow)
    assert (row["state"], row["phase"], row["retry_count"], row["crash_count"]) == (State.PENDING, 0, 0, 0)
    assert row["enqueue_at"] == row["created_at"]
    assert farm.task(quick)["state"] in (State.SUCCEEDED, State.PENDING)
    check_invariants(farm, pending=[slow, quick, waiting])


def test_a_worker_stopped_while_the_store_hangs_leaves_its_results_to_the_next(
    s3_farm: Farm, store_line: Proxy
) -> None:
    farm = s3_farm
    farm.create_model()
    worker = farm.start_worker(drain_timeout=1)
    store_line.stall()
    ids = farm.create(*[{"size": 2000}] * 5)
    until(lambda: all(farm.task(task_id)["phase"] == 1 for task_id in ids))

    assert worker.stop(12) == 0
    assert {farm.task(task_id)["state"] for task_id in ids} == {State.PENDING}
    store_line.resume()
    farm.start_worker()

    check_invariants(farm)
    assert all(farm.calls(task_id) == [1] for task_id in ids)


def test_a_task_that_kills_its_workers_fails_as_crashed(farm: Farm) -> None:
    farm.create_model()
    workers = [farm.start_worker(tmp=f"t{n}", crash_point="called", max_crashes=2) for n in range(2)]
    poison, *_ = farm.create({"size": 10})

    for worker in workers:
        worker.died_by_kill()
    farm.start_worker(max_crashes=2)

    check_invariants(farm)
    row = farm.task(poison)
    assert (row["state"], row["error_code"], row["crash_count"]) == (State.FAILED, "crashed", 2)
