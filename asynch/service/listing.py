"""A page of a list that may be long: how many rows there are is counted no further than anybody reads."""

from __future__ import annotations

from dataclasses import dataclass

from asynch.db import Row

#: A list's total is counted up to this.
TOTAL_CAP = 10_000


@dataclass(frozen=True, slots=True)
class Found:
    """A page of a list: its rows, how many there are in all, and whether that is only a lower bound."""

    rows: list[Row]
    total: int
    capped: bool


def found(rows: list[Row], counted: int) -> Found:
    """A page, where one more than TOTAL_CAP was counted at most."""
    return Found(rows, min(counted, TOTAL_CAP), counted > TOTAL_CAP)
