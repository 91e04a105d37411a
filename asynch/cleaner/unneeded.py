"""Unneeded: objects in storage that were left over, and that no worker has removed."""

from __future__ import annotations

import logging

from asynch import db
from asynch.cleaner.terms import Terms
from asynch.errors import StorageError
from asynch.storage import Storage
from asynch.store import unneeded as store

logger = logging.getLogger(__name__)

#: Until then it is the worker's, seconds.
_LEFT_S = 60.0


def unneeded(pool: db.Pool, terms: Terms, storage: Storage) -> int:
    """Remove one batch of them; returns how many."""
    with db.connection(pool) as conn:
        keys = store.left(conn, older_s=_LEFT_S, most=terms.batch)
    removed = []
    for key in keys:
        try:
            storage.delete(key)
        except StorageError as exc:
            logger.warning("an object is left behind", extra={"error": str(exc)})
            break
        removed.append(key)
    if removed:
        with db.connection(pool) as conn:
            store.forget(conn, removed)
    return len(removed)
