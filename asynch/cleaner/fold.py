"""Fold: what claims and creations counted is added up: statistics are read from a row a day, not from one a task."""

from __future__ import annotations

from asynch import db
from asynch.cleaner.terms import Terms
from asynch.store import stats


def fold(pool: db.Pool, terms: Terms) -> int:
    """One batch of each kind; returns how many tallies."""
    with db.transaction(pool) as conn:
        calls = stats.fold_model_tallies(conn, most=terms.batch)
    with db.transaction(pool) as conn:
        return calls + stats.fold_biz_tallies(conn, most=terms.batch)
