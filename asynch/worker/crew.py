"""Threads that do one thing after the other, and what waits for them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from asynch.worker.running import Run


class Crew:
    """So many threads of one name; each does `work` with what it takes, oldest first."""

    def __init__(self, name: str, size: int, work: Callable[[Run], None]) -> None:
        self._work = work
        self._waiting: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._in_hand = 0
        self._moved_at = monotonic()  # when something last came, or was taken
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(size)]

    @property
    def free(self) -> int:
        """How many threads have nothing to do; below zero, how many wait for one."""
        return len(self._threads) - self._in_hand

    @property
    def is_alive(self) -> bool:
        """Whether a thread is there still."""
        return any(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def put(self, run: Run) -> None:
        """Have it done."""
        self._count(1)
        self._moved_at = monotonic()
        self._waiting.put(run)

    def stuck(self, seconds: float) -> list[Run]:
        """What waits, no more to be done, if nothing was taken for so long."""
        found: list[Run] = []
        if monotonic() - self._moved_at >= seconds:
            with suppress(queue.Empty):
                while (run := self._waiting.get_nowait()) is not None:
                    self._count(-1)
                    found.append(run)
        return found

    def stop(self) -> None:
        """Let every thread end after what is there."""
        for _ in self._threads:
            self._waiting.put(None)

    def join(self, wait_s: float) -> None:
        """Wait for them, so long at most."""
        end = monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))

    def _run(self) -> None:
        while (run := self._waiting.get()) is not None:
            self._moved_at = monotonic()
            self._work(run)
            self._count(-1)

    def _count(self, n: int) -> None:
        with self._lock:
            self._in_hand += n
