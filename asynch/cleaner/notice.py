"""Notice: of tasks that are about to go it is told, where their creators asked for it."""

from __future__ import annotations

from asynch import db
from asynch.cleaner.terms import Terms
from asynch.store import news, webhooks


def notice(pool: db.Pool, terms: Terms) -> int:
    """One batch; returns how many tasks."""
    with db.transaction(pool) as conn:
        lanes = webhooks.notify_expiring(conn, most=terms.batch)
        news.announce(conn, set(lanes))
    return len(lanes)
