"""Row 8: how much a worker's memory grows while a very large result passes through it."""

from __future__ import annotations

from contextlib import suppress

import psutil

from tests.bench import model, stock
from tests.bench.figures import Figure
from tests.bench.place import Bench, BenchError, until

_MIB = 1 << 20


def run(bench: Bench) -> list[Figure]:
    """The most that the process tree had, less what it had when idle; the result ends in local storage."""
    size = bench.scaled(2048, 256) * _MIB
    with bench.site() as site, model.serving(site.home) as service:
        small, large = (
            stock.add_lanes(site, slots=1, url=service.url, route=f"bytes/{n}", name=f"of{n}") for n in (_MIB, size)
        )
        with site.worker() as process:
            stock.add_tasks(site, small, 20)
            until(lambda: site.count("NOT final") == 0, 60, what="the small results")  # all that is allocated once
            idle = seen = pss(process.pid)
            stock.add_tasks(site, large, 1)

            def over() -> bool:
                nonlocal seen
                seen = max(seen, pss(process.pid))
                return site.count("NOT final") == 0

            until(over, 600, what="the large result")
        (row,) = site.ask("SELECT state, file_size FROM asynch_task WHERE lane_id = ANY(%s)", large)
        if (row["state"], row["file_size"]) != (2, size):
            raise BenchError(f"the large result ended as {row}")
    name = f"memory of the worker, {size // _MIB:,} MiB result"
    return [Figure(name, (seen - idle) / _MIB, "MiB more", 64, at_most=True, parts={"idle": idle / _MIB})]


def pss(pid: int) -> int:
    """Proportional set size of a process and all below it, bytes."""
    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    total = 0
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total
