"""Retry: failures whose back-off is over go back to the queue, where the retry rule put them."""

from __future__ import annotations

from asynch import db
from asynch.cleaner.terms import Terms
from asynch.store import news, queue


def retry(pool: db.Pool, terms: Terms) -> int:
    """One batch; returns how many tasks."""
    with db.transaction(pool) as conn:
        lanes = queue.retry_due(conn, most=terms.batch, queue_timeout_s=terms.queue_timeout_s)
        news.announce(conn, set(lanes))
    return len(lanes)
