"""Unneeded: objects in storage that were left over, and that no worker has removed."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from asynch import db
from asynch.cleaner.terms import Terms
from asynch.errors import StorageError
from asynch.storage import Storage
from asynch.store import unneeded as store

logger = logging.getLogger(__name__)

#: Until then it is the worker's, seconds.
_LEFT_S = 60.0
#: One that cannot be removed is tried again after so long, seconds: it holds up none behind it.
_PAUSE_S = 600.0
#: After so many failures in a row it is the store that fails, and the rest is not tried on it.
_MOST_FAILED = 3


def unneeded(pool: db.Pool, terms: Terms, storage: Storage) -> int:
    """Remove one batch of them; returns how many."""
    with db.connection(pool) as conn:
        keys = store.left(conn, older_s=_LEFT_S, most=terms.batch)
    removed, kept = _remove(storage, keys)
    if keys:
        with db.transaction(pool) as conn:
            store.forget(conn, removed)
            store.defer(conn, kept, pause_s=_PAUSE_S)
    return len(removed)


def _remove(storage: Storage, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that are gone now, and those that could not be removed."""
    removed: list[str] = []
    kept: list[str] = []
    in_a_row = 0
    for key in keys:
        try:
            storage.delete(key)
        except StorageError as exc:
            logger.warning("an object is left behind", extra={"error": str(exc)})
            kept.append(key)
            in_a_row += 1
            if in_a_row == _MOST_FAILED:
                break
        else:
            removed.append(key)
            in_a_row = 0
    return removed, kept
