"""Expire: tasks that waited longer than they may."""

from __future__ import annotations

from asynch import db
from asynch.cleaner.terms import Terms
from asynch.store import queue


def expire(pool: db.Pool, terms: Terms) -> int:
    """One batch; returns how many tasks."""
    with db.transaction(pool) as conn:
        return queue.expire_queue(conn, most=terms.batch, failed_retention_s=terms.failed_retention_s)
