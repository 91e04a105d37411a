"""The breaker of a service in the database: what opens it, what a probe does to it, and what is told of it."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from asynch import db
from asynch.domain.states import Event, Phase
from asynch.store.limits import Breaker, BreakerRule, find_breaker, tell_breakers
from asynch.store.queue import Failure, Outcome, Saved
from asynch.store.slots import Permit, lanes_named
from asynch.worker.breakers import Breakers, verdict
from tests.database import all_rows
from tests.rows import TENANT, a_claim, add_model
from tests.waiting import until

URL = "http://service.example:8080/v1"
RULE = BreakerRule(least=4)


def tell(pool: db.Pool, calls: int, failures: int, *, tenant: int = TENANT, url: str = URL) -> Breaker:
    with db.transaction(pool) as conn:
        tell_breakers(conn, {(tenant, url): (calls, failures)}, RULE)
        return find_breaker(conn, tenant_id=tenant, base_url=url)


def state(pool: db.Pool) -> str:
    with db.connection(pool) as conn:
        return find_breaker(conn, tenant_id=TENANT, base_url=URL).state


def wait(pool: db.Pool, seconds: float) -> None:
    """Let that much time go by for every breaker."""
    all_rows(
        pool,
        "UPDATE asynch_breaker SET since = since - make_interval(secs => %s), "
        "open_until = open_until - make_interval(secs => %s) RETURNING 1",
        seconds,
        seconds,
    )


def pause_s(pool: db.Pool) -> float:
    """How long from now on it stays open."""
    (row,) = all_rows(pool, "SELECT extract(epoch FROM open_until - now())::float8 AS s FROM asynch_breaker")
    return float(row["s"])


def permits(pool: db.Pool, lane: int) -> list[int]:
    with db.connection(pool) as conn:
        (found,) = lanes_named(conn, [lane])
    return [permit.most for permit in found.permits]


def test_enough_failures_among_enough_calls_open_it(pool: db.Pool) -> None:
    assert tell(pool, 3, 3).state == "closed"
    assert tell(pool, 6, 0).state == "closed"
    assert tell(pool, 0, 0).calls == 9
    assert tell(pool, 2, 2).state == "closed"  # 5 of 11
    assert tell(pool, 1, 1).state == "open"
    assert 4.0 < pause_s(pool) <= 5.0


def test_failures_of_long_ago_do_not_count(pool: db.Pool) -> None:
    tell(pool, 3, 3)
    wait(pool, 61)

    assert tell(pool, 3, 3).state == "closed"


def test_what_ends_while_it_is_open_changes_nothing(pool: db.Pool) -> None:
    tell(pool, 4, 4)
    until = pause_s(pool)

    assert tell(pool, 5, 0).state == "open"
    assert tell(pool, 5, 5).state == "open"
    assert pause_s(pool) <= until


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_minute(pool: db.Pool) -> None:
    tell(pool, 4, 4)
    pauses = []
    for _ in range(6):
        wait(pool, 61)
        assert state(pool) == "half_open"
        tell(pool, 1, 1)
        pauses.append(round(pause_s(pool)))

    assert pauses == [10, 20, 40, 60, 60, 60]


def test_a_probe_that_works_closes_it_and_it_counts_anew(pool: db.Pool) -> None:
    tell(pool, 4, 4)
    wait(pool, 6)

    assert tell(pool, 1, 0) == Breaker("closed", 1, 0, None)
    assert tell(pool, 3, 3).state == "closed"


def test_a_probe_of_a_worker_that_never_met_a_failure_closes_it(pool: db.Pool) -> None:
    tell(pool, 4, 4)
    wait(pool, 6)
    breakers, stop = Breakers(RULE), threading.Event()
    target = replace(a_claim().target, base_url=URL)
    breakers.note(outcome(Event.SAVE)._replace(claim=a_claim(tenant_id=TENANT, target=target)))
    telling = threading.Thread(target=breakers.run, args=(pool, stop))
    telling.start()
    try:
        until(lambda: state(pool) == "closed")
    finally:
        stop.set()
        telling.join()


def test_of_a_service_that_never_fails_nothing_is_written(pool: db.Pool) -> None:
    tell(pool, 1000, 0)

    assert all_rows(pool, "SELECT 1 FROM asynch_breaker") == []


def test_one_service_under_two_spellings_is_one(pool: db.Pool) -> None:
    with db.transaction(pool) as conn:
        tell_breakers(conn, {(TENANT, URL): (2, 2), (TENANT, f"{URL}/"): (2, 2)}, RULE)
        assert find_breaker(conn, tenant_id=TENANT, base_url=URL).state == "open"


def test_other_tenants_and_other_services_are_not_touched(pool: db.Pool) -> None:
    tell(pool, 4, 4)
    mine, theirs = add_model(pool, base_url=f"{URL}/"), add_model(pool, base_url=URL, tenant_id=TENANT + 1)
    elsewhere = add_model(pool, "n", base_url="http://service.example:8081/v1")

    assert permits(pool, mine) == [0]
    assert permits(pool, theirs) == permits(pool, elsewhere) == []
    wait(pool, 6)
    assert permits(pool, mine) == [1]


def outcome(event: Event, failure: Failure | None = None) -> Outcome:
    return Outcome(a_claim(), event, Phase.CALL, Saved(), 19, {}, failure=failure)


@pytest.mark.parametrize(
    ("code", "retryable", "good"),
    [
        ("model_connection", True, False),
        ("model_timeout", True, False),
        ("model_http_error", True, False),
        ("model_http_error", False, True),  # 404: the service works, the call is wrong
        ("result_too_large", False, None),
        ("egress_blocked", False, None),
        ("internal", True, None),
    ],
)
def test_a_failure_counts_where_the_service_is_to_blame(code: str, retryable: bool, good: bool | None) -> None:
    assert verdict(outcome(Event.FAIL, Failure(code, "", retryable))) is good


def test_only_calls_count(pool: db.Pool) -> None:
    upload = outcome(Event.DELIVER)._replace(claim=a_claim(phase=Phase.UPLOAD))

    assert verdict(outcome(Event.SAVE)) is True
    assert verdict(upload) is None
    assert verdict(outcome(Event.RELEASE)) is None


def test_a_permit_of_a_tenant_and_one_of_a_service_are_both_asked_for(pool: db.Pool) -> None:
    lane = add_model(pool, base_url=URL)
    all_rows(pool, "INSERT INTO asynch_tenant (tenant_id, max_concurrency) VALUES (%s, 4) RETURNING 1", TENANT)
    all_rows(
        pool,
        "INSERT INTO asynch_service (base_url, max_concurrency) VALUES (asynch_service_of(%s), 3) RETURNING 1",
        URL,
    )
    with db.connection(pool) as conn:
        (found,) = lanes_named(conn, [lane], tenant_most=9)  # which counts for tenants without a limit of their own

    keys = all_rows(pool, "SELECT permit_id FROM asynch_tenant UNION ALL SELECT permit_id FROM asynch_service")
    assert found.permits == tuple(Permit(row["permit_id"], most) for row, most in zip(keys, (4, 3), strict=True))
    assert lane not in {row["permit_id"] for row in keys}
