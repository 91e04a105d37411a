"""Rows 5 and 6: createTask beside a view that runs one INSERT, createTaskBatch beside a COPY of the same rows."""

from __future__ import annotations

import json
from time import monotonic

import psycopg
import requests

from tests.bench import insert_view, pressure, stock
from tests.bench.figures import Figure, alternated
from tests.bench.place import Bench, BenchError, Site

_BATCH = 10_000
#: What the server does not fill in by itself.
_COLUMNS = "id, tenant_id, lane_id, model_name, creator, updater, rank, enqueue_at, wake_at, request_payload"


def single(bench: Bench) -> list[Figure]:
    """Eight connections of one load generator, three times in turn."""
    seconds = bench.scaled(10, 4)
    with bench.site() as site:
        (lane,) = stock.add_lanes(site, slots=10, tenant=0)
        body = {"modelName": "m-0", "requestPayload": {"n": 1}}
        with site.api() as url, insert_view.serving(site, lane) as floor:

            def ours() -> float:
                return _fresh_rate(site, f"{url}/task/createTask", body, seconds)

            def theirs() -> float:
                return _fresh_rate(site, floor, body, seconds)

            return [alternated("createTask / a view with one INSERT", ours, theirs, target=0.4)]


def _fresh_rate(site: Site, url: str, body: object, seconds: float) -> float:
    site.clear()
    pressure.rate(url, body, expected=202, seconds=1)  # its threads and connections
    return pressure.rate(url, body, expected=202, seconds=seconds)


def batch(bench: Bench) -> list[Figure]:
    """Tasks a second of one request, rows a second of one COPY, both of what is ready to be sent; five times in turn."""
    with bench.site() as site:
        stock.add_lanes(site, slots=10, tenant=0)
        with site.api() as url, requests.Session() as session:
            _created(session, url)  # connections, caches
            return [
                alternated(
                    f"createTaskBatch of {_BATCH:,} / COPY of the same rows",
                    lambda: _BATCH / _created_anew(site, session, url),
                    lambda: _BATCH / _copied(site),
                    times=5,
                    target=0.4,
                )
            ]


def _created_anew(site: Site, session: requests.Session, url: str) -> float:
    site.clear()
    return _created(session, url)


def _created(session: requests.Session, url: str) -> float:
    tasks = [{"modelName": "m-0", "requestPayload": {"n": n}} for n in range(_BATCH)]
    body, headers = json.dumps({"tasks": tasks}).encode(), {"Content-Type": "application/json"}
    began = monotonic()
    answer = session.post(f"{url}/task/createTaskBatch", data=body, headers=headers, timeout=120)
    took = monotonic() - began
    if answer.status_code != 202 or not all("taskId" in item for item in answer.json()["list"]):
        raise BenchError(f"createTaskBatch answered {answer.status_code}: {answer.text[:500]}")
    return took


def _copied(site: Site) -> float:
    """Seconds for the rows that are there, taken out and put back into the emptied table."""
    with psycopg.connect(site.dsn) as conn:
        with conn.cursor().copy(f"COPY asynch_task ({_COLUMNS}) TO STDOUT".encode()) as out:
            rows = b"".join(out)
        conn.execute("TRUNCATE asynch_task")
        conn.commit()
        began = monotonic()
        with conn.cursor().copy(f"COPY asynch_task ({_COLUMNS}) FROM STDIN".encode()) as into:
            into.write(rows)
        conn.commit()
        return monotonic() - began
