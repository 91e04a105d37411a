"""What a row of the bench says, and how two sides are compared; knows nothing of the product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number, what it should be, and what it was made from."""

    name: str
    value: float
    unit: str  #: `x` for a ratio
    target: float | None = None
    at_most: bool = False  #: the target is a ceiling
    parts: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the target was met, None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


def alternated(
    name: str, ours: Callable[[], float], theirs: Callable[[], float], *, times: int = 3, target: float
) -> Figure:
    """The median of `times` ratios ours / theirs, each of two runs one right after the other."""
    pairs = [(ours(), theirs()) for _ in range(times)]
    return compared(name, pairs, target=target)


def compared(name: str, pairs: Sequence[tuple[float, float]], *, target: float, at_most: bool = False) -> Figure:
    """The median ratio of pairs (ours, theirs)."""
    ratios = [ours / theirs for ours, theirs in pairs]
    parts = {"ours": [ours for ours, _ in pairs], "theirs": [theirs for _, theirs in pairs], "ratios": ratios}
    return Figure(name, median(ratios), "x", target, at_most, parts)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
