"""Row 4: how long an idle installation takes from createTask to the call at the model."""

from __future__ import annotations

import threading
from statistics import median
from time import monotonic

import requests

from tests.bench import model, stock
from tests.bench.figures import Figure, percentile
from tests.bench.place import Bench, BenchError, until

_PAUSE_S = 0.03  #: so that each finds all idle


def run(bench: Bench) -> list[Figure]:
    """One task at a time, from before the request is sent."""
    times = bench.scaled(500, 100)
    with bench.site() as site, model.serving(site.home) as service:
        stock.add_lanes(site, slots=10, tenant=0, url=service.url, route="noop")
        with site.api() as url, site.worker(), requests.Session() as session:
            sent = dict(_created(session, url) for _ in range(times))
            until(lambda: len(service.calls()) >= times, 30, what="all calls")
            took = [1000 * (at - sent[task_id]) for task_id, _, at in service.calls()]
    parts = {"times": times, "max": max(took)}
    return [
        Figure("create → call when idle, p50", median(took), "ms", 15, at_most=True, parts=parts),
        Figure("create → call when idle, p99", percentile(took, 0.99), "ms", 100, at_most=True, parts=parts),
    ]


def _created(session: requests.Session, url: str) -> tuple[str, float]:
    threading.Event().wait(_PAUSE_S)
    began = monotonic()
    answer = session.post(f"{url}/task/createTask", json={"modelName": "m-0", "requestPayload": {"n": 1}}, timeout=30)
    if answer.status_code != 202:
        raise BenchError(f"createTask answered {answer.status_code}: {answer.text[:500]}")
    return answer.json()["taskId"], began
