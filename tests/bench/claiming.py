"""Claims and completions through the product's own poller and queries, with calls that take no time.

What is left of a worker: claim session, rounds, slots, settle. Processes of their own, one round after the other,
while a feeder puts in as many tasks as went out, so that the queue is as deep at the end as at the start.
"""

from __future__ import annotations

import multiprocessing
import queue as queues
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from time import monotonic

from asynch import db
from asynch.executors import Call
from asynch.store import news, queue, workers
from asynch.store.queue import Claim
from asynch.worker import outcomes
from asynch.worker.matching import Held
from asynch.worker.poller import Limits, Poller
from asynch.worker.running import Run, Running
from asynch.worker.tmpdir import TmpDir
from tests.bench import stock
from tests.bench.place import BenchError, Site, until

CLIENTS = 2
THREADS = 100  #: calls a client may have open
_TERMS = outcomes.Terms("bench", failed_retention_s=86400.0, unfetched_retention_s=2592000.0)
_LIMITS = Limits(THREADS, reserve=0, batch_size=64, poll_interval_s=1.0, timezone="UTC")
_FEED_S = 0.05


class _Client:
    """One claim session with a thread that completes whatever was handed over, as many at once as there are."""

    def __init__(self, dsn: str, tmp_dir: Path, done: Synchronized[int]) -> None:
        self._done = done
        session = db.open_session(dsn, name="bench-claims")
        tmp = TmpDir(tmp_dir, max_bytes=1 << 40)
        worker_id = workers.register(session, host="bench", pid=1, tmp_host=tmp.host_id, threads=THREADS)
        self._pool = db.open_pool(dsn, size=1, name="bench-settle", pinned=True)
        self._running = Running()
        self._called: queues.SimpleQueue[Run | None] = queues.SimpleQueue()
        self._poller = Poller(
            session, worker_id=worker_id, limits=_LIMITS, running=self._running, tmp=tmp, hand_over=self._take
        )

    def work(self, stop: Event) -> None:
        """Until `stop`."""
        over = threading.Event()
        threading.Thread(target=self._complete, daemon=True).start()
        poller = threading.Thread(target=self._poller.run, args=(over,), daemon=True)
        poller.start()
        stop.wait()
        over.set()
        self._poller.wake()
        poller.join(10)

    def _take(self, claim: Claim, held: Held) -> None:
        run = Run(claim, Call(60.0), held)
        self._running.add(run)
        self._called.put(run)

    def _complete(self) -> None:
        """As the completer: what came while the last statement ran goes into the next."""
        while (first := self._called.get()) is not None:
            runs = [first]
            while not self._called.empty() and (run := self._called.get()) is not None:
                runs.append(run)
            moves = [outcomes.delivered(_TERMS, run.claim) for run in runs]
            with db.connection(self._pool) as conn:
                written = queue.settle(conn, moves, queue_timeout_s=86400.0)
            if len(written) != len(runs):
                raise BenchError(f"{len(runs) - len(written)} of {len(runs)} claims were stale")
            for run in runs:
                self._running.call_ended(run)
                self._running.remove(run)
                self._poller.give_back(run.slots)
            with self._done.get_lock():
                self._done.value += len(runs)


def _client(dsn: str, tmp_dir: str, done: Synchronized[int], stop: Event) -> None:
    _Client(dsn, Path(tmp_dir), done).work(stop)


@dataclass
class Load:
    """Clients at work on a site; `rate` looks at them from outside."""

    site: Site
    lanes: Sequence[int]
    counters: list[Synchronized[int]]
    alive: list[multiprocessing.process.BaseProcess]
    _over: threading.Event = field(default_factory=threading.Event)
    _fed: int = 0

    @property
    def done(self) -> int:
        """Completions so far."""
        return sum(counter.value for counter in self.counters)

    def rate(self, seconds: float) -> float:
        """Completions a second over the next so many seconds."""
        before, began = self.done, monotonic()
        threading.Event().wait(seconds)
        if not all(process.is_alive() for process in self.alive):
            raise BenchError("a client has ended")
        if self.done == before:
            raise BenchError(f"nothing was completed in {seconds:g} s")
        return (self.done - before) / (monotonic() - began)

    def feed(self) -> None:
        """Put in what went out, until the end; one announcement a time, of those lanes, as an API makes it."""
        while not self._over.wait(_FEED_S):
            self._feed_once()

    def _feed_once(self) -> None:
        if (missing := self.done - self._fed) > 0:
            stock.add_tasks(self.site, self.lanes, missing, first=self._fed)
            fed = {self.lanes[(self._fed + n) % len(self.lanes)] for n in range(min(missing, len(self.lanes)))}
            with db.transaction(self.site.pool) as conn:
                news.announce(conn, fed)
            self._fed += missing

    def end(self, feeder: threading.Thread) -> None:
        """After the clients: leave the queue as deep as it was, with nothing in a dead client's hands."""
        self._over.set()
        feeder.join()
        self._feed_once()
        with db.transaction(self.site.pool) as conn:
            conn.execute("UPDATE asynch_task SET state = 0, worker_id = 0 WHERE state = 1")
            conn.execute("DELETE FROM asynch_worker")


@contextmanager
def clients(site: Site, lanes: Sequence[int]) -> Iterator[Load]:
    """Two processes that claim and complete, and a feeder for these lanes."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    counters = [context.Value("q", 0) for _ in range(CLIENTS)]
    tmp_dir = str(site.home / "tmp")
    processes = [context.Process(target=_client, args=(site.dsn, tmp_dir, c, stop), daemon=True) for c in counters]
    load = Load(site, lanes, counters, list(processes))
    for process in processes:
        process.start()
    feeder = threading.Thread(target=load.feed)
    feeder.start()
    try:
        until(lambda: all(counter.value for counter in counters), 60, what="the first completions")
        yield load
    finally:
        stop.set()
        for process in processes:
            process.join(20)
            if process.is_alive():
                process.kill()
                process.join()
        load.end(feeder)
