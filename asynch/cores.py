"""Keeps a process to one processor core, as its interpreter runs one thread at a time anyway.

At each system call another thread gets its turn. Left alone, the kernel wakes that one on another core: an interrupt,
and a core that has to come out of its sleep, dozens of times a task. On the same core it is a mere switch. It pays
until so many bytes pass that the kernel, which needs no interpreter, has more to do than one core can.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, process_time

logger = logging.getLogger(__name__)

_STAT, _IO, _TASKS = Path("/proc/stat"), Path("/proc/self/io"), Path("/proc/self/task")
_LOOK_S = 1.0
#: Bytes a second, read from files and written to them; at three times as many one core is the slower way.
_BULK = 64 << 20
#: Part of the time: others have this much of our core, where another one idles as long.
_SQUEEZED = 0.5


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals; what happened lies between two of them."""

    at: float
    own_s: float  #: CPU time of this process
    passed: int  #: bytes from and to files
    idle_s: Mapping[int, float]  #: of each core


class Keeper:
    """Decides where this process runs; each core is kept to by one process of the network namespace."""

    def __init__(self, cores: Collection[int]) -> None:
        self._cores = frozenset(cores)
        self._before: Usage | None = None
        self._claim: socket.socket | None = None
        self.core: int | None = None  #: None: all of them

    @property
    def allowed(self) -> Collection[int]:
        """Where this process may run."""
        return self._cores if self.core is None else {self.core}

    def look(self, usage: Usage) -> None:
        """Decide for the time until the next look."""
        before, self._before = self._before, usage
        if before is None:
            self._take(self._cores)
            return
        lasted = usage.at - before.at
        idle = {core: (idle_s - before.idle_s.get(core, idle_s)) / lasted for core, idle_s in usage.idle_s.items()}
        own = (usage.own_s - before.own_s) / lasted
        if usage.passed - before.passed > _BULK * lasted:
            self.leave()
        elif self.core is None:
            self._take(self._cores)
        elif 1.0 - idle.get(self.core, 1.0) - own > _SQUEEZED:
            self._take({core for core in self._cores if idle.get(core, 0.0) > _SQUEEZED})

    def leave(self) -> None:
        """Keep to none."""
        if self._claim is not None:
            self._claim.close()
        self.core = self._claim = None

    def _take(self, cores: Collection[int]) -> None:
        """Keep to one of these that nobody else keeps to; stay where we are if there is none."""
        for core in random.sample(sorted(cores), len(cores)):
            # a name that the kernel gives up with its process, and no file has
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                claim.bind(f"\0asynch-core-{core}")
            except OSError:
                claim.close()
                continue
            self.leave()
            self.core, self._claim = core, claim
            return


#: where this process may run by the will of whoever started it; empty before `keep_to_one`
_given: Collection[int] = frozenset()


def keep_to_one(stop: threading.Event) -> None:
    """Begin, until `stop`; all threads follow, and those that come. Nothing where it is of no use, or cannot be."""
    global _given
    if not sys.platform.startswith("linux") or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return
    _given = frozenset(os.sched_getaffinity(0))
    if len(_given) > 1:
        threading.Thread(target=_keep, args=(Keeper(_given), stop), name="cores", daemon=True).start()


@contextmanager
def all_of_them() -> Iterator[None]:
    """What is started inside, by this thread, may run on every core that this process was given."""
    if not _given:
        yield
        return
    before = os.sched_getaffinity(0)
    with suppress(OSError):  # a program on one core is better than none
        os.sched_setaffinity(0, _given)
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)


def _keep(keeper: Keeper, stop: threading.Event) -> None:
    try:
        while not stop.is_set():
            before = keeper.core
            keeper.look(_usage())
            if keeper.core is not None or before is not None:
                _move(keeper.allowed)
            if keeper.core != before:
                logger.debug("runs on other cores now", extra={"cores": sorted(keeper.allowed)})
            stop.wait(_LOOK_S)
    except (OSError, ValueError) as exc:
        logger.warning("keeps to no core, as it cannot see what happens there", extra={"error": str(exc)})
    finally:
        keeper.leave()
        with suppress(OSError):
            _move(keeper.allowed)


def _move(cores: Collection[int]) -> None:
    """Have all threads there; again and again, as one may have been begun by a thread that was not there yet."""
    for thread in _TASKS.iterdir():
        with suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), cores)


def _usage() -> Usage:
    """As proc(5) tells it."""
    told = dict(line.split(": ") for line in _IO.read_text(encoding="ascii").splitlines())
    rows = [line.split() for line in _STAT.read_text(encoding="ascii").splitlines() if line.startswith("cpu")]
    tick = os.sysconf("SC_CLK_TCK")
    idle = {int(row[0][3:]): (int(row[4]) + int(row[5])) / tick for row in rows if row[0] != "cpu"}
    return Usage(monotonic(), process_time(), int(told["rchar"]) + int(told["wchar"]), idle)
