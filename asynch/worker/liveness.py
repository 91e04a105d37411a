"""Staying alive and noticing death: the beat, the deadlines of calls, cancellations, and the rescue of the dead."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from asynch import db, metrics
from asynch.domain.states import State
from asynch.errors import CutReason, DatabaseDown, SessionLost
from asynch.store import news, slots, workers
from asynch.store.queue import Claim
from asynch.store.slots import MOURNING_S, SILENCE_S
from asynch.worker.outcomes import rfc3339
from asynch.worker.poller import Poller
from asynch.worker.running import Running
from asynch.worker.tmpdir import TmpDir

logger = logging.getLogger(__name__)

BEAT_S = 2.0
_WATCH_S = 0.1
_RESCUE_BATCH = 1000
#: Tasks that a worker names in its beat; of the rest it tells how many.
NAMED = 100


@dataclass(frozen=True, slots=True)
class Self:
    """Who this worker is."""

    worker_id: int
    host: str
    tmp_host: str


def watch(running: Running, poller: Poller, lines: db.Lines, lost: threading.Event, stop: threading.Event) -> None:
    """Cut calls whose time is up; declare the session lost when it has been silent too long.

    Once it is lost nothing may wait on the database any more, whatever that does with the packets.
    """
    while not stop.wait(_WATCH_S):
        now = monotonic()
        late = [(r.claim.id, r.claim.attempt) for r in running.all() if r.slots and now > r.call.deadline]
        running.cut(late, CutReason.TIMEOUT)
        if now - poller.answered_at > SILENCE_S:
            logger.error("the claim session does not answer", extra={"silent_s": round(now - poller.answered_at, 1)})
            lost.set()
        if lost.is_set():
            running.close(CutReason.SESSION_LOST)
            lines.cut()
            return


class Beat:
    """Once a second: say that this worker lives, hear who should end, look for the dead and rescue their tasks."""

    def __init__(
        self,
        pool: db.Pool,
        me: Self,
        *,
        running: Running,
        tmp: TmpDir,
        keep: workers.Retention,
        max_crashes: int,
        free_threads: Callable[[], int],
    ) -> None:
        self._pool = pool
        self._me = me
        self._running = running
        self._tmp = tmp
        self._keep = keep
        self._max_crashes = max_crashes
        self._free_threads = free_threads
        self._beaten_at = monotonic()
        self._strays: set[tuple[int, int]] = set()

    def run(self, lost: threading.Event, stop: threading.Event) -> None:
        """Until `stop`; sets `lost` when others have declared this worker dead, or none could be told for too long."""
        while not stop.is_set():
            try:
                self._tmp.look()
                self.once()
            except SessionLost as exc:
                logger.error("this worker was given up by others", extra={"error": str(exc)})
                lost.set()
            except (DatabaseDown, db.Error) as exc:
                logger.warning("the beat failed, will retry", extra={"error": str(exc)})
                if monotonic() - self._beaten_at > workers.FROZEN_S - BEAT_S * 2:
                    lost.set()
            stop.wait(BEAT_S / 2)

    def once(self) -> None:
        """One beat. Raises SessionLost, DatabaseDown."""
        me = self._me
        with db.connection(self._pool) as conn:
            if monotonic() - self._beaten_at >= BEAT_S * 0.9:
                self._say(conn)
            tasks = [(r.claim.tenant_id, r.claim.id) for r in self._running.all()]
            if tasks:
                wanted = workers.cancelled_claims(conn, worker_id=me.worker_id, tasks=tasks)
                self._running.cut(wanted, CutReason.CANCEL)
            for worker in workers.terminate_silent(conn, worker_id=me.worker_id, silence_s=workers.FROZEN_S):
                logger.error("ended the sessions of a silent worker", extra={"worker_id": worker})
            if dead := slots.find_dead(conn, worker_id=me.worker_id):
                slots.mark_dead(conn, dead)
        if dead:
            rescue_dead(self._pool, me, self._keep, max_crashes=self._max_crashes)
        if self._running.in_doubt.is_set():
            self._put_back_strays()

    def _put_back_strays(self) -> None:
        """Put back what is this worker's, but not in hand; seen twice, as a claim just made is not in hand yet."""
        me = self._me
        with db.transaction(self._pool) as conn:
            strays = workers.own_claims(conn, worker_id=me.worker_id) - self._running.keys()
            if again := strays & self._strays:
                found = workers.rescue(
                    conn,
                    workers=[me.worker_id],
                    host=me.host,
                    charged=False,
                    max_crashes=self._max_crashes,
                    keep=self._keep,
                    most=_RESCUE_BATCH,
                    ids=[task_id for task_id, _ in again],
                )
                news.announce(conn, {lane for lane, state in found if state is State.PENDING})
                logger.warning("put back claims that nobody had in hand", extra={"tasks": len(found)})
        self._strays = strays
        if not strays:
            self._running.in_doubt.clear()

    def _say(self, conn: db.Connection) -> None:
        in_hand = sorted(self._running.all(), key=lambda r: r.claim.claimed_at)
        info = {
            "running": [_named(r.claim) for r in in_hand[:NAMED]],
            "runningTotal": len(in_hand),
            "freeThreads": self._free_threads(),
            "tmpBytes": self._tmp.used_bytes,
            "trouble": self._tmp.trouble,
        }
        me = self._me
        if not workers.beat(conn, worker_id=me.worker_id, tmp_host=me.tmp_host, host=me.host, info=info):
            raise SessionLost("declared dead by another worker")
        self._beaten_at = monotonic()


def _named(claim: Claim) -> dict[str, Any]:
    """A task in hand, as listWorker tells it."""
    return {
        "taskId": claim.task_id,
        "tenantId": str(claim.tenant_id),
        "modelName": claim.model_name,
        "phase": claim.phase.value,
        "since": rfc3339(claim.claimed_at),
    }


def rescue_dead(pool: db.Pool, me: Self, keep: workers.Retention, *, max_crashes: int) -> int:
    """Put back what workers left that have been dead long enough, and forget them. Returns how many tasks."""
    rescued = 0
    with db.transaction(pool) as conn:
        for dead in workers.claim_dead(conn, worker_id=me.worker_id, grace_s=MOURNING_S):
            workers.end_sessions(conn, dead.id)  # one may still hold a row
            found = workers.rescue(
                conn,
                workers=[dead.id],
                host=dead.host,
                charged=dead.charged,
                max_crashes=max_crashes,
                keep=keep,
                most=_RESCUE_BATCH,
            )
            news.announce(conn, {lane for lane, state in found if state is State.PENDING})
            workers.bury(conn, dead.id)
            rescued += len(found)
            metrics.CLEANED.labels("rescue").inc(len(found))
            logger.warning("rescued the tasks of a dead worker", extra={"worker_id": dead.id, "tasks": len(found)})
    return rescued
