"""Workers that die while models work on by themselves: others ask on, and no model is called above its limit."""

from __future__ import annotations

import signal
from time import monotonic

from asynch.domain.states import State
from tests.chaos.farm import Farm
from tests.database import CALLS
from tests.model_jobs import Job
from tests.waiting import until

GOES_ON_WITHIN_S = 4.0


def working(**steer: object) -> dict[str, object]:
    return {"later": {"looks": 10**6, "retry_after": 0, **steer}}


def job_of(farm: Farm, task_id: int) -> Job:
    (job,) = until(lambda: farm.model.jobs.of(task_id))
    return job


def counted(farm: Farm) -> int:
    (row,) = farm.ask(f"SELECT sum(request_count)::int AS n FROM {CALLS}")
    return int(row["n"])


def test_a_killed_workers_tasks_are_asked_for_on_before_any_new_call(farm: Farm) -> None:
    farm.create_model(maxConcurrency=2, timeoutSeconds=600)
    victim = farm.start_worker(tmp="a")
    ids = farm.create(working(), working())
    jobs = [job_of(farm, task_id) for task_id in ids]
    until(lambda: all(job.looks for job in jobs))
    heir = farm.start_worker(tmp="b")
    urgent = farm.create(*[{}] * 5)

    victim.kill()
    killed_at, looks = monotonic(), [len(job.looks) for job in jobs]
    until(lambda: all(len(job.looks) > n for job, n in zip(jobs, looks, strict=True)), 10)
    assert monotonic() - killed_at <= GOES_ON_WITHIN_S
    until(lambda: all(len(job.looks) > n + 4 for job, n in zip(jobs, looks, strict=True)), 10)
    assert [farm.calls(task_id) for task_id in urgent] == [[]] * 5  # the model had its two jobs all the while
    for job in jobs:
        job.steer = {}
    farm.finish()

    assert {farm.task(task_id)["state"] for task_id in (*ids, *urgent)} == {State.SUCCEEDED}
    assert all(farm.calls(task_id) == [1] for task_id in (*ids, *urgent))
    rows = [farm.task(task_id) for task_id in ids]
    assert {(row["attempt"], row["retry_count"], row["crash_count"]) for row in rows} == {(2, 0, 0)}
    assert counted(farm) == 7
    assert heir.alive


def test_one_that_outlives_every_worker_is_nobodys_poison(farm: Farm) -> None:
    farm.create_model(timeoutSeconds=600)
    task_id, *_ = farm.create(working())
    for number in range(3):
        victim = farm.start_worker(tmp=f"t{number}", max_crashes=1)
        job = job_of(farm, task_id)
        looks = len(job.looks)
        until(lambda job=job, looks=looks: len(job.looks) > looks, what="a look")
        victim.kill()
    job.steer = {}
    farm.start_worker(max_crashes=1)

    farm.finish()
    row = farm.task(task_id)
    assert (row["state"], row["crash_count"], farm.calls(task_id)) == (State.SUCCEEDED, 0, [1])
    assert [line["outcome"] for line in row["attempts"]] == ["deferred", *["worker_lost"] * 3, "saved", "delivered"]


def test_a_task_goes_on_after_a_death_at_deferred(farm: Farm) -> None:
    farm.create_model(timeoutSeconds=600)
    victim = farm.start_worker(crash_point="deferred")
    task_id, *_ = farm.create(working(looks=1))

    victim.died_by_kill()
    farm.start_worker()

    farm.finish()
    row = farm.task(task_id)
    assert (row["state"], row["attempt"], row["crash_count"], farm.calls(task_id)) == (State.SUCCEEDED, 2, 0, [1])


def test_a_frozen_worker_that_thaws_finds_its_task_in_other_hands(farm: Farm) -> None:
    farm.create_model(timeoutSeconds=600)
    frozen = farm.start_worker(tmp="a")
    task_id, *_ = farm.create(working())
    job = job_of(farm, task_id)
    until(lambda: job.looks)
    frozen.send(signal.SIGSTOP)
    farm.end_sessions(f"asynch-worker-{farm.worker_ids()[frozen.pid]}%")
    farm.start_worker(tmp="b")
    until(lambda: farm.task(task_id)["attempt"] == 2)
    frozen.send(signal.SIGCONT)
    until(lambda: frozen.said("attempt is void") or frozen.said("claim session lost"))
    job.steer = {}

    farm.finish()
    row = farm.task(task_id)
    assert (row["state"], row["attempt"], farm.calls(task_id)) == (State.SUCCEEDED, 2, [1])
    farm.stop_workers()
