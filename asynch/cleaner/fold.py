"""Fold: what creations counted is added up, so that statistics are read from a row a day and not from one a task."""

from __future__ import annotations

from asynch import db
from asynch.cleaner.terms import Terms
from asynch.store import stats


def fold(pool: db.Pool, terms: Terms) -> int:
    """One batch; returns how many tallies."""
    with db.transaction(pool) as conn:
        return stats.fold_biz_tallies(conn, most=terms.batch)
