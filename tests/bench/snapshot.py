"""Row 3: claims and createTask while a transaction elsewhere keeps its snapshot, beside the same without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from time import monotonic

import psycopg

from asynch import db
from asynch.domain.principal import Caller, Principal, Role
from asynch.executors.egress import Policy
from asynch.secretbox import SecretBox
from asynch.service.announcer import Announcer
from asynch.service.creation import Creation
from asynch.service.rooms import Rooms
from asynch.service.webhooks import Webhooks
from asynch.store import news
from asynch.store.tasks import NewTask
from tests.bench import stock
from tests.bench.claiming import Load, clients
from tests.bench.figures import Figure, compared
from tests.bench.place import Bench, Site, until

_CALLER = Caller(Principal(1, "bench", Role.USER))
_KEY = "A" * 43 + "="
_PENDING = 2000
_MOST_S = 1800.0
#: A lane's room is counted again after so many creations: the draws of all other lanes use it up too.
_COUNT_EVERY = 50


def run(bench: Bench) -> list[Figure]:
    """On one lane of 10 slots and on 100 lanes."""
    return [figure for lanes in (1, 100) for figure in _figures(bench, lanes)]


def _figures(bench: Bench, lanes: int) -> list[Figure]:
    claims, creates = zip(*[_rates(bench, lanes, held) for held in (True, False)], strict=True)
    where = f"{lanes} lane{'s' * (lanes > 1)} of 10 slots"
    return [
        compared(f"claim + complete, {where}: snapshot held / not", [claims], target=0.7),
        compared(f"createTask, {where}: snapshot held / not", [creates], target=0.7),
    ]


def _rates(bench: Bench, count: int, held: bool) -> tuple[float, float]:
    """Completions, then creations a second, after as long and as many as it takes for dead rows to matter."""
    with bench.site() as site:
        lanes = stock.add_lanes(site, count, slots=10)
        stock.add_tasks(site, lanes, _PENDING)
        stock.settle_down(site)
        with _snapshot(site.dsn) if held else nullcontext():
            with clients(site, lanes) as load:
                _wear(load, bench.scaled(60, 5), bench.scaled(300_000, 5_000))
                claims = load.rate(bench.scaled(15, 3))
            return claims, _creates(site, bench.scaled(10, 3))


@contextmanager
def _snapshot(dsn: str) -> Iterator[None]:
    with psycopg.connect(dsn) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SELECT count(*) FROM asynch_models")
        yield


def _wear(load: Load, seconds: float, completions: int) -> None:
    began = monotonic()
    until(lambda: monotonic() - began >= seconds and load.done >= completions, _MOST_S, what="the wear", every_s=0.1)


def _creates(site: Site, seconds: float) -> float:
    """By one creator, with nobody else at work: what is left is what the dead rows cost."""
    creation = Creation(
        site.pool,
        Announcer(site.pool, news.announce),
        Rooms(),
        Webhooks(site.pool, SecretBox([_KEY]), Policy.parse([], [], allow_loopback=True)),
        queue_timeout_s=86400.0,
        log_payloads=True,
        timezone="UTC",
        tenant_queue_limit=0,
    )
    task = NewTask("m-0", payload='{"n": 1}')
    made, began = 0, monotonic()
    while monotonic() - began < seconds:
        if made % _COUNT_EVERY == 0:
            with db.connection(site.pool) as conn:
                conn.execute("SELECT setval('asynch_id', nextval('asynch_id') + %s)", [stock.QUEUE_LIMIT])
        creation.create(_CALLER, task, None)
        made += 1
    return made / (monotonic() - began)
