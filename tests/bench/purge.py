"""Row 11: claims while a million expired rows are purged, beside claims next to the same rows left alone."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from time import monotonic

from asynch import db
from asynch.cleaner.purge import purge
from asynch.cleaner.schedule import in_turns
from asynch.cleaner.terms import Terms
from asynch.storage.local import LocalStorage
from tests.bench import stock
from tests.bench.claiming import clients
from tests.bench.figures import Figure, compared
from tests.bench.place import Bench, BenchError, Site

_FETCHED = 4
_TERMS = Terms(
    interval_s=10.0,
    queue_timeout_s=86400.0,
    failed_retention_s=86400.0,
    op_log_retention_s=86400.0,
    tmp_host_grace_s=600.0,
    delete_results=False,
)


def run(bench: Bench) -> list[Figure]:
    """Rates just before and during the purge; it must not end within the measurement."""
    rows, seconds = bench.scaled(1_000_000, 200_000), bench.scaled(15, 4)
    with bench.site() as site:
        old = stock.add_lanes(site, slots=10, name="old")
        stock.add_tasks(site, old, rows, state=_FETCHED, wake_in_s=-60.0)
        lanes = stock.add_lanes(site, 100, slots=10)
        stock.add_tasks(site, lanes, 2000)
        stock.settle_down(site)
        with clients(site, lanes) as load:
            load.rate(2)
            without = load.rate(seconds)
            with _purging(site):
                began = monotonic()
                during = load.rate(seconds)
                left, took = site.count(f"state = {_FETCHED}"), monotonic() - began
        if not left:
            raise BenchError(f"{rows:,} rows were gone before {seconds} s: more rows are needed")
    figure = compared(f"claim + complete: during the purge of {rows:,} rows / before", [(during, without)], target=0.7)
    return [figure, Figure("rows purged meanwhile", (rows - left) / took, "rows/s")]


@contextmanager
def _purging(site: Site) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=_purge, args=(site.dsn, str(site.home), stop), daemon=True)
    process.start()
    try:
        yield
    finally:
        stop.set()
        process.join(20)


def _purge(dsn: str, home: str, stop: Event) -> None:
    """As the cleaner does it, but without the end of its turn: batch after batch, as long as there is anything."""
    storage = LocalStorage(Path(home) / "files", base_url="http://127.0.0.1", signing_key=b"bench", url_ttl_s=60)
    with db.open_pool(dsn, size=1, name="bench-purge", pinned=True) as pool:
        for _ in in_turns(partial(purge, pool, _TERMS, storage), stop):
            pass
