"""Row 12: how long the lists take on a very large table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import monotonic

from asynch.store import tasks as store
from asynch.store.tasks import TaskFilter
from tests.bench import stock
from tests.bench.figures import Figure
from tests.bench.place import Bench, Site

_CHUNK = 500_000
_STORED, _FETCHED = 2, 4
_CAP = 10_001


def run(bench: Bench) -> list[Figure]:
    """listTask with what users filter by: the median of three, seconds."""
    with bench.site() as site:
        lanes = stock.add_lanes(site, 20, slots=10)
        for _ in range(0, bench.rows, _CHUNK):
            stock.add_tasks(site, lanes, min(_CHUNK, bench.rows), state=_FETCHED)
        stock.add_tasks(site, lanes, 100, state=_STORED)
        stock.settle_down(site)
        hour_ago = datetime.now(UTC) - timedelta(hours=1)
        filters = {
            "no filter": TaskFilter(),
            "one model": TaskFilter(model_name="m-7"),
            "a rare state": TaskFilter(state=_STORED),
            "a model that is not there": TaskFilter(model_name="nothing"),
            "created before all": TaskFilter(created_to=hour_ago),
        }
        return [
            Figure(f"listTask, {name}, {bench.rows:,} rows", _seconds(site, wanted), "s")
            for name, wanted in filters.items()
        ]


def _seconds(site: Site, wanted: TaskFilter) -> float:
    return sorted(_once(site, wanted) for _ in range(3))[1]


def _once(site: Site, wanted: TaskFilter) -> float:
    with site.pool.connection() as conn:
        began = monotonic()
        ids, _ = store.list_tasks(conn, tenant_id=1, wanted=wanted, limit=10, offset=0, cap=_CAP)
        store.get_tasks(conn, tenant_id=1, ids=ids)
        return monotonic() - began
