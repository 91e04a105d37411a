"""Objects in storage that nobody needs, as rows, until they are removed."""

from __future__ import annotations

from collections.abc import Sequence

from asynch import db
from asynch.db import Connection


def note(conn: Connection, keys: Sequence[str]) -> None:
    """From this transaction on nobody needs them."""
    if keys:
        db.run(conn, "note_unneeded", keys=list(keys))


def left(conn: Connection, *, older_s: float, most: int) -> list[str]:
    """Those that have been there for so long and are not put off, the oldest first."""
    return [r["key"] for r in db.rows(conn, "left_unneeded", older_s=older_s, most=most)]


def defer(conn: Connection, keys: Sequence[str], *, pause_s: float) -> None:
    """They cannot be removed now: the others first."""
    db.run(conn, "defer_unneeded", keys=list(keys), pause_s=pause_s)


def forget(conn: Connection, keys: Sequence[str]) -> None:
    """They are removed."""
    db.run(conn, "forget_unneeded", keys=list(keys))
