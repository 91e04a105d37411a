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
        days = _fill(site, bench.rows)
        stock.settle_down(site)
        middle = datetime.now(UTC) - timedelta(days=days // 2)
        filters = {
            "no filter": TaskFilter(),
            "one model": TaskFilter(model_name="m-7"),
            "a part of eleven models' names": TaskFilter(model_name="m-1"),
            "a model that is rare": TaskFilter(model_name="seldom"),
            "a model that is no longer used": TaskFilter(model_name="former"),
            "a model that is not there": TaskFilter(model_name="nothing"),
            "a rare state": TaskFilter(state=_STORED),
            "a rare state of one model": TaskFilter(state=_STORED, model_name="m-7"),
            "not final": TaskFilter(final=False),
            "created before all": TaskFilter(created_to=middle - timedelta(days=days)),
            "created in the middle": TaskFilter(
                created_from=middle - timedelta(hours=12), created_to=middle + timedelta(hours=12)
            ),
            "created when nothing was": TaskFilter(
                created_from=middle + timedelta(hours=9), created_to=middle + timedelta(hours=10)
            ),
            "a bizName": TaskFilter(biz_name="order"),
            "a bizName of one day": TaskFilter(biz_name="refund"),
            "a bizName that is not there": TaskFilter(biz_name="nothing"),
        }
        return [
            Figure(f"listTask, {name}, {bench.rows:,} rows", _seconds(site, wanted), "s")
            for name, wanted in filters.items()
        ]


def _fill(site: Site, rows: int) -> int:
    """As many tasks on each of some days, and on one, before the others, a few that are searched for; how many days."""
    chunk = min(_CHUNK, rows)
    lanes = stock.add_lanes(site, 20, slots=10)
    (seldom,), (former,) = (stock.add_lanes(site, slots=10, name=name) for name in ("seldom", "former"))
    days = rows // chunk
    for age in range(days, 0, -1):
        age_s = age * 86400.0
        if age == days // 2 + 1:
            stock.add_tasks(site, lanes, 100, state=_STORED, age_s=age_s, biz_name="refund")
        stock.add_tasks(site, lanes, chunk, state=_FETCHED, age_s=age_s, biz_name="order")
        stock.add_tasks(site, [seldom], 2, state=_FETCHED, age_s=age_s)
        if age == days:
            stock.add_tasks(site, [former], chunk // 10, state=_FETCHED, age_s=age_s)
    stock.add_tasks(site, lanes, 100)
    return days


def _seconds(site: Site, wanted: TaskFilter) -> float:
    return sorted(_once(site, wanted) for _ in range(3))[1]


def _once(site: Site, wanted: TaskFilter) -> float:
    with site.pool.connection() as conn:
        began = monotonic()
        ids, _ = store.list_tasks(conn, tenant_id=1, wanted=wanted, limit=10, offset=0, cap=_CAP)
        store.get_tasks(conn, tenant_id=1, ids=ids)
        return monotonic() - began
