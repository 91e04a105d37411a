"""The threads that do the work: those that call models, and those that bring saved results to storage."""

from __future__ import annotations

import logging
import queue as queues
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic

from asynch import db, log, metrics
from asynch.errors import CutReason, DatabaseDown, ErrorCode, ExecutorError, SessionLost, StaleClaim
from asynch.executors import Call, Working
from asynch.store import queue
from asynch.store.queue import Claim
from asynch.store.slots import Slot
from asynch.worker import attempt, endings, outcomes, traces
from asynch.worker.crew import Crew
from asynch.worker.following import Following
from asynch.worker.parts import Parts
from asynch.worker.running import Run, Running

logger = logging.getLogger(__name__)

#: Saved results that may wait in memory for each uploader; what is more goes back to this host's queue.
_WAITING = 64
_POLL_S = 0.5
#: So long a claimed call waits for a thread at most.
_MOST_WAIT_S = 1.0
#: An upload has no deadline of its own: the store's time-outs are its limit.
_NO_DEADLINE = float("inf")


class Hands:
    """Two sets of threads with a queue each. A claim leaves them delivered, settled or void."""

    def __init__(
        self,
        parts: Parts,
        pool: db.Pool,
        running: Running,
        *,
        worker_id: int,
        threads: int,
        reserve: int,
        uploaders: int,
        longest_call_s: float,
    ) -> None:
        self._parts = parts
        self._pool = pool
        self._running = running
        self._worker_id = worker_id
        self._uploads: queues.SimpleQueue[Callable[[], object] | None] = queues.SimpleQueue()
        self._uploaders = uploaders
        self._chores: deque[tuple[Claim, Callable[[], None]]] = deque()
        self._chores_called = False
        self._longest_call_s = longest_call_s
        self._callers = Crew("call", threads, partial(self._call, self._running.call_took))
        self._reserve = Crew("reserve", reserve, partial(self._call, lambda _took_s: None))
        self._others = [
            threading.Thread(target=self._work_off_uploads, name=f"up-{n}", daemon=True) for n in range(uploaders)
        ]
        self._following = Following(running, calls=threads + reserve, look=self._ask_again)

    def start(self, give_back: Callable[[tuple[Slot, ...]], None], thread_freed: Callable[[], None]) -> None:
        """Begin; slots return through `give_back` once their outcome is committed, `thread_freed` tells of threads."""
        self._give_back = give_back
        self._thread_freed = thread_freed
        self._callers.start()
        self._reserve.start()
        for thread in self._others:
            thread.start()

    def stop(self, wait_s: float) -> bool:
        """Let every thread end after what it has in hand; True when no call can be open any more.

        An upload that hangs in a slow store is not waited for: by then its claim is void or put back.
        """
        self._callers.stop()
        self._reserve.stop()
        for _ in self._others:
            self._uploads.put(None)
        self._callers.join(wait_s)
        self._reserve.join(wait_s)
        none_asks = self._following.close(wait_s)
        return none_asks and not self._callers.is_alive and not self._reserve.is_alive

    def drain(self) -> None:
        """Put back whose model works on: no worker has to wait for it, the next one asks on."""
        self._following.drain()

    def let_go(self) -> None:
        """Put back what is still in hand although it was cut, such as an upload that hangs in a slow store."""
        for run in self._running.all():
            self._guard(run.claim, partial(self._put_back, run.claim))
            self._over(run)

    def _put_back(self, claim: Claim) -> None:
        with suppress(StaleClaim, SessionLost):
            endings.put_back(self._parts, claim, outcomes.WHY_RELEASED[CutReason.DRAIN])

    def call(self, claim: Claim, slots: tuple[Slot, ...]) -> None:
        """Take a claim of phase 0 with its slots; the time of one whose model works on began with its call."""
        since_call_s = (claim.claimed_at - claim.started_at).total_seconds()
        run = Run(claim, Call(min(claim.target.timeout_s, self._longest_call_s) - since_call_s), slots)
        is_first = not self._running.has_call_of(claim.tenant_id)
        self._running.add(run)
        if claim.poll_url:
            self._following.add(run)
        elif is_first and self._callers.free <= 0 < self._reserve.free:
            self._reserve.put(run)
        else:
            self._callers.put(run)

    def relieve(self) -> None:
        """Put back the calls that no thread came free for: they were claimed because the ones before were short."""
        for run in self._callers.stuck(_MOST_WAIT_S):
            self._running.call_ended(run)
            over = partial(self._after_call, run, None)
            endings.leave_to_the_queue(self._parts, run.claim, "no thread came free for it", over)

    def aside(self, claim: Claim, work: Callable[[], None]) -> None:
        """Have an uploader do this for a claim; one is called for all that came until it begins."""
        self._chores.append((claim, work))
        if not self._chores_called:
            self._chores_called = True
            self._uploads.put(self._do_chores)

    def claim_uploads(self, stop: threading.Event) -> None:
        """Until `stop`: claim this host's saved results whose time has come, as many as the uploaders can take."""
        pause_s = 0.0
        while not stop.wait(pause_s):
            pause_s = _POLL_S
            room = _WAITING * self._uploaders - self._uploads.qsize()
            if room <= 0:
                continue
            try:
                with db.connection(self._pool) as conn:
                    claims = queue.claim_uploads(
                        conn, tmp_host=self._parts.tmp.host_id, most=room, worker_id=self._worker_id
                    )
            except (DatabaseDown, db.Error) as exc:
                logger.warning("uploads not claimed, will retry", extra={"error": str(exc)})
                self._running.in_doubt.set()  # the claim may be committed, and only its answer lost
                continue
            metrics.CLAIMS.labels("upload").inc(len(claims))
            for claim in claims:
                self._enqueue(Run(claim, Call(_NO_DEADLINE)))
            pause_s = 0.0 if len(claims) == room else _POLL_S

    def _enqueue(self, run: Run) -> None:
        self._running.add(run)
        self._uploads.put(partial(self._upload, run))

    def _call(self, note: Callable[[float], None], run: Run) -> None:
        began = monotonic()
        good = self._run(run)
        self._running.call_ended(run)
        note(monotonic() - began)
        self._thread_freed()
        if not good:
            self._after_call(run, None)

    def _ask_again(self, run: Run) -> None:
        if not self._run(run):
            self._after_call(run, None)

    def _run(self, run: Run) -> bool:
        after = partial(self._after_call, run)
        return self._guard(run.claim, partial(attempt.run_call, self._parts, run, after, self._later))

    def _later(self, run: Run, working: Working) -> None:
        self._following.again(run, working.retry_after_s)

    def _after_call(self, run: Run, saved: Claim | None) -> None:
        """Its outcome is committed; from here on the run is an upload. A cut that came too late is heard there."""
        if run.slots:
            self._give_back(run.slots)
        if saved is None:
            self._over(run)
            return
        traces.end(run)
        upload = Run(saved, run.call)
        if self._uploads.qsize() < _WAITING * self._uploaders:
            self._enqueue(upload)
            return
        self._running.add(upload)
        done = partial(self._over, upload)
        endings.leave_to_the_queue(self._parts, saved, "the uploaders are far behind", done)

    def _over(self, run: Run) -> None:
        self._running.remove(run)
        traces.end(run)

    def _work_off_uploads(self) -> None:
        while (work := self._uploads.get()) is not None:
            work()

    def _do_chores(self) -> None:
        self._chores_called = False  # first: what comes from now on may be missed below
        with suppress(IndexError):
            while True:
                claim, work = self._chores.popleft()
                self._guard(claim, work)

    def _upload(self, run: Run) -> None:
        done = partial(self._over, run)
        if not self._guard(run.claim, partial(attempt.run_upload, self._parts, run, done)):
            done()

    def _guard(self, claim: Claim, work: Callable[[], None]) -> bool:
        """Whether it went well: what no rule foresaw fails the attempt, not the thread, and a person must look."""
        with log.bind(task_id=claim.task_id, tenant_id=claim.tenant_id):
            try:
                work()
                return True
            except Exception as exc:
                logger.exception("attempt failed unexpectedly")
                error = ExecutorError(ErrorCode.INTERNAL, f"internal error: {type(exc).__name__}", transient=True)
                try:
                    endings.fail(self._parts, claim, error)
                except (StaleClaim, SessionLost, db.Error):
                    logger.warning("its failure could not be recorded; it is put back if it is still ours")
                    self._running.in_doubt.set()
            return False
