"""Limits over several lanes, kept by real workers: a tenant's, a shared service's, and the breaker of a service."""

from __future__ import annotations

import threading

import pytest
import requests

from asynch.domain.states import State
from tests.chaos.farm import Farm
from tests.chaos.invariants import check_invariants
from tests.model_server import ModelServer
from tests.waiting import until

CALL_S = 0.15


def lanes(farm: Farm, *names: str, tenant_id: int = 0, **fields: object) -> list[str]:
    """Models of a tenant, each on a path of its own."""
    for name in names:
        body = {"modelName": name, "baseUrl": farm.model.url, "route": name, "maxConcurrency": 6, **fields}
        assert as_tenant(farm, tenant_id, "POST", "/model/createModel", body).status_code == 200
    return list(names)


def as_tenant(farm: Farm, tenant_id: int, method: str, path: str, body: object) -> requests.Response:
    user = f'{{"tenantId": {tenant_id}, "userName": "u", "role": "admin"}}'
    return farm.live.call(method, path, body, headers={"X-User-Info": user})


@pytest.mark.slow
def test_a_tenants_limit_holds_over_its_lanes_on_several_workers_and_over_a_death(farm: Farm) -> None:
    names = lanes(farm, "a", "b", "c")
    as_tenant(farm, 0, "PUT", "/tenant/updateTenant", {"maxConcurrency": 3})
    workers = [farm.start_worker(tmp=f"tmp-{n}") for n in range(2)]
    ids = [task for name in names for task in farm.create(*[{"sleep": CALL_S}] * 12, model=name)]

    until(lambda: len(farm.model.ledger.calls) >= 12)
    workers[0].kill()
    farm.start_worker(tmp="tmp-0")
    farm.finish(ids, 60)

    assert farm.model.ledger.max_open == 3
    assert set(farm.model.ledger.max_open_by_path) == {"/a", "/b", "/c"}
    check_invariants(farm)


@pytest.mark.slow
def test_a_shared_services_limit_holds_over_tenants_and_is_lifted(farm: Farm) -> None:
    ids = []
    for tenant, name in ((0, "a"), (7, "b")):
        lanes(farm, name, tenant_id=tenant)
        as_tenant(farm, tenant, "PUT", "/service/updateService", {"baseUrl": f"{farm.model.url}/", "maxConcurrency": 2})
    farm.start_worker(tmp="tmp-0")
    farm.start_worker(tmp="tmp-1")
    for tenant, name in ((0, "a"), (7, "b")):
        tasks = [{"modelName": name, "requestPayload": {"sleep": CALL_S}}] * 10
        answer = as_tenant(farm, tenant, "POST", "/task/createTaskBatch", {"tasks": tasks})
        ids += [int(item["taskId"]) for item in answer.json()["list"]]
    farm.finish(ids, 60)
    held = farm.model.ledger.max_open

    as_tenant(farm, 0, "PUT", "/service/updateService", {"baseUrl": farm.model.url, "maxConcurrency": 0})
    farm.finish(farm.create(*[{"sleep": 1.5}] * 6, model="a"), 30)

    assert held == 2
    assert farm.model.ledger.max_open == 6


@pytest.mark.slow
def test_a_service_that_fails_is_left_alone_but_for_single_probes_until_it_works(farm: Farm) -> None:
    port = farm.model.url.rpartition(":")[2]
    farm.model.stop()  # nobody listens: every call fails at once
    lanes(farm, "a", retryTimes=50, retryQueueMaxSeconds=-1)
    lanes(farm, "b", retryTimes=50, retryQueueMaxSeconds=-1)
    farm.start_worker(tmp="tmp-0")
    ids = [task for name in "ab" for task in farm.create(*[{}] * 40, model=name)]

    def breaker() -> dict[str, object]:
        found: dict[str, object] = farm.live.call("GET", "/model/getModel?modelName=b").json()["breaker"]
        return found

    def calls() -> int:
        return sum(row["attempt"] for row in farm.ask("SELECT attempt FROM asynch_task"))

    until(lambda: breaker()["state"] == "open", 30)
    threading.Event().wait(1.5)  # what a worker knows of a lane is a second old at most
    before = calls()
    until(lambda: breaker()["state"] == "half_open", 30)
    assert calls() - before <= 2
    with ModelServer(int(port)) as again:
        farm.finish(ids, 90)
        assert again.ledger.max_open >= 1

    assert {farm.task(task_id)["state"] for task_id in ids} == {State.SUCCEEDED}
    assert breaker() | {"calls": 0} == {"state": "closed", "calls": 0, "failures": 0, "openUntil": None}
