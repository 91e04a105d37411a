"""Uploads whose bytes never came: those into storage that nobody confirmed, and those of hosts that are gone."""

from __future__ import annotations

import logging

from asynch import db
from asynch.cleaner.terms import Terms
from asynch.domain.uploads import staged_keys
from asynch.errors import StorageError
from asynch.storage import Storage
from asynch.store import files

logger = logging.getLogger(__name__)


def unsent(pool: db.Pool, terms: Terms, storage: Storage) -> int:
    """Fail one batch of them and remove what has come; returns how many."""
    with db.transaction(pool) as conn:
        found = files.expire_uploads(conn, ttl_s=terms.part_ttl_s, most=terms.batch)
    for tenant_id, upload_id, parts in found:
        for key in staged_keys(tenant_id, upload_id, parts) if parts else ():
            try:
                storage.delete(key)
            except StorageError as exc:
                logger.warning("an object is left behind", extra={"error": str(exc)})
    return len(found)
