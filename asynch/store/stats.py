"""Statistics as rows: what was counted a day; the counting of claims and creations rides along with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from asynch import db
from asynch.db import Connection, Row


@dataclass(frozen=True, slots=True)
class StatFilter:
    """What statistics may be narrowed by; None narrows nothing, a text is contained, both days are included."""

    start_day: date | None = None
    end_day: date | None = None
    creator: str | None = None
    name: str | None = None  #: of the model, or bizName

    def params(self, name: str) -> dict[str, Any]:
        """As the queries name them, `name` under the column's own."""
        return {"start_day": self.start_day, "end_day": self.end_day, "creator": self.creator, name: self.name}


def list_model_stats(
    conn: Connection, *, tenant_id: int, wanted: StatFilter, limit: int, offset: int, cap: int
) -> tuple[list[Row], int]:
    """A page of calls started a day, creator and model, newest, then most, first; and how many there are to `cap`."""
    which = {"tenant_id": tenant_id, **wanted.params("model_name"), "limit": limit, "offset": offset, "cap": cap}
    return _page(db.rows(conn, "list_model_stats", **which))


def list_biz_stats(
    conn: Connection, *, tenant_id: int, wanted: StatFilter, limit: int, offset: int, cap: int
) -> tuple[list[Row], int]:
    """The same of tasks created a day, creator and bizName."""
    which = {"tenant_id": tenant_id, **wanted.params("biz_name"), "limit": limit, "offset": offset, "cap": cap}
    return _page(db.rows(conn, "list_biz_stats", **which))


def _page(found: list[Row]) -> tuple[list[Row], int]:
    return [row for row in found if row["day"] is not None], found[0]["total"]


def fold_model_tallies(conn: Connection, *, most: int) -> int:
    """Add at most so many tallies of started calls up; returns how many."""
    folded: int = db.one(conn, "fold_model_tallies", most=most)["folded"]
    return folded


def fold_biz_tallies(conn: Connection, *, most: int) -> int:
    """Add at most so many tallies of created tasks up; returns how many."""
    folded: int = db.one(conn, "fold_biz_tallies", most=most)["folded"]
    return folded


def count_call(conn: Connection, *, tenant_id: int, creator: str, model_name: str, timezone: str) -> None:
    """Count a call that no claim counts."""
    db.run(conn, "count_call", tenant_id=tenant_id, creator=creator, model_name=model_name, timezone=timezone)
