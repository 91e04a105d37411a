"""Several hosts with a disk each on one Postgres: hosts that lose it, or their model, or are lost themselves."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from asynch import db, postmaster
from asynch.domain.states import State
from asynch.embedded import EmbeddedPostgres
from asynch.service import schema
from tests.chaos.hosts import Network, NetworkError
from tests.chaos.invariants import check_invariants
from tests.chaos.spread import Spread, spreading
from tests.database import run_on
from tests.proxy import Proxy
from tests.seaweed import Seaweed
from tests.waiting import until

pytestmark = pytest.mark.slow

APIS = ("api1", "api2")
WORKERS = ("w1", "w2", "w3")
#: contract 9.7: a worker that is frozen, silent or cut off
GIVEN_BACK_WITHIN_S = 20.0


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """The network of these tests; where there cannot be one a skip at home and a failure in CI."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(Network())
        except NetworkError as exc:
            missing = pytest.fail if os.environ.get("CI") else pytest.skip
            missing(f"no network namespaces: {exc}")
        yield made


@pytest.fixture(scope="module")
def base_server(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A superuser's DSN of a Postgres that listens on this network, for nobody else."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("base"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(postmaster.SETTINGS, "listen_addresses", f"127.0.0.1,{network.base}")
        dsn = server.start()
    try:
        with (server.data_dir / "postgres/pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {network.base}/24 scram-sha-256\n")
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("ALTER SYSTEM SET fsync = off")
            conn.execute("SELECT pg_reload_conf()")
        yield make_conninfo(dsn, host=network.base)
    finally:
        server.stop()


@pytest.fixture
def farm(base_server: str, network: Network, seaweed: Seaweed, tmp_path: Path) -> Iterator[Spread]:
    """Two API hosts that serve, and three hosts for workers."""
    name = f"hosts_{uuid.uuid4().hex[:12]}"
    run_on(base_server, "CREATE DATABASE {}", name)
    dsn = make_conninfo(base_server, dbname=name)
    with db.open_pool(dsn, size=1, name="tests") as pool:
        schema.migrate(pool)
    host, _, port = seaweed.endpoint.partition(":")
    with Proxy((host, int(port)), network.store) as line:
        minio: dict[str, Any] = {
            "endpoint": f"{network.store}:{line.port}",
            "access_key": seaweed.access_key,
            "secret_key": seaweed.secret_key,
            "bucket": f"hosts-{uuid.uuid4().hex[:12]}",
            "secure": False,
        }
        storage = {"backend": "minio", "minio": minio}
        with spreading(dsn, tmp_path, network, apis=APIS, workers=WORKERS, storage=storage) as running:
            yield running


def outcomes(farm: Spread, task_id: int, host: str) -> list[tuple[str, str | None]]:
    """How the attempts of a task on this host ended, and with which code."""
    records = farm.task(task_id)["attempts"]
    return [(record["outcome"], record["code"]) for record in records if record["host"] == host]


def test_all_hosts_share_the_work_and_keep_the_limit(farm: Spread) -> None:
    farm.create_model(maxConcurrency=8)
    farm.start_on(*WORKERS, threads=3, reserve=1)  # two of them are too few for the limit, three are too many

    ids = farm.create(*[{"sleep": 0.5, "size": 3000}] * 40)

    check_invariants(farm)
    assert {farm.task(task_id)["state"] for task_id in ids} == {State.SUCCEEDED}
    assert farm.model.ledger.max_open_by_path["/m"] == 8
    assert {host for task_id in ids for host in farm.ran_on(task_id)} == set(WORKERS)
    assert all(front.status(f"/task/{ids[0]}/result") == 303 for front in farm.fronts)


def test_a_host_cut_off_from_postgres_ends_its_calls_and_others_make_them(farm: Spread) -> None:
    network = farm.hosts["w1"].network
    farm.create_model(maxConcurrency=3)
    (cut,) = farm.start_on("w1")
    farm.hosts["w1"].cut(network.store)
    saved, *_ = farm.create({"size": 2000})
    until(lambda: farm.task(saved)["phase"] == 1)
    answered, hung = farm.create({"sleep": 2}, {"hang": True})
    until(lambda: farm.calls(answered) and farm.calls(hung))
    former = farm.worker_ids()[cut.pid]

    farm.hosts["w1"].cut(network.base)
    cut_at = monotonic()
    farm.start_on("w2", "w3")
    until(lambda: farm.calls(hung) == farm.calls(answered) == [1, 2], 30)
    assert monotonic() - cut_at <= GIVEN_BACK_WITHIN_S

    first, second = farm.model.ledger.of(str(hung))
    assert first.client_gone
    assert first.end is not None
    assert first.end < second.start
    farm.cancel(hung)
    farm.finish([answered])
    farm.hosts["w1"].mend()
    until(lambda: farm.worker_ids().get(cut.pid, former) != former, what="its new life")

    check_invariants(farm)
    assert farm.model.ledger.max_open_by_path["/m"] <= 3
    assert cut.said("attempt is void")
    assert farm.calls(saved) == [1]
    assert {outcome for task_id in (answered, hung) for outcome, _ in outcomes(farm, task_id, "w1")} == {"worker_lost"}
    row = farm.task(answered)
    assert (row["state"], row["retry_count"], row["crash_count"]) == (State.SUCCEEDED, 0, 1)
    assert row["oss_file"].endswith("-2.json")


def test_a_host_cut_off_from_the_model_fails_its_calls_until_others_make_them(farm: Spread) -> None:
    network = farm.hosts["w1"].network
    farm.create_model(maxConcurrency=4, timeoutSeconds=2, retryTimes=50)
    farm.start_on("w1", threads=2, reserve=1)
    begun, *_ = farm.create({"sleep": 1})
    until(lambda: farm.calls(begun))

    farm.hosts["w1"].cut(network.model)
    ids = farm.create(*[{"sleep": 0.2, "size": 2000}] * 3)
    until(lambda: farm.task(begun)["retry_count"] and any(farm.task(task_id)["retry_count"] for task_id in ids))
    others = farm.start_on("w2", "w3", threads=2, reserve=1)
    farm.finish()

    assert ("failed", "model_timeout") in outcomes(farm, begun, "w1")
    failures = {outcome for task_id in ids for outcome in outcomes(farm, task_id, "w1")}
    assert failures
    assert failures <= {("failed", "model_timeout"), ("failed", "model_connection")}
    assert {farm.task(task_id)["state"] for task_id in (begun, *ids)} == {State.SUCCEEDED}
    farm.hosts["w1"].mend()
    assert [worker.stop() for worker in others] == [0, 0]
    again, *_ = farm.create({"size": 2000})

    check_invariants(farm)
    assert farm.ran_on(again)[-1] == "w1"
    assert farm.task(again)["state"] == State.SUCCEEDED
    assert farm.model.ledger.max_open_by_path["/m"] <= 4


def test_what_a_lost_host_had_saved_is_called_again(farm: Spread) -> None:
    farm.create_model(maxConcurrency=4)
    (lost,) = farm.start_on("w1", tmp_host_grace="5s")
    farm.hosts["w1"].cut(farm.hosts["w1"].network.store)
    saved = farm.create(*[{"size": 2000}] * 3)
    until(lambda: all(farm.task(task_id)["phase"] == 1 for task_id in saved))
    calling, *_ = farm.create({"sleep": 2})
    until(lambda: farm.calls(calling))

    farm.lose(lost, "w1")
    lost_at = monotonic()
    farm.start_on("w2", "w3", tmp_host_grace="5s")
    until(lambda: farm.calls(calling) == [1, 2], 30)
    assert monotonic() - lost_at <= GIVEN_BACK_WITHIN_S

    check_invariants(farm)
    rows = [farm.task(task_id) for task_id in (*saved, calling)]
    assert {(row["state"], row["retry_count"]) for row in rows} == {(State.SUCCEEDED, 0)}
    assert all(farm.calls(task_id) == [1, 2] for task_id in saved)
    assert all(set(farm.ran_on(task_id)) - {"w1"} for task_id in saved)


def test_an_api_cut_off_from_postgres_says_so_and_the_other_goes_on(farm: Spread) -> None:
    whole, cut = farm.fronts
    farm.create_model()
    farm.start_on(*WORKERS)
    farm.create({"size": 10}, {"size": 10})

    cut.host.cut(cut.host.network.base)
    with ThreadPoolExecutor() as others:
        creation = others.submit(cut.live.call, "POST", "/task/createTask", {"modelName": "m"}, timeout=60)
        readiness = others.submit(cut.status, "/readyz")
        assert cut.status("/healthz") == 200
        farm.finish([farm.create_through(whole, {"size": 2000})])
        assert whole.status("/readyz") == 200

    assert creation.result().status_code == 503
    assert creation.result().json()["code"] == "database_down"
    assert readiness.result() == 503
    cut.host.mend()
    until(lambda: cut.status("/readyz") == 200)
    farm.finish([farm.create_through(cut, {"size": 2000})])
    check_invariants(farm)
    assert cut.process.poll() is None
