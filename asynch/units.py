"""Numbers as the configuration spells them: durations in seconds, sizes in bytes, rates; no guessing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field

SECOND = 1.0
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_SECONDS = {"ms": Decimal("0.001"), "": Decimal(1), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_SECONDS["d"] = Decimal(86400)
_BYTES = {"": 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 1 << 40}
_PER_S = {"s": SECOND, "sec": SECOND, "min": MINUTE, "h": HOUR, "hour": HOUR, "day": DAY}
# ASCII digits only, and few: what is longer is no duration or size anyone means, and int() of it is slow
_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([A-Za-z]*)")
_RATE = re.compile(r"([0-9]{1,9})(?:/([a-z]+))?")

#: a century: waits and intervals beyond it overflow in threads and in Postgres
LONGEST = 36500 * DAY
LARGEST = (1 << 63) - 1


def seconds(value: object) -> float:
    """Read `10s`, `5m`, `24h`, `7d`, `500ms`; a plain number is seconds. ValueError for anything else."""
    expected = "expected a duration such as 500ms, 10s, 5m, 24h, 7d or 0"
    result = float(_amount(value, _SECONDS, expected))
    if result > LONGEST:
        raise ValueError(f"{expected}, at most 36500d")
    return result


def size_bytes(value: object) -> int:
    """Read `64MiB`, `10GiB`; a plain number is bytes. ValueError for anything else."""
    expected = "expected a size such as 1MiB, 64MiB, 10GiB or a number of bytes"
    amount = _amount(value, _BYTES, expected)
    if amount != int(amount) or amount > LARGEST:
        raise ValueError(f"{expected}, whole bytes below 8 EiB")
    return int(amount)


def _amount(value: object, units: dict[str, Decimal] | dict[str, int], expected: str) -> Decimal:
    """The number in `value` times its unit; bool is no number here although Python says so."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(expected)  # noqa: TRY004 - pydantic turns only ValueError into a mistake with a path
    text = value if isinstance(value, str) else format(Decimal(str(value)), "f")
    match = _AMOUNT.fullmatch(text)
    if match is None or match[2] not in units:
        raise ValueError(expected)
    return Decimal(match[1]) * units[match[2]]


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in any `per_s` seconds; a count of 0 means no limit."""

    count: int
    per_s: float


def rate(value: object) -> Rate:
    """Read `60/min`, `5/s`, `1000/day`; a bare 0 means no limit. ValueError for anything else."""
    if isinstance(value, Rate):
        return value
    match = None if isinstance(value, bool) else _RATE.fullmatch(str(value))
    if match is None or (match[2] not in _PER_S if match[2] else int(match[1])):
        raise ValueError("expected a rate such as 60/min, 5/s, 1000/day or 0 (no limit)")
    return Rate(int(match[1]), _PER_S[match[2] or "min"])


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a whole number")  # noqa: TRY004 - as in _amount
    return value


Duration = Annotated[float, BeforeValidator(seconds)]
PositiveDuration = Annotated[float, Field(gt=0), BeforeValidator(seconds)]
Size = Annotated[int, Field(gt=0), BeforeValidator(size_bytes)]
RateField = Annotated[Rate, BeforeValidator(rate)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(_no_bool)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1), BeforeValidator(_no_bool)]
Port = Annotated[int, Field(ge=0, le=65535), BeforeValidator(_no_bool)]
