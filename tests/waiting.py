"""Waiting for a condition, never for a time."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], most_s: float = 20.0, *, what: str = "the condition") -> T:
    """What the condition gives as soon as that is true; AssertionError after `most_s`."""
    end = monotonic() + most_s
    while not (found := condition()):
        assert monotonic() < end, f"{what} did not come true in {most_s:g} s"
        sleep(0.005)
    return found
