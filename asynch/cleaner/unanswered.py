"""Unanswered: actions whose result did not come in time."""

from __future__ import annotations

from asynch import db
from asynch.cleaner.terms import Terms
from asynch.store import actions


def unanswered(pool: db.Pool, terms: Terms) -> int:
    """Fail one batch of them; returns how many."""
    with db.transaction(pool) as conn:
        return actions.expire_actions(conn, most=terms.batch)
