"""Row 2: claim and complete on a deep queue, on very many lanes, and behind lanes that are full."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import psycopg

from tests.bench import stock
from tests.bench.claiming import clients
from tests.bench.figures import Figure, compared
from tests.bench.place import Bench, Site

_SLOTS = 256  #: of the one lane: more than all clients together take
_FULL_SLOTS = 2


def run(bench: Bench) -> list[Figure]:
    """Each against one lane with 1,000 pending, three times in turn."""
    deep, wide, full = bench.scaled(1_000_000, 100_000), bench.scaled(10_000, 1_000), bench.scaled(1_000, 200)
    seconds = bench.scaled(10, 4)
    variants: dict[str, Callable[[Site], Iterator[Sequence[int]]]] = {
        f"{deep:,} pending": lambda site: _deep(site, deep),
        f"{wide:,} lanes": lambda site: _wide(site, wide),
        f"{full:,} saturated lanes ahead": lambda site: _behind(site, full),
    }
    return [_against_base(bench, name, stocked, seconds) for name, stocked in variants.items()]


def _against_base(
    bench: Bench, name: str, stocked: Callable[[Site], Iterator[Sequence[int]]], seconds: float
) -> Figure:
    """Both sites stay for all rounds: what took minutes to fill is not filled again."""
    with ExitStack() as stack:
        base, other = (stack.enter_context(bench.site()) for _ in range(2))
        base_lanes = stack.enter_context(contextmanager(_base)(base))
        other_lanes = stack.enter_context(contextmanager(stocked)(other))
        pairs = [(_rate(other, other_lanes, seconds), _rate(base, base_lanes, seconds)) for _ in range(3)]
        return compared(f"claim + complete: {name} / 1 lane, 1,000 pending", pairs, target=0.7)


def _rate(site: Site, lanes: Sequence[int], seconds: float) -> float:
    stock.settle_down(site)
    with clients(site, lanes) as load:
        load.rate(2)  # caches fill
        return load.rate(seconds)


def _base(site: Site) -> Iterator[Sequence[int]]:
    yield from _deep(site, 1000)


def _deep(site: Site, pending: int) -> Iterator[Sequence[int]]:
    lanes = stock.add_lanes(site, slots=_SLOTS)
    stock.add_tasks(site, lanes, pending)
    yield lanes


def _wide(site: Site, count: int) -> Iterator[Sequence[int]]:
    lanes = stock.add_lanes(site, count, slots=10)
    stock.add_tasks(site, lanes, 10 * count)
    yield lanes


def _behind(site: Site, count: int) -> Iterator[Sequence[int]]:
    """Lanes with tasks whose slots another session holds come first in every order there is."""
    full = stock.add_lanes(site, count, slots=_FULL_SLOTS, name="full")
    stock.add_tasks(site, full, 10 * count)
    lanes = stock.add_lanes(site, slots=_SLOTS)
    stock.add_tasks(site, lanes, 1000)
    with psycopg.connect(site.dsn, autocommit=True) as holder:
        holder.execute(
            "SELECT pg_advisory_lock(lane, slot) FROM unnest(%s::int[]) AS lane, generate_series(0, %s) AS slot",
            (full, _FULL_SLOTS - 1),
        )
        yield lanes
