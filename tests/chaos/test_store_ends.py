"""A store that is down, and a tmp_dir that is full: models go on or claims stop, and nothing is called twice."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynch.domain.states import State
from tests.chaos.farm import Farm
from tests.chaos.invariants import check_invariants
from tests.proxy import Proxy
from tests.waiting import until


def test_models_go_on_while_the_store_is_down_and_nothing_is_called_twice(s3_farm: Farm, store_line: Proxy) -> None:
    farm = s3_farm
    farm.create_model(maxConcurrency=4)
    farm.start_worker()
    store_line.refuse()
    ids = farm.create(*[{"size": 3000}] * 60)  # more than all the uploaders' queues can hold

    until(lambda: all(farm.calls(task_id) for task_id in ids))
    until(lambda: farm.ask("SELECT 1 FROM asynch_task WHERE upload_failures > 0"))
    store_line.accept()

    check_invariants(farm)
    assert all(farm.calls(task_id) == [1] for task_id in ids)
    assert {row["state"] for row in farm.ask("SELECT state FROM asynch_task")} == {State.SUCCEEDED}


def test_claims_stop_above_tmp_max_until_the_store_takes_results_again(s3_farm: Farm, store_line: Proxy) -> None:
    farm = s3_farm
    farm.create_model(maxConcurrency=1)
    farm.start_worker(tmp_max="100KiB")
    store_line.refuse()
    ids = farm.create(*[{"sleep": 0.5, "size": 60_000}] * 8)

    told = until(lambda: [r for r in farm.ask("SELECT info->>'trouble' AS why FROM asynch_worker") if r["why"]])
    assert "tmp_max" in told[0]["why"]
    until(lambda: farm.model.ledger.open == 0)
    called = len(farm.model.ledger.calls)
    seen = farm.ask("SELECT seen_at FROM asynch_worker")
    until(lambda: farm.ask("SELECT seen_at FROM asynch_worker") != seen)
    assert called == len(farm.model.ledger.calls) < len(ids)
    store_line.accept()

    check_invariants(farm)
    assert all(farm.calls(task_id) == [1] for task_id in ids)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[str]:
    """The name of a tmp_dir of one megabyte."""
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield place.name
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_tmp_dir_sends_attempts_back_without_using_a_retry(farm: Farm, tiny_disk: str) -> None:
    farm.create_model()
    worker = farm.start_worker(tmp=tiny_disk)

    ids = farm.create(*[{"sleep": 0.2, "size": 900_000}] * 4)

    check_invariants(farm)
    assert worker.said("task released")
    rows = [farm.task(task_id) for task_id in ids]
    assert {(row["state"], row["retry_count"], row["crash_count"]) for row in rows} == {(State.SUCCEEDED, 0, 0)}


def test_a_death_at_released_on_a_full_tmp_dir_leaves_no_file(farm: Farm, tiny_disk: str) -> None:
    farm.create_model()
    victim = farm.start_worker(tmp=tiny_disk, crash_point="released")
    farm.create(*[{"sleep": 0.2, "size": 900_000}] * 6)
    victim.died_by_kill()
    for file in victim.tmp_dir.iterdir():
        os.utime(file, (0, 0))  # a sweep leaves young files alone, and until it comes the disk is full

    farm.start_worker(tmp=tiny_disk)

    check_invariants(farm, most_s=90)  # each look at a full disk doubles the pause before the next
