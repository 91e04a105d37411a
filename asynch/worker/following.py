"""The claims whose model works on by itself: each is asked again when its time comes, none has a thread of its own."""

from __future__ import annotations

import heapq
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import count
from time import monotonic

from asynch.errors import CutReason
from asynch.worker.running import Run, Running

#: The model's wish is heeded, but not for less than this; without one the pauses grow from the first to the longest.
_SHORTEST_S = 0.5
_FIRST_S = 1.0
_LONGEST_S = 30.0
_GROWTH = 1.5
#: One more look is taken this long before the model's time is up.
_LAST_LOOK_S = 1.0
#: So many requests may be open beside calls that take all threads.
_ALWAYS = 2
#: How soon calls that ended are noticed.
_PATIENCE_S = 0.5
_NOW = float("-inf")


class Following:
    """A heap of due times for each tenant, and a few threads that start when there is something to ask.

    Turns go to the tenant with the fewest open requests; the last free thread is for one that has none.
    """

    def __init__(self, running: Running, *, calls: int, look: Callable[[Run], None]) -> None:
        self._running = running
        self._calls = calls
        self._look = look
        self._most = max(_ALWAYS, calls // 2)
        self._some = threading.Condition()
        self._due: dict[int, list[tuple[float, int, Run]]] = defaultdict(list)
        self._waiting: set[Run] = set()
        self._open: Counter[int] = Counter()
        self._threads: list[threading.Thread] = []
        self._number = count()
        self._draining = self._closed = False

    def again(self, run: Run, wish_s: float | None) -> None:
        """Ask again after the model's wish, else after a pause that grows with each look."""
        pause_s = min(_FIRST_S * _GROWTH**run.looks, _LONGEST_S) * random.uniform(0.8, 1.2)  # noqa: S311 jitter
        run.looks += 1
        left_s = run.call.deadline - monotonic() - _LAST_LOOK_S
        self.add(run, max(_SHORTEST_S, min(pause_s if wish_s is None else wish_s, left_s)))

    def add(self, run: Run, in_s: float = 0.0) -> None:
        """Ask so much later; at once when the call is cut, to settle it."""
        with self._some:
            self._waiting.add(run)
            busy = len(self._waiting) + self._open.total()
            if len(self._threads) < min(self._most, busy) and not self._closed:
                self._threads.append(threading.Thread(target=self._work, name="follow", daemon=True))
                self._threads[-1].start()
        run.call.on_cut(partial(self._hurry, run))  # before a thread may take it, whose request hears of a cut instead
        with self._some:
            if run in self._waiting:
                self._push(run, monotonic() + in_s)
        if self._draining:
            run.call.cut(CutReason.DRAIN)

    def drain(self) -> None:
        """Have all that wait put back, and what comes to wait later: the next worker goes on where this one ends."""
        with self._some:
            self._draining = True
            waiting = list(self._waiting)
        for run in waiting:
            run.call.cut(CutReason.DRAIN)

    def close(self, wait_s: float) -> bool:
        """End the threads after what they have in hand; whether no request is open any more."""
        with self._some:
            self._closed = True
            self._some.notify_all()
        end = monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _hurry(self, run: Run) -> None:
        with self._some:
            if run in self._waiting:
                self._push(run, _NOW)

    def _push(self, run: Run, due: float) -> None:
        heapq.heappush(self._due[run.claim.tenant_id], (due, next(self._number), run))
        self._some.notify()

    def _work(self) -> None:
        while (run := self._next()) is not None:
            try:
                self._look(run)
            finally:
                self._running.call_ended(run)
                with self._some:
                    self._open.subtract([run.claim.tenant_id])
                    self._open += Counter()  # keeps what is above zero
                    self._some.notify()

    def _next(self) -> Run | None:
        with self._some:
            while not self._closed:
                run, due = self._pick(monotonic())
                if run is not None:
                    self._waiting.discard(run)
                    self._open[run.claim.tenant_id] += 1
                    self._running.call_began(run)
                    self._some.notify()  # there may be more to do than this thread was woken for
                    return run
                self._some.wait(due)
        return None

    def _pick(self, now: float) -> tuple[Run | None, float | None]:
        """The run whose turn it is, else how long to wait for one."""
        is_open = self._open.total()
        beside_calls = max(_ALWAYS, self._calls - (self._running.calls()[0] - is_open))
        free = min(beside_calls, self._most) - is_open
        ready: list[tuple[int, float, int]] = []
        soonest: float | None = None
        for tenant in list(self._due):
            due = self._head(tenant)
            if due is None:
                del self._due[tenant]
            elif due == _NOW:  # cut: nothing will be asked
                return heapq.heappop(self._due[tenant])[2], None
            elif due <= now:
                ready.append((self._open[tenant], due, tenant))
            else:
                soonest = due if soonest is None else min(soonest, due)
        if ready and (free > 1 or (free == 1 and min(ready)[0] == 0)):
            return heapq.heappop(self._due[min(ready)[2]])[2], None
        if ready:
            return None, _PATIENCE_S
        return None, None if soonest is None else soonest - now

    def _head(self, tenant: int) -> float | None:
        """When the tenant's next is due; what was hurried leaves its former place behind."""
        heap = self._due[tenant]
        while heap and heap[0][2] not in self._waiting:
            heapq.heappop(heap)
        return heap[0][0] if heap else None
