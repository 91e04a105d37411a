"""Purge: rows that outlived their use are deleted, their stored objects with them where the operator wants it."""

from __future__ import annotations

from collections.abc import Callable

from asynch import db, metrics
from asynch.cleaner.terms import Terms
from asynch.domain.states import MOVES, Event, State
from asynch.errors import StorageError
from asynch.storage import Storage
from asynch.store import actions, past, queue

#: A task that ended so has no result, but its last upload may have been killed between the store and the row.
_UNDELIVERED = frozenset({State.FAILED, State.CANCELLED})


def _never() -> bool:
    return False


def purge(pool: db.Pool, terms: Terms, storage: Storage, stopping: Callable[[], bool] = _never) -> int:
    """One batch of each final state; returns how many rows. tmp_files go with the sweep of their host."""
    return sum(_purge_state(pool, terms, storage, state, stopping) for state in sorted(MOVES[Event.PURGE].sources))


def _purge_state(pool: db.Pool, terms: Terms, storage: Storage, state: State, stopping: Callable[[], bool]) -> int:
    ids: list[int] | None = None
    if terms.delete_results or state in _UNDELIVERED:
        with db.connection(pool) as conn:
            found = queue.purgeable(conn, state=state, most=terms.batch)
        ids = [task_id for task_id, key in found if not stopping() and _removed(storage, key)]
        if not ids:
            return 0
    with db.transaction(pool) as conn:
        return queue.purge(conn, state=state, most=terms.batch, ids=ids)


def _removed(storage: Storage, key: str) -> bool:
    """Objects go first: a row without its object is past its time anyway, an object without a row stays for ever."""
    try:
        if key:
            storage.delete(key)
    except StorageError:
        metrics.STORAGE_ERRORS.labels("delete").inc()
        return False
    return True


def forget(pool: db.Pool, terms: Terms) -> int:
    """Old idempotency keys, op log rows, tries of actions and hosts; returns how many."""
    with db.transaction(pool) as conn:
        tries = actions.forget_tries(conn, retention_s=terms.op_log_retention_s, most=terms.batch)
        return tries + past.forget(conn, op_log_retention_s=terms.op_log_retention_s, most=terms.batch)
