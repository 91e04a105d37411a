"""Row 1: one worker drains a queue of calls that cost nothing, beside the same calls with no queue."""

from __future__ import annotations

from itertools import count
from time import monotonic

from tests.bench import floor, model, stock
from tests.bench.figures import Figure, alternated
from tests.bench.model import Model
from tests.bench.place import Bench, Site, until

#: Processes start within the first part of the calls, two of them not at once; the rate is that of the others.
_WARM = 0.3
_LANES = 4


def run(bench: Bench) -> list[Figure]:
    """Five times in turn, the median; a first turn is not counted.

    The files of each side are in a directory that stays: where others were deleted, a file system looks for room in a
    new one at several times the cost, until it has filled the gaps.
    """
    tasks = bench.scaled(6000, 3000)
    with bench.site() as site, model.serving(site.home) as service:
        lanes = stock.add_lanes(site, _LANES, slots=floor.THREADS, url=service.url, route="noop")
        files, number = site.home / "floor", count()
        files.mkdir()

        def ours() -> float:
            return rate(site, service, lanes, tasks)

        def theirs() -> float:
            return floor.rate(f"{service.url}/noop", files, f"{next(number)}-", tasks)

        ours(), theirs()
        return [alternated("drain, one worker, 32 threads / no queue", ours, theirs, times=5, target=0.8)]


def rate(site: Site, service: Model, lanes: list[int], tasks: int, *, workers: int = 1) -> float:
    """Tasks a second of so many worker processes."""
    site.clear()
    stock.add_tasks(site, lanes, tasks)
    stock.settle_down(site)
    service.reset()
    with site.workers(workers, threads=floor.THREADS):
        # not the table, until then: to count in it costs the server as much as a tenth of the work
        until(lambda: service.count() >= tasks, 300, what="the last call", every_s=0.05)
        until(lambda: site.count("NOT final") == 0, 60, what="the end of all tasks", every_s=0.02)
        return steady(service, tasks, monotonic())


def steady(service: Model, tasks: int, ended: float) -> float:
    """Tasks a second from when all processes are warm to the end of the last task."""
    warm = int(tasks * _WARM)
    return (tasks - warm) / (ended - service.calls()[warm][2])
