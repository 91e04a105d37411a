"""Postgres that stops, crashes, hangs or loses connections: the same worker processes go on, nobody is charged."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from asynch.domain.states import State
from tests.chaos.conftest import Base
from tests.chaos.farm import Farm, Worker
from tests.chaos.invariants import check_invariants
from tests.proxy import Proxy
from tests.waiting import until

SILENCE_IS_NOTICED_S = 15.0


def load(farm: Farm, *, calls: int = 4) -> tuple[list[Worker], list[int]]:
    """Two workers in the middle of calls, with more to do."""
    farm.create_model(maxConcurrency=calls)
    workers = [farm.start_worker(tmp="a"), farm.start_worker(tmp="b")]
    ids = farm.create(*[{"sleep": 1, "size": 3000}] * (2 * calls))
    until(lambda: farm.model.ledger.open == calls)
    return workers, ids


def assert_survived(farm: Farm, workers: list[Worker], *, crashes: int = 0) -> None:
    check_invariants(farm)
    assert all(worker.process.returncode == 0 for worker in workers)
    rows = farm.ask("SELECT state, retry_count, crash_count FROM asynch_task")
    assert {row["state"] for row in rows} == {State.SUCCEEDED}
    assert max(row["retry_count"] for row in rows) == 0
    assert max(row["crash_count"] for row in rows) <= crashes
    assert farm.model.ledger.max_open_by_path["/m"] <= 4


def stopped(base: Base) -> None:
    base.server.stop()


def killed(base: Base) -> None:
    base.kill()


@pytest.mark.parametrize("end", [stopped, killed])
def test_workers_survive_a_postgres_that_is(base: Base, base_farm: Farm, end: Callable[[Base], None]) -> None:
    workers, _ = load(base_farm)

    end(base)
    until(lambda: base_farm.model.ledger.open == 0, what="the cut of all calls")
    base.server.start()

    assert_survived(base_farm, workers)


def test_a_crashed_backend_restarts_the_database_and_charges_nobody(base_farm: Farm) -> None:
    farm = base_farm
    workers, _ = load(farm)
    backend = farm.sessions_of("asynch-worker-%")[0]

    os.kill(backend, signal.SIGKILL)

    until(lambda: workers[0].said("claim session lost") and workers[1].said("claim session lost"))
    assert_survived(farm, workers)


def test_a_worker_whose_claim_session_is_ended_starts_over(farm: Farm) -> None:
    workers, _ = load(farm)
    former = farm.worker_ids()

    farm.end_sessions(f"asynch-worker-{former[workers[0].pid]}")

    until(lambda: farm.worker_ids().get(workers[0].pid, 0) > max(former.values()), what="its new id")
    assert_survived(farm, workers, crashes=1)


def test_workers_survive_a_cut_of_all_connections(far_farm: Farm, base_line: Proxy) -> None:
    workers, _ = load(far_farm)

    assert base_line.cut() >= 4

    assert_survived(far_farm, workers)


def test_workers_survive_a_database_that_cannot_be_reached(far_farm: Farm, base_line: Proxy) -> None:
    workers, _ = load(far_farm)

    base_line.refuse()
    until(lambda: far_farm.model.ledger.open == 0, what="the cut of all calls")
    base_line.accept()

    # Who is back a second before the other takes it for dead, as it might well be.
    assert_survived(far_farm, workers, crashes=1)


@pytest.mark.slow
def test_workers_survive_connections_that_go_silent_for_ever(far_farm: Farm, base_line: Proxy) -> None:
    farm = far_farm
    workers, _ = load(farm)

    base_line.freeze()

    until(
        lambda: all(worker.said("worker ready") == 2 for worker in workers),
        SILENCE_IS_NOTICED_S,
        what="a new life of both",
    )
    assert_survived(farm, workers, crashes=1)


@pytest.mark.slow
def test_workers_survive_a_database_that_hangs_for_a_while(far_farm: Farm, base_line: Proxy) -> None:
    farm = far_farm
    workers, _ = load(farm)

    base_line.stall()
    until(
        lambda: all(worker.said("the claim session does not answer") for worker in workers),
        SILENCE_IS_NOTICED_S,
        what="that the silence is noticed",
    )
    until(lambda: farm.model.ledger.open == 0, what="the cut of all calls")
    base_line.resume()

    assert_survived(farm, workers, crashes=1)
