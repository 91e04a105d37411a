"""The facts of this database, by name, and of its server."""

from __future__ import annotations

from asynch import db
from asynch.db import Connection


def remember(conn: Connection, key: str, value: str) -> str:
    """Store a fact of this database once; returns what it remembers."""
    db.run(conn, "put_fact", key=key, value=value)
    remembered: str = db.one(conn, "get_fact", key=key)["value"]
    return remembered


def find_fact(conn: Connection, key: str) -> str | None:
    """A fact of this database, None when it has none of this name."""
    found = db.row(conn, "get_fact", key=key)
    return found["value"] if found else None


def swap_fact(conn: Connection, key: str, old: str, new: str) -> bool:
    """Put another value in the place of this one; False when it is not there any more."""
    return db.run(conn, "swap_fact", key=key, old=old, new=new) > 0


def server_version(conn: Connection) -> str:
    """As Postgres says it."""
    version: str = db.one(conn, "server_version")["version"]
    return version
