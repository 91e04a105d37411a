"""Every statement that writes a task's state makes the moves of the table and no other, and only for whom it may."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from psycopg.errors import CheckViolation

from asynch import db
from asynch.db import Row
from asynch.domain.states import MOVES, Event, Phase, State
from asynch.sql import catalogue
from asynch.store import queue, slots, workers
from asynch.store import tasks as store
from asynch.store.queue import Claim, Outcome
from asynch.worker import outcomes
from tests.moving import KEEP, OWNER, RESULT, TERMS, Run, failed, rescue, settled
from tests.rows import (
    HOST,
    QUEUE_TIMEOUT_S,
    TENANT,
    add_model,
    add_task,
    add_tasks,
    ago,
    bend,
    row_of,
    rows_of,
    save,
    state_of,
    worker,
)

Place = tuple[State, bool, Phase, bool]
ENDED = (State.SUCCEEDED, State.FETCHED, State.CANCELLED)

#: every (state, final, phase, cancel asked for) that the table's CHECKs allow
PLACES: list[Place] = [
    (state, final, phase, asked)
    for state, final, phase, asked in product(State, (False, True), Phase, (False, True))
    if final is (state in ENDED) or state is State.FAILED
    if not asked or state is State.RUNNING
]


def runs(place: Place) -> bool:
    return place[0] is State.RUNNING


def settle(outcome: Callable[[Claim], Outcome]) -> Run:
    def run(conn: db.Connection, ids: list[int], claims: list[Claim]) -> None:
        queue.settle(conn, [outcome(c) for c in claims], queue_timeout_s=QUEUE_TIMEOUT_S)

    return run


def purge(conn: db.Connection, ids: list[int], claims: list[Claim]) -> None:
    for state in MOVES[Event.PURGE].sources:
        queue.purge(conn, state=state, most=100)


#: what each statement does: its events, the place it is driven from, and from which places it moves a task where
STATEMENTS: dict[str, tuple[str, Sequence[Event], Run, Callable[[Place], bool]]] = {
    "claim": (
        "claim",
        [Event.CLAIM],
        lambda c, ids, _: queue.claim(c, counts={lane_of(c): 100}, worker_id=OWNER, timezone="UTC", known_dead=slots.find_dead(c, worker_id=OWNER)),
        lambda p: p[0] is State.PENDING and p[2] is Phase.CALL,
    ),
    "claim_uploads": (
        "claim_uploads",
        [Event.CLAIM],
        lambda c, ids, _: queue.claim_uploads(c, tmp_host=HOST, most=100, worker_id=OWNER),
        lambda p: p[0] is State.PENDING and p[2] is Phase.UPLOAD,
    ),
    "settle deferred": (
        "settle", [Event.DEFER], settle(lambda c: outcomes.deferred(TERMS, c, "http://x/jobs/1")), runs,
    ),
    "settle saved": (
        "settle", [Event.SAVE], settle(lambda c: outcomes.saved(TERMS, c, RESULT)), runs,
    ),
    "settle delivered": (
        "settle", [Event.DELIVER], settle(lambda c: outcomes.delivered(TERMS, c)), runs,
    ),
    "settle failed": (
        "settle", [Event.FAIL], settle(lambda c: failed(c, times=9)), runs,
    ),
    "settle given up": (
        "settle", [Event.GIVE_UP], settle(lambda c: failed(c, times=0)), runs,
    ),
    "settle upload failed": (
        "settle", [Event.FAIL], settle(lambda c: outcomes.upload_failed(TERMS, c, "x")), runs,
    ),
    "settle released": (
        "settle", [Event.RELEASE], settle(lambda c: outcomes.released(TERMS, c, "x")), runs,
    ),
    "settle lost": (
        "settle", [Event.LOSE], settle(lambda c: outcomes.lost(TERMS, c)), runs,
    ),
    "settle cancelled": (
        "settle", [Event.CANCEL], settle(lambda c: outcomes.cancelled(TERMS, c)), runs,
    ),
    "rescue": (
        "rescue", [Event.RESCUE, Event.CANCEL], rescue(charged=True, max_crashes=3), runs,
    ),
    "rescue of the last crash": (
        "rescue", [Event.RESCUE, Event.CRASH, Event.CANCEL], rescue(charged=True, max_crashes=1),
        runs,
    ),
    "rescue that charges nobody": (
        "rescue", [Event.RESCUE, Event.CANCEL], rescue(charged=False, max_crashes=1), runs,
    ),
    "retry_due": (
        "retry_due",
        [Event.RETRY],
        lambda c, ids, _: queue.retry_due(c, most=100, queue_timeout_s=QUEUE_TIMEOUT_S),
        lambda p: p[0] is State.FAILED and not p[1],
    ),
    "rerun": (
        "rerun",
        [Event.RERUN],
        lambda c, ids, _: store.rerun(c, tenant_id=TENANT, ids=ids, updater="u", queue_timeout_s=QUEUE_TIMEOUT_S),
        lambda p: p[0] in (State.FAILED, State.CANCELLED) and p[1],
    ),
    "cancel": (
        "cancel",
        [Event.CANCEL],
        lambda c, ids, _: store.cancel(c, tenant_id=TENANT, ids=ids, updater="u", failed_retention_s=60.0),
        lambda p: p[0] in (State.PENDING, State.FAILED) and not p[1],
    ),
    "expire_queue": (
        "expire_queue",
        [Event.EXPIRE],
        lambda c, ids, _: queue.expire_queue(c, most=100, failed_retention_s=60.0),
        lambda p: p[0] is State.PENDING,
    ),
    "lose_silent_hosts": (
        "lose_silent_hosts",
        [Event.LOSE],
        lambda c, ids, _: queue.lose_silent_hosts(c, most=100, grace_s=0.0, queue_timeout_s=QUEUE_TIMEOUT_S),
        lambda p: p[0] is State.PENDING and p[2] is Phase.UPLOAD,
    ),
    "fetch": (
        "fetch",
        [Event.FETCH],
        lambda c, ids, _: store.fetch(c, tenant_id=TENANT, ids=ids, mark=True),
        lambda p: p[0] is State.SUCCEEDED,
    ),
    "purge": ("purge", [Event.PURGE], purge, lambda p: p[1]),
}  # fmt: skip


def lane_of(conn: db.Connection) -> int:
    found = conn.execute("SELECT lane_id FROM asynch_models").fetchone()
    assert found is not None
    return int(found["lane_id"])


@dataclass(frozen=True)
class Driven:
    """One task before and after a statement; `after` None when its row is gone."""

    place: Place
    before: Row
    after: Row | None

    @property
    def moved(self) -> bool:
        if self.after is None:
            return True
        return any(
            self.before[c] != self.after[c] for c in ("state", "final", "phase", "attempt", "finished_at", "poll_url")
        )


def drive(pool: db.Pool, dsn: str, run: Run, *, due: bool) -> list[Driven]:
    """A task in every place, and the statement run once over all of them; `due`: for whatever the cleaner does."""
    lane = add_model(pool)
    ids = add_tasks(pool, lane, len(PLACES))
    with worker(dsn) as me:
        claims = me.claim(lane, len(ids))
    for task_id, (state, final, phase, asked) in zip(ids, PLACES, strict=True):
        if phase is Phase.UPLOAD:
            save(pool, task_id)
        bend(
            pool, [task_id], state=int(state), final=final, phase=int(phase), cancel_requested=asked, worker_id=OWNER,
            wake_at=ago(10 if due else -1000), enqueue_at=ago(10), finished_at=ago(5),
            upload_headers="" if final else "sealed",
        )  # fmt: skip
    before = rows_of(pool)
    held = [c._replace(worker_id=OWNER, phase=Phase(before[c.id]["phase"]), saved=RESULT) for c in claims]
    with db.transaction(pool) as conn:
        run(conn, ids, held)
    after = rows_of(pool)
    return [Driven(place, before[i], after.get(i)) for i, place in zip(ids, PLACES, strict=True)]


@pytest.fixture(scope="module", params=STATEMENTS)
def driven(request: pytest.FixtureRequest, module_dsn: str) -> tuple[str, list[Driven]]:
    """A statement by its name here, and what it did to each task."""
    with db.open_pool(module_dsn, size=2, name="tests") as pool:
        with db.transaction(pool) as conn:
            conn.execute("DELETE FROM asynch_task; DELETE FROM asynch_models")
        return request.param, drive(pool, module_dsn, STATEMENTS[request.param][2], due=request.param != "rerun")


def test_a_statement_moves_only_as_the_table_allows(driven: tuple[str, list[Driven]]) -> None:
    name, tasks = driven
    moves = [MOVES[event] for event in STATEMENTS[name][1]]

    for task in tasks:
        if task.moved:
            source, target = task.place[0], State(task.after["state"]) if task.after else None
            fitting = [m for m in moves if source in m.sources and target is m.target]
            assert fitting, f"{task.place} -> {target}"
            assert task.after is None or task.after["final"] in {m.final for m in fitting}


def test_a_statement_moves_whom_it_is_for(driven: tuple[str, list[Driven]]) -> None:
    name, tasks = driven
    is_for = STATEMENTS[name][3]

    assert {task.place for task in tasks if task.moved} == {place for place in PLACES if is_for(place)}


def test_a_statement_leaves_all_others_as_they_are(driven: tuple[str, list[Driven]]) -> None:
    name, tasks = driven

    for task in tasks:
        if not task.moved and not (name == "cancel" and task.place[0] is State.RUNNING):
            assert task.after == task.before


def test_a_moved_row_is_a_new_version(driven: tuple[str, list[Driven]]) -> None:
    for task in driven[1]:
        if task.moved and task.after:
            assert task.after["version"] == task.before["version"] + 1


def test_the_creators_headers_stay_until_the_row_is_final(driven: tuple[str, list[Driven]]) -> None:
    for task in driven[1]:
        if task.after:
            assert task.after["upload_headers"] == ("" if task.after["final"] else task.before["upload_headers"])


def test_every_event_is_driven_by_a_statement() -> None:
    assert {event for _, events, _, _ in STATEMENTS.values() for event in events} == set(Event)


def test_every_write_to_a_state_is_driven() -> None:
    writes = re.compile(r"UPDATE asynch_task\b.*?\bSET\b(.*)|DELETE FROM asynch_task\b", re.DOTALL)
    writing = {name for name, text in catalogue().items() if writes.search(text)}

    assert writing - {"write_progress", "reseal_task", "notify_expiring"} == {
        statement for statement, *_ in STATEMENTS.values()
    }


def test_cancelling_what_runs_only_asks_for_it(pool: db.Pool, dsn: str) -> None:
    _, _, run, _ = STATEMENTS["cancel"]

    asked = [d.after for d in drive(pool, dsn, run, due=True) if d.place[0] is State.RUNNING]

    assert [(r["state"], r["cancel_requested"]) for r in asked if r] == [(State.RUNNING, True)] * 4


@pytest.mark.parametrize(
    ("state", "final"), [(0, True), (1, True), (2, False), (4, False), (5, False), (6, True), (-1, False)]
)
def test_the_table_refuses_places_that_are_none(pool: db.Pool, state: int, final: bool) -> None:
    task = add_task(pool, add_model(pool))

    with pytest.raises(CheckViolation):
        bend(pool, [task], state=state, final=final)


def test_the_table_refuses_a_saved_result_without_its_file(pool: db.Pool) -> None:
    task = add_task(pool, add_model(pool))

    with pytest.raises(CheckViolation):
        bend(pool, [task], phase=1)


# -- fencing -------------------------------------------------------------------------------------------------------

SETTLING: dict[Event, Callable[[Claim], Outcome]] = {
    Event.SAVE: lambda c: outcomes.saved(TERMS, c, RESULT),
    Event.DELIVER: lambda c: outcomes.delivered(TERMS, c),
    Event.FAIL: lambda c: failed(c, times=9),
    Event.GIVE_UP: lambda c: failed(c, times=0),
    Event.RELEASE: lambda c: outcomes.released(TERMS, c, "x"),
    Event.LOSE: lambda c: outcomes.lost(TERMS, c),
    Event.CANCEL: lambda c: outcomes.cancelled(TERMS, c),
}


@pytest.mark.parametrize("event", SETTLING)
def test_the_holder_of_a_claim_is_believed(pool: db.Pool, dsn: str, event: Event) -> None:
    lane = add_model(pool)
    add_task(pool, lane)
    with worker(dsn) as me:
        claim = me.claim_one(lane)

    assert settled(pool, SETTLING[event](claim)) == {(claim.id, claim.attempt)}


@pytest.mark.parametrize("event", SETTLING)
@pytest.mark.parametrize("wrong", [{"attempt": 2}, {"attempt": 0}, {"worker_id": 0}, {"tenant_id": 2}], ids=str)
def test_a_claim_that_is_none_is_not_believed(pool: db.Pool, dsn: str, event: Event, wrong: dict[str, Any]) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    with worker(dsn) as me:
        claim = me.claim_one(lane)
    before = row_of(pool, task)

    assert settled(pool, SETTLING[event](claim._replace(**wrong))) == set()
    assert row_of(pool, task) == before


@pytest.mark.parametrize("event", SETTLING)
@pytest.mark.parametrize(
    ("state", "final"),
    [(State.PENDING, False), (State.SUCCEEDED, True), (State.FAILED, False), (State.FAILED, True),
     (State.FETCHED, True), (State.CANCELLED, True)],
)  # fmt: skip
def test_a_claim_that_is_over_is_not_believed(pool: db.Pool, dsn: str, event: Event, state: State, final: bool) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    with worker(dsn) as me:
        claim = me.claim_one(lane)
    bend(pool, [task], state=int(state), final=final)  # same attempt, same worker
    before = row_of(pool, task)

    assert settled(pool, SETTLING[event](claim)) == set()
    assert row_of(pool, task) == before


def test_stale_claim_cannot_deliver(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    with worker(dsn) as me, worker(dsn) as other:
        first = me.claim_one(lane)
        with db.transaction(pool) as conn:
            workers.rescue(conn, workers=[me.id], host="h", charged=True, max_crashes=3, keep=KEEP, most=10)
        second = other.claim_one(lane)

        assert settled(pool, outcomes.delivered(TERMS, first)) == set()

    assert second.attempt == first.attempt + 1
    assert state_of(pool, task) is State.RUNNING


def test_a_mixed_batch_writes_exactly_those_still_ours(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    add_tasks(pool, lane, 6)
    with worker(dsn) as me:
        claims = me.claim(lane, 6)
    bend(pool, [claims[1].id], attempt=9)
    bend(pool, [claims[3].id], worker_id=9)
    bend(pool, [claims[4].id], state=5, final=True)

    written = settled(pool, *(outcome(claim) for outcome, claim in zip(SETTLING.values(), claims, strict=False)))

    assert written == {(claims[n].id, 1) for n in (0, 2, 5)}


def test_an_outcome_written_twice_is_written_once(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    add_task(pool, lane)
    with worker(dsn) as me:
        claim = me.claim_one(lane)
    outcome = outcomes.delivered(TERMS, claim)

    assert (len(settled(pool, outcome)), len(settled(pool, outcome))) == (1, 0)
