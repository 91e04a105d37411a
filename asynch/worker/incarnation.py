"""One life of a worker under one id: its claim session, pool, threads and duties, from registration to the end."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic

from asynch import db, metrics
from asynch.cleaner.leader import Leader
from asynch.cleaner.schedule import Cleaner
from asynch.errors import CutReason, DatabaseDown, SessionLost, StorageError, UserError
from asynch.service import progress
from asynch.service.letters import Letters
from asynch.storage import Linking
from asynch.store import news, queue, unneeded, workers
from asynch.store.queue import Claim, Outcome, Settled
from asynch.systemd import NOBODY, Manager
from asynch.worker import liveness, sweep, traces
from asynch.worker.completer import Completer
from asynch.worker.hands import Hands
from asynch.worker.matching import Held
from asynch.worker.parts import Parts
from asynch.worker.poller import Poller
from asynch.worker.processing import LocalExecutor
from asynch.worker.registering import note_hash
from asynch.worker.running import Running
from asynch.worker.setup import Setup
from asynch.worker.telling import Telling
from asynch.worker.topics import TopicExecutor
from asynch.worker.trades import trades

logger = logging.getLogger(__name__)

#: How long threads may take to notice a cut; after that their tasks are left to the rescue.
_CUT_S = 3.0
_TAKE_OVER_MOST = 10_000
#: What the end may take after the drain: each of its waits has a limit, together they stay below this.
_END_S = 30.0


def run(setup: Setup, stop: threading.Event, manager: Manager = NOBODY) -> None:
    """Live until `stop`, then drain. UserError when the lock session goes through a transaction pooler."""
    try:
        _lives(setup, stop, manager)
    finally:
        setup.tracer.close()


def _lives(setup: Setup, stop: threading.Event, manager: Manager) -> None:
    former: int | None = None
    while not stop.is_set():
        try:
            incarnation = Incarnation(setup)
        except DatabaseDown as exc:
            logger.warning("the database does not answer, will retry", extra={"error": str(exc)})
            manager.alive()
            stop.wait(0.5)
            continue
        if former is not None:
            incarnation.take_over(former)
        former = incarnation.live(stop, manager)


class Incarnation:
    """What a lost session made void is never repaired: the incarnation ends, and another starts over."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._lines = db.Lines()
        self._session = db.open_session(setup.lock_dsn, name="asynch-worker", lines=self._lines)
        self._id = self._register()
        self._pool = db.open_pool(setup.dsn, size=6, name=self._name, pinned=True, lines=self._lines)
        self._lost, self._closing = threading.Event(), threading.Event()
        self._stop, self._over = threading.Event(), threading.Event()
        self._running = Running(setup.limits.threads)
        self._telling = Telling(self._pool)
        self._completer = Completer(
            self._pool, queue_timeout_s=setup.keep.queue_timeout_s, lost=self._lost, note=self._hear
        )
        self._hands = Hands(
            self._parts(),
            self._pool,
            self._running,
            worker_id=self._id,
            threads=setup.limits.threads,
            reserve=setup.limits.reserve,
            uploaders=setup.uploaders,
            longest_call_s=setup.longest_call_s,
        )
        self._poller = Poller(
            self._session,
            worker_id=self._id,
            limits=setup.limits,
            running=self._running,
            tmp=setup.tmp,
            hand_over=self._take,
        )

    def _parts(self) -> Parts:
        setup = self._setup
        kinds = trades(
            models=setup.executor,
            webhooks=setup.webhooks,
            local=LocalExecutor(setup.workshop, partial(note_hash, self._pool)),
            broker=setup.broker or TopicExecutor(self._pool),
            box=setup.box,
            progress_url=self._progress_url,
            letters=Letters(self._pool, setup.box, setup.documents),
        )
        return Parts(
            kinds,
            setup.follower,
            setup.storage,
            setup.storage.link if isinstance(setup.storage, Linking) else lambda _key, _path: False,
            setup.tmp,
            setup.box,
            self._completer,
            setup.terms,
            setup.registry.mark,
            self._names_object,
            aside=lambda claim, work: self._hands.aside(claim, work),
            tell=self._telling.progress,
            tracer=setup.tracer,
        )

    @property
    def _name(self) -> str:
        """application_name of all sessions: by it others can end those of a worker that is frozen."""
        return f"asynch-worker-{self._id}"

    def _register(self) -> int:
        setup = self._setup
        with db.wrapped():
            if not workers.session_is_direct(self._session):
                raise UserError("database.lock_dsn leads through a transaction pooler; slots need a direct connection")
            worker_id = workers.register(
                self._session,
                host=setup.terms.host,
                pid=os.getpid(),
                tmp_host=setup.tmp.host_id,
                threads=setup.limits.threads,
                media=setup.media_processes,
            )
            self._session.execute("SELECT set_config('application_name', %s, false)", (f"asynch-worker-{worker_id}",))
        return worker_id

    def _take(self, claim: Claim, held: Held) -> None:
        self._telling.claimed(claim)
        self._hands.call(claim, held)

    def _hear(self, outcome: Outcome, settled: Settled) -> None:
        if (run := self._running.find(outcome.claim)) is not None:
            traces.note_outcome(run, outcome)
        if settled.unneeded:
            self._hands.aside(outcome.claim, partial(self._drop, settled.unneeded))
        self._telling.settled(outcome, settled)

    def _drop(self, addresses: Sequence[str]) -> None:
        """Remove objects that nobody needs; what cannot be removed now the cleaner removes later."""
        try:
            for address in addresses:
                self._setup.storage.delete(address)
            with db.connection(self._pool) as conn:
                unneeded.forget(conn, addresses)
        except (StorageError, DatabaseDown) as exc:
            logger.warning("an object is left to the cleaner", extra={"error": str(exc)})

    def _names_object(self, claim: Claim, address: str) -> bool:
        with db.connection(self._pool) as conn:
            return queue.names_object(conn, claim, address)

    def _progress_url(self, claim: Claim) -> str:
        return progress.link(
            self._setup.box,
            self._setup.public_url,
            tenant_id=claim.tenant_id,
            task_id=claim.id,
            attempt=claim.call_attempt,
            until=claim.started_at.timestamp() + claim.target.timeout_s,
        )

    def take_over(self, former: int) -> None:
        """Put back what this process held under its former id: its calls are cut, and no task is to blame."""
        setup = self._setup
        try:
            with db.transaction(self._pool) as conn:
                workers.end_sessions(conn, former)
                left = workers.rescue(
                    conn,
                    workers=[former],
                    host=setup.terms.host,
                    charged=False,
                    max_crashes=setup.max_crashes,
                    keep=setup.keep,
                    most=_TAKE_OVER_MOST,
                )
                workers.bury(conn, former)
                news.announce(conn, {lane for lane, _ in left})
            logger.info("took over from a lost session", extra={"worker_id": former, "tasks": len(left)})
        except DatabaseDown as exc:
            logger.warning("left to the rescue", extra={"worker_id": former, "error": str(exc)})

    def live(self, stop: threading.Event, manager: Manager) -> int | None:
        """Work until `stop`, or until the session is lost: then the void id, unless a call may still be open."""
        duties = self._start()
        logger.info("worker ready", extra={"worker_id": self._id, "tmp_host": self._setup.tmp.host_id})
        manager.ready()
        while not stop.is_set() and not self._lost.is_set():
            manager.alive()
            self._hands.relieve()
            self._lost.wait(0.1)
        if not self._lost.is_set():
            manager.ending(self._setup.drain_timeout_s + _END_S)
            self._drain()
        lost = self._lost.is_set()
        metrics.SESSIONS_LOST.inc(lost)
        calls_ended = self._end(duties)
        return self._id if lost and calls_ended else None

    def _start(self) -> list[threading.Thread]:
        setup = self._setup
        beat = liveness.Beat(
            self._pool,
            liveness.Self(self._id, setup.terms.host, setup.tmp.host_id),
            running=self._running,
            tmp=setup.tmp,
            keep=setup.keep,
            max_crashes=setup.max_crashes,
            free_threads=self._free_threads,
        )
        duties: dict[str, Callable[[], None]] = {
            "poller": self._poll,
            "beat": partial(beat.run, self._lost, self._stop),
            "uploads": partial(self._hands.claim_uploads, self._closing),
            "sweep": partial(
                sweep.run, self._pool, setup.tmp, setup.storage, setup.workshop.incoming, setup.part_ttl_s, self._stop
            ),
            **self._telling.duties(self._stop),
        }
        setup.tmp.look()
        self._show()
        self._hands.start(self._poller.give_back, self._poller.wake)
        self._cleaner = self._start_cleaner()
        threads = [threading.Thread(target=duty, name=name, daemon=True) for name, duty in duties.items()]
        watch = partial(liveness.watch, self._running, self._poller, self._lines, self._lost, self._over)
        threading.Thread(target=watch, name="watch", daemon=True).start()
        for thread in threads:
            thread.start()
        return threads

    def _free_threads(self) -> int:
        return max(0, self._setup.limits.threads - self._running.calls()[0])

    def _show(self) -> None:
        tmp = self._setup.tmp
        metrics.TMP_USED.set_function(lambda: tmp.used_bytes)
        metrics.TMP_LIMIT.set(tmp.max_bytes)
        metrics.TMP_BLOCKED.set_function(lambda: bool(tmp.trouble))
        metrics.CALL_THREADS.set(self._setup.limits.threads)
        metrics.CALL_THREADS_FREE.set_function(self._free_threads)

    def _start_cleaner(self) -> Cleaner | None:
        if self._setup.cleaner is None:
            return None
        leader = Leader(partial(db.open_session, self._setup.lock_dsn, name=self._name, lines=self._lines))
        cleaner = Cleaner(self._pool, leader, self._setup.cleaner, self._setup.storage)
        cleaner.start()
        return cleaner

    def _drain(self) -> None:
        """Claim no more, let what runs end in its time, then put the rest back untouched."""
        self._claim_no_more()
        self._hands.drain()
        self._wait_idle(self._setup.drain_timeout_s)
        self._running.close(CutReason.DRAIN)
        self._wait_idle(_CUT_S)
        if not self._lost.is_set():
            self._hands.let_go()

    def _claim_no_more(self) -> None:
        self._closing.set()
        self._poller.drain()

    def _wait_idle(self, most_s: float) -> None:
        deadline = monotonic() + most_s
        while self._running.all() and monotonic() < deadline and not self._lost.is_set():
            self._lost.wait(0.05)

    def _end(self, duties: list[threading.Thread]) -> bool:
        """Stop every thread; True when no call of this incarnation can be open any more."""
        clean = not self._lost.is_set() and not self._running.all()
        if not clean:
            self._lost.set()
            self._claim_no_more()
            self._running.close(CutReason.SESSION_LOST)
            self._lines.cut()
        if self._cleaner is not None:
            self._cleaner.stop()
        calls_ended = self._hands.stop(_CUT_S)
        self._stop.set()
        self._poller.wake()
        for thread in duties:
            thread.join(_CUT_S)
        if clean:
            self._leave()
        self._completer.close()
        self._telling.close()
        self._pool.close(timeout=1.0)
        self._over.set()  # until here the watch ends what waits on a database that does not answer
        return calls_ended

    def _leave(self) -> None:
        """Say goodbye: nothing is left to rescue."""
        try:
            with db.transaction(self._pool) as conn:
                workers.bury(conn, self._id)
        except DatabaseDown as exc:
            logger.warning("left without a word", extra={"error": str(exc)})

    def _poll(self) -> None:
        try:
            self._poller.run(self._stop)
        except SessionLost as exc:
            logger.error("claim session lost", extra={"worker_id": self._id, "error": str(exc)})
        except Exception:
            logger.exception("the poller failed")
        finally:
            if not self._stop.is_set():
                self._lost.set()
