"""Lose: results that wait on hosts nobody has heard of for too long are called again."""

from __future__ import annotations

import logging

from asynch import db, metrics
from asynch.cleaner.terms import Terms
from asynch.errors import StorageError
from asynch.storage import Storage
from asynch.store import news, queue, unneeded

logger = logging.getLogger(__name__)


def lose(pool: db.Pool, terms: Terms, storage: Storage) -> int:
    """One batch; returns how many tasks. An object that the lost host may have stored already is removed."""
    with db.transaction(pool) as conn:
        lost = queue.lose_silent_hosts(
            conn, most=terms.batch, grace_s=terms.tmp_host_grace_s, queue_timeout_s=terms.queue_timeout_s
        )
        keys = [key for _, key in lost]
        unneeded.note(conn, keys)
        news.announce(conn, {lane for lane, _ in lost})
    removed = []
    for key in keys:
        try:
            storage.delete(key)
            removed.append(key)
        except StorageError as exc:
            metrics.STORAGE_ERRORS.labels("delete").inc()
            logger.warning("an object is left for later", extra={"key": key, "error": str(exc)})
    if removed:
        with db.connection(pool) as conn:
            unneeded.forget(conn, removed)
    return len(lost)
