"""Row 7: getTaskBatch of 1,000 results beside the one statement in it that changes their state."""

from __future__ import annotations

from time import monotonic

import psycopg
import requests
from psycopg.rows import dict_row

from asynch.sql import query
from tests.bench import stock
from tests.bench.figures import Figure, compared
from tests.bench.place import Bench, BenchError, Site

_IDS = 1000
_STORED = 2


def run(bench: Bench) -> list[Figure]:
    """Seconds of a request / seconds of the statement with its commit; each id is fetched once."""
    times = bench.scaled(30, 9)
    with bench.site() as site:
        lanes = stock.add_lanes(site, slots=10, tenant=0)
        stock.add_tasks(site, lanes, 2 * _IDS * (times + 1), state=_STORED)
        stock.settle_down(site)
        ids = [row["id"] for row in site.ask("SELECT id FROM asynch_task ORDER BY id")]
        parts = [ids[n : n + _IDS] for n in range(0, len(ids), _IDS)]
        with site.api() as url, requests.Session() as session, _connected(site) as conn:
            pairs = [(_asked(session, url, a), _updated(conn, b)) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        _check(site)
        name = f"getTaskBatch of {_IDS:,} / its UPDATE … RETURNING"
        return [compared(name, pairs[1:], target=3.0, at_most=True)]  # the first pair fills the caches


def _connected(site: Site) -> psycopg.Connection[dict[str, object]]:
    """As the product runs this statement: a plan for any ids would be made for ten of them, and take six times as long."""
    return psycopg.connect(site.dsn, row_factory=dict_row, prepare_threshold=None)


def _asked(session: requests.Session, url: str, ids: list[int]) -> float:
    body = {"taskIds": [str(task_id) for task_id in ids]}
    began = monotonic()
    answer = session.post(f"{url}/task/getTaskBatch", json=body, timeout=60)
    took = monotonic() - began
    if len(answer.json()["list"]) != len(ids):
        raise BenchError(f"getTaskBatch gave {len(answer.json()['list'])} of {len(ids)}")
    return took


def _updated(conn: psycopg.Connection[dict[str, object]], ids: list[int]) -> float:
    began = monotonic()
    conn.execute(query("fetch"), {"tenant_id": 0, "ids": ids, "mark": True}).fetchall()
    conn.commit()
    return monotonic() - began


def _check(site: Site) -> None:
    if left := site.count(f"state = {_STORED}"):
        raise BenchError(f"{left} results were not marked as fetched")
