"""What a secret looks like inside of other text, and all the text that a database holds."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode

from asynch import db
from tests.database import all_rows


def shapes_of(secret: str) -> set[str]:
    """A text as itself and as it looks inside of base64, wherever it begins there."""
    shapes = {secret}
    for encode in (b64encode, urlsafe_b64encode):
        for shift, unsure in enumerate((0, 2, 3)):
            shapes.add(encode(b"\0" * shift + secret.encode()).decode().rstrip("=")[unsure:-1])
    return shapes


def dump(pool: db.Pool) -> str:
    """Every row of every table, as text."""
    tables = all_rows(pool, "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public'")
    assert len(tables) > 5
    rows = [all_rows(pool, f"SELECT t::text AS row FROM {table['name']} t") for table in tables]
    return "\n".join(row["row"] for of_table in rows for row in of_table)
