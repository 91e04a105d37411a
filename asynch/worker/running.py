"""What this worker runs at the moment, for whoever must end it, count it or show it."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from time import monotonic

from asynch.domain.states import Phase
from asynch.errors import CutReason
from asynch.executors import Call
from asynch.spans import Span
from asynch.store.queue import Claim
from asynch.store.slots import Slot

#: A call that takes less than this may be over before the next one is claimed.
SHORT_S = 0.1


@dataclass(slots=True, eq=False)
class Run:
    """One claim in this worker's hands."""

    claim: Claim
    call: Call
    slots: tuple[Slot, ...] = ()
    since: float = field(default_factory=monotonic)
    looks: int = 0  #: how often the model was asked whether it is done
    told: tuple[float | None, str | None] = (None, None)  #: what it said last of its progress
    span: Span | None = None  #: from the moment a thread takes it in hand


class Running:
    """The claims in hand, by task and attempt."""

    def __init__(self, threads: int = 1) -> None:
        """`threads` are those that make calls."""
        self._lock = threading.Lock()
        self._runs: dict[tuple[int, int], Run] = {}
        self._calls = 0
        self._tenants: Counter[int] = Counter()
        self._short: deque[float] = deque(maxlen=threads)  # when short calls ended
        self._closed: CutReason | None = None
        #: set when a claim may be this worker's that is not in hand: the beat looks for it
        self.in_doubt = threading.Event()

    def add(self, run: Run) -> None:
        """Begin; after `close` the run is cut before it begins."""
        with self._lock:
            self._runs[run.claim.id, run.claim.attempt] = run
            if run.claim.phase is Phase.CALL and not run.claim.poll_url:
                self._count(run, 1)
            closed = self._closed
        if closed is not None:
            run.call.cut(closed)

    def call_began(self, run: Run) -> None:
        """A request is open again for a claim whose model works on."""
        with self._lock:
            self._count(run, 1)

    def call_ended(self, run: Run) -> None:
        """Its call thread is free; the claim may go on with its upload, or wait for its model."""
        with self._lock:
            self._count(run, -1)

    def call_took(self, seconds: float) -> None:
        """A call is over, and its thread takes the next one."""
        if seconds < SHORT_S:
            with self._lock:
                self._short.append(monotonic())

    def soon(self) -> int:
        """How many threads will come free so soon that a claim for them may begin now: as many as just did."""
        since = monotonic() - SHORT_S
        with self._lock:
            return sum(at > since for at in self._short)

    def _count(self, run: Run, n: int) -> None:
        self._calls += n
        self._tenants[run.claim.tenant_id] += n

    def remove(self, run: Run) -> None:
        """Nothing of it is left to do here."""
        with self._lock:
            self._runs.pop((run.claim.id, run.claim.attempt), None)

    def find(self, claim: Claim) -> Run | None:
        """The run of this claim or of the other half of its work, None where it is not in hand."""
        with self._lock:
            return self._runs.get((claim.id, claim.attempt))

    def calls(self) -> tuple[int, set[int]]:
        """How many requests to models are open, and for which tenants."""
        with self._lock:
            return self._calls, {tenant for tenant, n in self._tenants.items() if n > 0}

    def has_call_of(self, tenant_id: int) -> bool:
        """Whether a request for this tenant is open, or will be."""
        with self._lock:
            return self._tenants[tenant_id] > 0

    def all(self) -> list[Run]:
        """Everything in hand."""
        with self._lock:
            return list(self._runs.values())

    def keys(self) -> set[tuple[int, int]]:
        """(task id, attempt) of everything in hand."""
        with self._lock:
            return set(self._runs)

    def cut(self, which: Collection[tuple[int, int]], reason: CutReason) -> None:
        """End the named (task id, attempt)."""
        with self._lock:
            runs = [self._runs[key] for key in which if key in self._runs]
        for run in runs:
            run.call.cut(reason)

    def cut_tasks(self, ids: Collection[int], reason: CutReason) -> None:
        """End whatever attempt of these tasks is in hand."""
        with self._lock:
            keys = [key for key in self._runs if key[0] in ids]
        self.cut(keys, reason)

    def close(self, reason: CutReason) -> None:
        """End everything, and whatever may still come."""
        with self._lock:
            self._closed = reason
        for run in self.all():
            run.call.cut(reason)
