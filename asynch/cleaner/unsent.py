"""Uploads whose bytes never came: those into storage that nobody confirmed, and those of hosts that are gone."""

from __future__ import annotations

from asynch import db
from asynch.cleaner.terms import Terms
from asynch.domain.uploads import staged_keys
from asynch.store import files, unneeded


def unsent(pool: db.Pool, terms: Terms) -> int:
    """Fail one batch of them, and have removed what has come; returns how many."""
    with db.transaction(pool) as conn:
        found = files.expire_uploads(conn, ttl_s=terms.part_ttl_s, most=terms.batch)
        unneeded.note(conn, [key for upload in found if upload[2] for key in staged_keys(*upload)])
    return len(found)
