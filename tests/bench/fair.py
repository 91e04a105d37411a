"""Row 10: how long a small tenant waits behind one whose calls never end and one with very many lanes."""

from __future__ import annotations

from time import monotonic

import requests

from tests.bench import model, stock
from tests.bench.figures import Figure
from tests.bench.place import Bench, BenchError, until

_LONG, _WIDE, _SMALL = 101, 102, 1001  #: tenants; each try has a small one of its own
_LANES = 1000


def run(bench: Bench) -> list[Figure]:
    """From createTask to the call at the model, the longest of all tries."""
    tries = bench.scaled(20, 5)
    with bench.site() as site, model.serving(site.home) as service:
        long = stock.add_lanes(site, slots=200, tenant=_LONG, url=service.url, route="sleep/3600")
        wide = stock.add_lanes(site, _LANES, slots=10, tenant=_WIDE, url=service.url, route="sleep/2")
        stock.add_lanes(site, tries, slots=10, tenant=_SMALL, tenant_each=True, url=service.url, route="noop")
        with site.api() as url, site.worker(drain_timeout=0):
            stock.add_tasks(site, long, 200)
            until(lambda: len(service.calls()) >= 32, 30, what="a worker full of long calls")
            stock.add_tasks(site, wide, 3 * _LANES)
            until(lambda: len(service.calls()) >= 40, 60, what="a tenant with many lanes at work")
            sent = dict(_created(url, n) for n in range(tries))
            until(lambda: sent.keys() <= _seen(service).keys(), 60, what="the small tenants' calls")
            took = [_seen(service)[task_id] - at for task_id, at in sent.items()]
    parts = {"each": sorted(took)}
    return [Figure("a third tenant's task starts", max(took), "s", 1.0, at_most=True, parts=parts)]


def _seen(service: model.Model) -> dict[str, float]:
    return {task_id: at for task_id, _, at in service.calls()}


def _created(url: str, number: int) -> tuple[str, float]:
    info = f'{{"tenantId": {_SMALL + number}, "role": "user", "userName": "bench"}}'
    began = monotonic()
    body = {"modelName": f"m-{number}", "requestPayload": {"n": 1}}
    answer = requests.post(f"{url}/task/createTask", json=body, headers={"X-User-Info": info}, timeout=30)
    if answer.status_code != 202:
        raise BenchError(f"createTask answered {answer.status_code}: {answer.text[:500]}")
    return answer.json()["taskId"], began
