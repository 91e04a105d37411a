"""kill -9 at each named point of an attempt: another worker on the same tmp_dir finishes, and nothing is left over."""

from __future__ import annotations

import signal

import pytest

from asynch import settings
from asynch.domain.states import State
from asynch.worker.points import POINTS
from tests.chaos.farm import Farm
from tests.chaos.invariants import check_invariants, stored
from tests.proxy import Proxy
from tests.waiting import until

ON_THE_WAY = ("claimed", "tmp_created", "called", "synced", "saved", "stored", "delivered", "tmp_removed")
#: points that need a failure, a stop, a cancel to be reached; each has a test of its own below
ASIDE = ("linked", "failed", "released", "cancelled", "object_removed")
#: in test_models_work_on, test_callbacks_arrive and test_uploads_arrive
ELSEWHERE = ("deferred", "done", "adopted")


def test_every_point_has_its_death_here() -> None:
    assert {*ON_THE_WAY, *ASIDE, *ELSEWHERE} == set(POINTS)


@pytest.mark.parametrize("point", ON_THE_WAY)
def test_a_task_survives_a_death_at(farm: Farm, point: str) -> None:
    farm.create_model()
    victim = farm.start_worker(crash_point=point)
    task_id, *_ = farm.create({"size": 3000})

    victim.died_by_kill()
    farm.start_worker()

    check_invariants(farm)
    assert farm.task(task_id)["state"] == State.SUCCEEDED


def test_a_result_that_was_linked_is_no_object_after_a_death_at_linked(farm: Farm) -> None:
    farm.create_model(maxConcurrency=1)
    victim = farm.start_worker(crash_point="linked")
    farm.create(*({"size": 3000 + n} for n in range(6)))  # the first brings storage to know its directory

    victim.died_by_kill()
    succeeded = farm.ask("SELECT id FROM asynch_task WHERE state = 2")
    assert len(list(stored(settings.build(farm.sections)))) > len(succeeded)
    farm.start_worker()

    check_invariants(farm)


def test_a_failed_call_is_tried_again_after_a_death_at_failed(farm: Farm) -> None:
    farm.create_model(retryTimes=1)
    victim = farm.start_worker(crash_point="failed")
    task_id, *_ = farm.create({"fail_times": 1})

    victim.died_by_kill()
    farm.start_worker()

    check_invariants(farm)
    row = farm.task(task_id)
    assert (row["state"], row["retry_count"], row["crash_count"]) == (State.SUCCEEDED, 1, 0)


def test_a_drained_task_runs_again_after_a_death_at_released(farm: Farm) -> None:
    farm.create_model()
    victim = farm.start_worker(crash_point="released", drain_timeout=0)
    task_id, *_ = farm.create({"sleep": 2})
    until(lambda: farm.calls(task_id))

    victim.send(signal.SIGTERM)
    victim.died_by_kill()
    farm.start_worker()

    check_invariants(farm)
    row = farm.task(task_id)
    assert (row["state"], row["retry_count"], row["crash_count"]) == (State.SUCCEEDED, 0, 0)


def test_a_cancelled_task_stays_cancelled_after_a_death_at_cancelled(farm: Farm) -> None:
    farm.create_model()
    victim = farm.start_worker(crash_point="cancelled")
    task_id, *_ = farm.create({"hang": True})
    until(lambda: farm.calls(task_id))

    farm.cancel(task_id)
    victim.died_by_kill()
    farm.start_worker()

    farm.finish()
    assert farm.task(task_id)["state"] == State.CANCELLED
    check_invariants(farm)


def test_the_object_of_a_cancelled_upload_is_gone_after_a_death_at_object_removed(
    s3_farm: Farm, store_line: Proxy
) -> None:
    farm = s3_farm
    farm.create_model()
    first = farm.start_worker(tmp="other")
    farm.create({"size": 10})
    farm.finish()  # the bucket is there, so the next upload is one request
    first.kill()
    victim = farm.start_worker(crash_point="object_removed")
    store_line.stall()
    task_id, *_ = farm.create({"size": 3000})
    until(lambda: farm.task(task_id)["phase"] == 1 and farm.task(task_id)["state"] == State.RUNNING)

    farm.cancel(task_id)
    until(lambda: farm.has_heard_of_cancel(victim, task_id))
    store_line.resume()
    victim.died_by_kill()
    farm.start_worker()

    farm.finish()
    assert farm.task(task_id)["state"] == State.CANCELLED
    check_invariants(farm)
