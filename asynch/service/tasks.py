"""Reading, cancelling and rerunning tasks: one transaction a use case; another tenant's are not there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from asynch import db
from asynch.db import Connection, Pool, Row
from asynch.domain.principal import Caller
from asynch.domain.states import MOVES, Event, State, status_of
from asynch.errors import Conflict, Gone, NotFound, TooLarge
from asynch.service import listing
from asynch.service.feed import Feed, Heard, Key
from asynch.store import news
from asynch.store import tasks as store
from asynch.store.oplog import Operation, insert_op_logs
from asynch.store.tasks import Place, TaskFilter

#: Rows a transaction of a change by filter.
_CHUNK = 1000
#: A place in a queue is counted up to this.
MOST_AHEAD = 1000


@dataclass(frozen=True, slots=True)
class Fetched:
    """Items found by id, and those that are not there."""

    rows: dict[int, Row]
    gone: frozenset[int]


@dataclass(frozen=True, slots=True)
class Changed:
    """What a cancel or rerun did: ids changed, and the rows of those asked for as they are now."""

    changed: frozenset[int]
    rows: dict[int, Row]


Change: TypeAlias = Callable[[Caller, Sequence[int]], Changed]


def state_of(row: Row) -> tuple[object, ...]:
    """What a task's readers wait for: the ETag changes with it, and with nothing else."""
    return row["state"], row["final"], row["attempt"], row["phase"], row["progress"], row["message"]


@dataclass(frozen=True, slots=True)
class Tasks:
    """The use cases and what they need to know of this installation."""

    pool: Pool
    failed_retention_s: float
    queue_timeout_s: float
    feed: Feed
    seats: threading.BoundedSemaphore  #: how many requests may wait at once: each holds a thread

    def fetch(self, tenant_id: int, ids: Sequence[int], *, mark: bool) -> Fetched:
        """The tasks of these ids; with `mark`, successes count as fetched from now on and expire."""
        opened = db.transaction if mark else db.connection
        with opened(self.pool) as conn:
            rows = store.fetch(conn, tenant_id=tenant_id, ids=ids, mark=mark)
            gone = {task_id for task_id, row in rows.items() if row["gone"]}
            missing = [task_id for task_id in ids if task_id not in rows]
            if missing:
                gone |= store.purged(conn, tenant_id=tenant_id, ids=missing).keys()
        return Fetched({i: row for i, row in rows.items() if i not in gone}, frozenset(gone))

    def wait(self, tenant_id: int, ids: Sequence[int], wait_s: float) -> None:
        """Return when all that exist are final, or after `wait_s`; at once where too many wait already."""
        left, done = set(ids), threading.Event()

        def heard(key: Key, row: Row | None) -> None:
            if row is None or row["final"]:
                left.discard(key[1])
                if not left:
                    done.set()

        self._waiting(
            [(tenant_id, task_id) for task_id in ids], heard, done, wait_s, lambda: self._left(tenant_id, left)
        )

    def wait_for_change(self, row: Row, wait_s: float, *, final: bool) -> Row:
        """The row once its readers would see another one, or with `final` a final one; after `wait_s` as it is."""
        key, found, done = (row["tenant_id"], row["id"]), [row], threading.Event()

        def heard(_: Key, changed: Row | None) -> None:
            if changed is not None:
                found[0] = changed
            if changed is None or changed["final"] or (not final and state_of(changed) != state_of(row)):
                done.set()

        def now() -> bool:
            with db.connection(self.pool) as conn:
                heard(key, store.get_tasks(conn, tenant_id=key[0], ids=[key[1]]).get(key[1]))
            return done.is_set()

        self._waiting([key], heard, done, wait_s, now)
        return found[0]

    def _left(self, tenant_id: int, left: set[int]) -> bool:
        with db.connection(self.pool) as conn:
            left &= store.unfinished(conn, tenant_id=tenant_id, ids=list(left))
        return not left

    def _waiting(
        self, keys: Sequence[Key], heard: Heard, done: threading.Event, wait_s: float, over: Callable[[], bool]
    ) -> None:
        """Wait for `done`, unless it is `over` already: asked once the feed listens, so that nothing is missed."""
        if not self.seats.acquire(blocking=False):
            return
        try:
            with self.feed.watching(keys, heard):
                if not over():
                    done.wait(wait_s)
        finally:
            self.seats.release()

    def place(self, row: Row) -> Place | None:
        """Where a task that is not final stands, and its lane's pace."""
        if row["final"]:
            return None
        with db.connection(self.pool) as conn:
            return store.find_place(conn, tenant_id=row["tenant_id"], task_id=row["id"], most=MOST_AHEAD)

    def get(self, tenant_id: int, task_id: int) -> Row:
        """One task's row with `retry_times` of its model. NotFound; Gone with its last status once it has expired."""
        row, state, code = self._known(tenant_id, task_id)
        if row is None or row["gone"]:
            raise Gone("The task is no longer there.", lastStatus=status_of(state, True), lastErrorCode=code or None)
        return row

    def last_state(self, tenant_id: int, task_id: int) -> tuple[State, bool]:
        """State of a task and whether it is final, also when it is gone. NotFound."""
        row, state, _ = self._known(tenant_id, task_id)
        return state, row is None or row["final"]

    def _known(self, tenant_id: int, task_id: int) -> tuple[Row | None, State, str]:
        """The row of a task, None once it is purged, with its last state and error code. NotFound."""
        with db.connection(self.pool) as conn:
            row = store.get_tasks(conn, tenant_id=tenant_id, ids=[task_id]).get(task_id)
            if row is not None:
                return row, State(row["state"]), row["error_code"]
            purged = store.purged(conn, tenant_id=tenant_id, ids=[task_id]).get(task_id)
        if purged is None:
            raise NotFound("There is no such task.")
        return None, State(purged["state"]), purged["code"]

    def search(self, tenant_id: int, wanted: TaskFilter, *, limit: int, offset: int) -> listing.Found:
        """A page, newest first, and the total."""
        with db.connection(self.pool) as conn:
            ids, total = store.list_tasks(
                conn, tenant_id=tenant_id, wanted=wanted, limit=limit, offset=offset, cap=listing.TOTAL_CAP + 1
            )
            rows = store.get_tasks(conn, tenant_id=tenant_id, ids=ids)
        return listing.found([rows[i] for i in ids if i in rows], total)

    def payloads(self, tenant_id: int, ids: Sequence[int], *, most_bytes: int) -> dict[int, str | None]:
        """JSON text by id, as sent. TooLarge when they are more than `most_bytes` together."""
        with db.connection(self.pool) as conn:
            if store.payload_bytes(conn, tenant_id=tenant_id, ids=ids) > most_bytes:
                raise TooLarge(f"The payloads of this page are over {most_bytes} bytes.", limitBytes=most_bytes)
            return store.payloads(conn, tenant_id=tenant_id, ids=ids)

    def cancel(self, caller: Caller, ids: Sequence[int]) -> Changed:
        """End these tasks: who waits at once, who runs as soon as its call is cut; final ones stay as they are."""
        tenant_id, user = caller.principal.tenant_id, caller.principal.user
        with db.transaction(self.pool) as conn:
            changed = store.cancel(
                conn, tenant_id=tenant_id, ids=ids, updater=user, failed_retention_s=self.failed_retention_s
            )
            news.announce_cancel(conn, [task_id for task_id, state in changed if state == State.RUNNING])
            return self._noted(conn, caller, "cancelTask", ids, [task_id for task_id, _ in changed])

    def rerun(self, caller: Caller, ids: Sequence[int]) -> Changed:
        """Run final failed or cancelled tasks again, from their phase, with their retries renewed; others stay."""
        tenant_id, user = caller.principal.tenant_id, caller.principal.user
        with db.transaction(self.pool) as conn:
            lanes = {row["lane_id"] for row in store.get_tasks(conn, tenant_id=tenant_id, ids=ids).values()}
            store.share_lanes(conn, lanes, tenant_id=tenant_id)
            changed = store.rerun(
                conn, tenant_id=tenant_id, ids=ids, updater=user, queue_timeout_s=self.queue_timeout_s
            )
            news.announce(conn, {lane for _, lane in changed})
            return self._noted(conn, caller, "retryTask", ids, [task_id for task_id, _ in changed])

    def cancel_one(self, caller: Caller, task_id: int) -> Row:
        """As `cancel`; the row as it is now. NotFound, Gone."""
        outcome = self.cancel(caller, [task_id])
        return outcome.rows.get(task_id) or self.get(caller.principal.tenant_id, task_id)

    def rerun_one(self, caller: Caller, task_id: int) -> Row:
        """As `rerun`; NotFound, Gone, and Conflict for a task that is not finally failed or cancelled."""
        outcome = self.rerun(caller, [task_id])
        if task_id in outcome.changed:
            return outcome.rows[task_id]
        self.get(caller.principal.tenant_id, task_id)
        raise Conflict("Only a failed or cancelled task of a model that is there can run again.", code="not_retryable")

    def cancel_found(self, caller: Caller, wanted: TaskFilter) -> int:
        """As `cancel` for all that a filter finds; returns how many were changed."""
        return self._change_found(caller, wanted, self.cancel, Event.CANCEL, final=False)

    def rerun_found(self, caller: Caller, wanted: TaskFilter) -> int:
        """As `rerun` for all that a filter finds; returns how many were changed."""
        return self._change_found(caller, wanted, self.rerun, Event.RERUN, final=True)

    def _change_found(self, caller: Caller, wanted: TaskFilter, change: Change, event: Event, *, final: bool) -> int:
        """A transaction a chunk, oldest first; those that cannot make the move are not even looked at."""
        if wanted.final not in (None, final):
            return 0
        chunks = self._chunks(caller.principal.tenant_id, replace(wanted, final=final), MOVES[event].sources)
        return sum(len(change(caller, ids).changed) for ids in chunks)

    def _chunks(self, tenant_id: int, wanted: TaskFilter, among: Collection[State]) -> Iterator[list[int]]:
        with db.connection(self.pool) as conn:
            # Ids are drawn in order: what is created from here on is left alone, or a busy creator would never let go.
            (before,), _ = store.draw_ids(conn, 1)
        after = 0
        while True:
            with db.connection(self.pool) as conn:
                ids = store.list_task_ids(
                    conn, tenant_id=tenant_id, wanted=wanted, among=among, after=after, before=before, most=_CHUNK
                )
            if not ids:
                return
            yield ids
            after = ids[-1]

    def _noted(
        self, conn: Connection, caller: Caller, op_type: str, ids: Sequence[int], changed: Sequence[int]
    ) -> Changed:
        rows = store.get_tasks(conn, tenant_id=caller.principal.tenant_id, ids=ids)
        operations = [
            Operation(model_name=rows[i]["model_name"], biz_name=rows[i]["biz_name"], task_id=str(i)) for i in changed
        ]
        insert_op_logs(conn, caller, op_type, operations)
        return Changed(frozenset(changed), {i: row for i, row in rows.items() if not row["gone"]})
