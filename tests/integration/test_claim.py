"""The claim: each task once, in its lane's order, never more of a lane than it has slots."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from asynch import db
from asynch.domain.states import State
from asynch.store import queue, slots, workers
from asynch.store import tasks as store
from asynch.store.queue import Claim
from asynch.store.slots import Slot
from asynch.worker import lookout, outcomes
from asynch.worker.lookout import Lookout
from asynch.worker.marks import Marks
from tests.database import CALLS, all_rows
from tests.rows import (
    HOST,
    QUEUE_TIMEOUT_S,
    Worker,
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
from tests.waiting import until

TERMS = outcomes.Terms("tests", failed_retention_s=60.0, unfetched_retention_s=60.0)
SESSIONS = 8
TASKS = 60  #: a lane


class Calls:
    """Counts what runs, independently of the database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.open: Counter[int] = Counter()
        self.most: Counter[int] = Counter()
        self.seen: Counter[int] = Counter()
        self.ended = 0

    def begin(self, claim: Claim) -> None:
        with self._lock:
            self.open[claim.lane_id] += 1
            self.most[claim.lane_id] = max(self.most[claim.lane_id], self.open[claim.lane_id])
            self.seen[claim.id] += 1

    def end(self, claim: Claim) -> None:
        with self._lock:
            self.open[claim.lane_id] -= 1
            self.ended += 1


def hammer(dsn: str, limits: dict[int, int], calls: Calls, done: threading.Event) -> None:
    """Rounds like the poller's: win slots, claim, call, settle, give back; several calls open at once."""
    dice, held, running = random.Random(), defaultdict(set), list[tuple[Claim, Slot]]()
    with worker(dsn) as me:
        back: list[Slot] = []
        while not done.is_set():
            wants = [
                (lane, dice.randint(1, n), dice.sample(free, len(free)))
                for lane, n in limits.items()
                if (free := [s for s in range(n) if s not in held[lane]])
            ]
            won = slots.swap_slots(me.session, give_back=back, wants=wants)
            spare = defaultdict(list)
            for slot in won:
                spare[slot.lane_id].append(slot)
                held[slot.lane_id].add(slot.slot)
            if won:
                counts = {lane: len(of_lane) for lane, of_lane in spare.items()}
                for claim in queue.claim(me.session, counts=counts, worker_id=me.id, timezone="UTC"):
                    calls.begin(claim)
                    running.append((claim, spare[claim.lane_id].pop()))
            back = [slot for of_lane in spare.values() for slot in of_lane]
            back += finish(me, running, calls, dice)
            for slot in back:
                held[slot.lane_id].discard(slot.slot)


def finish(me: Worker, running: list[tuple[Claim, Slot]], calls: Calls, dice: random.Random) -> list[Slot]:
    """End some of the open calls; the slots they leave."""
    dice.shuffle(running)
    ended = [running.pop() for _ in range(dice.randint(0, len(running)))]
    for claim, _ in ended:
        calls.end(claim)
    written = queue.settle(
        me.session, [outcomes.delivered(TERMS, claim) for claim, _ in ended], queue_timeout_s=QUEUE_TIMEOUT_S
    )
    assert len(written) == len(ended)
    return [slot for _, slot in ended]


@dataclass(frozen=True)
class Drained:
    """What was seen while eight sessions drained lanes of 1, 2, 2 and 3 slots."""

    limits: dict[int, int]
    calls: Calls
    rows: list[db.Row]
    counted: int


@pytest.fixture(scope="module")
def drained(module_dsn: str) -> Drained:
    """One drain for all that is to be seen in it."""
    with db.open_pool(module_dsn, size=2, name="tests") as pool:
        limits = {add_model(pool, f"m{n}", max_concurrency=most): most for n, most in enumerate((1, 2, 2, 3))}
        for lane in limits:
            add_tasks(pool, lane, TASKS)
        calls = drain(module_dsn, limits)
        counted = all_rows(pool, f"SELECT sum(request_count)::int AS n FROM {CALLS}")[0]["n"]
        return Drained(limits, calls, list(rows_of(pool).values()), counted)


def drain(dsn: str, limits: dict[int, int]) -> Calls:
    calls, done = Calls(), threading.Event()
    with ThreadPoolExecutor(SESSIONS) as threads:
        at_work = [threads.submit(hammer, dsn, limits, calls, done) for _ in range(SESSIONS)]
        try:
            until(lambda: calls.ended == TASKS * len(limits) or any(f.done() for f in at_work), 60.0)
        finally:
            done.set()
        for future in at_work:
            future.result()
    return calls


def test_many_sessions_never_run_more_of_a_lane_than_its_slots(drained: Drained) -> None:
    assert dict(drained.calls.most) == drained.limits  # reached, and never exceeded


def test_many_sessions_claim_each_task_exactly_once(drained: Drained) -> None:
    assert set(drained.calls.seen.values()) == {1}
    assert [(r["state"], r["attempt"]) for r in drained.rows] == [(State.SUCCEEDED, 1)] * len(drained.rows)


def test_many_sessions_count_each_call_once(drained: Drained) -> None:
    assert drained.counted == len(drained.rows)


def test_a_task_in_another_transactions_hands_is_passed_over(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    first, second = add_tasks(pool, lane, 2)

    with worker(dsn) as me, db.transaction(pool) as conn:
        conn.execute("SELECT 1 FROM asynch_task WHERE id = %s FOR UPDATE", (first,))
        claimed = me.claim(lane, 2)

    assert [c.id for c in claimed] == [second]


def test_a_claim_takes_the_next_attempt_and_the_workers_name(pool: db.Pool, dsn: str) -> None:
    task = add_task(pool, add_model(pool))
    bend(pool, [task], attempt=4)

    with worker(dsn) as me:
        claim = me.claim_one(row_of(pool, task)["lane_id"])

    row = row_of(pool, task)
    assert (claim.attempt, claim.worker_id) == (5, me.id)
    assert (row["attempt"], row["worker_id"], row["state"]) == (5, me.id, State.RUNNING)


def test_higher_priority_comes_first_then_the_older_then_the_smaller_id(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    low = add_tasks(pool, lane, 2, priority=0)  # one transaction: one enqueue time, so the id decides
    high = add_task(pool, lane, priority=9)
    older = add_task(pool, lane, priority=0)
    bend(pool, [older], enqueue_at=ago(60))

    with worker(dsn) as me:
        assert [c.id for c in me.claim(lane, 10)] == [high, older, *low]


def test_each_of_the_twenty_ranks_is_claimed_in_its_turn(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    tasks = add_tasks(pool, lane, 20)
    for rank, task in enumerate(tasks):
        bend(pool, [task], rank=rank)

    with worker(dsn) as me:
        assert [me.claim(lane, 1)[0].id for _ in tasks] == tasks


def test_each_lane_gets_no_more_than_it_asked_for(pool: db.Pool, dsn: str) -> None:
    lanes = [add_model(pool, f"m{n}") for n in range(3)]
    for lane in lanes:
        add_tasks(pool, lane, 5)

    with worker(dsn) as me:
        claimed = queue.claim(me.session, counts={lanes[0]: 1, lanes[1]: 3}, worker_id=me.id, timezone="UTC")

    assert Counter(c.lane_id for c in claimed) == {lanes[0]: 1, lanes[1]: 3}


def test_a_delayed_task_is_not_claimed_before_its_time(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    add_task(pool, lane, delay_s=60.0)

    with worker(dsn) as me:
        assert me.claim(lane) == []


def test_a_delayed_task_of_the_same_priority_is_not_in_the_way(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    add_tasks(pool, lane, 3, delay_s=60.0, priority=5)
    due = add_task(pool, lane, priority=5)

    with worker(dsn) as me:
        assert [c.id for c in me.claim(lane, 2)] == [due]


def test_delayed_tasks_of_a_higher_priority_are_not_in_the_way(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    add_tasks(pool, lane, 3, delay_s=60.0, priority=9)
    due = add_task(pool, lane, priority=0)

    with worker(dsn) as me:
        assert [c.id for c in me.claim(lane, 1)] == [due]


@pytest.mark.parametrize("change", ["enabled = 0", "deleted_at = now()"])
def test_a_closed_lane_is_not_claimed(pool: db.Pool, dsn: str, change: str) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    with db.transaction(pool) as conn:
        conn.execute(f"UPDATE asynch_models SET {change}".encode())

    with worker(dsn) as me:
        assert me.claim(lane) == []
    assert state_of(pool, task) is State.PENDING


@pytest.mark.parametrize("change", ["enabled = 0", "deleted_at = now()"])
def test_a_closed_lane_is_not_offered(pool: db.Pool, dsn: str, change: str) -> None:
    lane = add_model(pool)
    add_task(pool, lane)
    with db.transaction(pool) as conn:
        conn.execute(f"UPDATE asynch_models SET {change}".encode())

    with worker(dsn) as me:
        assert slots.scan_lanes(me.session, after=0, most=10) == ([], None)
        assert slots.lanes_named(me.session, [lane]) == []


def test_results_of_a_closed_lane_are_still_stored(pool: db.Pool, dsn: str) -> None:
    task = add_task(pool, add_model(pool))
    save(pool, task)
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_models SET enabled = 0, deleted_at = now()")

    with worker(dsn) as me:
        assert [c.id for c in me.claim_upload()] == [task]


def test_a_saved_result_is_not_called_again(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    save(pool, add_task(pool, lane))

    with worker(dsn) as me:
        assert me.claim(lane) == []


def test_a_saved_result_is_claimed_by_its_own_host_alone(pool: db.Pool, dsn: str) -> None:
    task = add_task(pool, add_model(pool))
    save(pool, task, tmp_host="host-b")

    with worker(dsn) as me:
        assert me.claim_upload(tmp_host="host-a") == []
        assert [c.id for c in me.claim_upload(tmp_host="host-b")] == [task]


def test_a_saved_result_is_not_claimed_before_its_back_off_ends(pool: db.Pool, dsn: str) -> None:
    task = add_task(pool, add_model(pool), delay_s=60.0)
    save(pool, task)

    with worker(dsn) as me:
        assert me.claim_upload() == []


def test_uploads_are_claimed_oldest_first_and_bounded(pool: db.Pool, dsn: str) -> None:
    tasks = [add_task(pool, add_model(pool, f"m{n}")) for n in range(3)]
    for age, task in enumerate(tasks):
        save(pool, task)
        bend(pool, [task], enqueue_at=ago(10 * age))

    with worker(dsn) as me:
        assert {c.id for c in me.claim_upload(most=2)} == set(tasks[1:])


def test_a_lowered_max_concurrency_drains(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool, max_concurrency=3)
    add_tasks(pool, lane, 10)
    with worker(dsn) as first, worker(dsn) as second:
        won, _ = first.win(lane, 3, [0, 1, 2])
        first.claim(lane, 3)
        with db.transaction(pool) as conn:
            conn.execute("UPDATE asynch_models SET max_concurrency = 1")
        (now,) = slots.lanes_named(second.session, [lane])
        assert second.win(lane, 3, range(now.max_concurrency)) == ([], {})  # slot 0 is still out

        first.win(lane, 0, [], give_back=[s for s in won if s.slot == 0])

        assert second.win(lane, 3, range(now.max_concurrency)) == ([Slot(lane, 0)], {})


def test_statistics_count_a_row_per_day_tenant_creator_and_model(pool: db.Pool, dsn: str) -> None:
    mine, yours = add_model(pool, "m"), add_model(pool, "m", tenant_id=2)
    add_tasks(pool, mine, 2, creator="ann")
    add_task(pool, mine, creator="bob")
    add_task(pool, yours, tenant_id=2, creator="ann")

    with worker(dsn) as me:
        queue.claim(me.session, counts={mine: 9, yours: 9}, worker_id=me.id, timezone="UTC")

    counted = all_rows(
        pool,
        "SELECT day = (now() AT TIME ZONE 'UTC')::date AS today, tenant_id, creator, model_name, request_count "
        f"FROM {CALLS} ORDER BY tenant_id, creator",
    )
    assert [tuple(r.values()) for r in counted] == [
        (True, 1, "ann", "m", 2),
        (True, 1, "bob", "m", 1),
        (True, 2, "ann", "m", 1),
    ]


def test_statistics_add_up_over_claims(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    add_tasks(pool, lane, 3)

    with worker(dsn) as me:
        for _ in range(3):
            me.claim_one(lane)

    assert all_rows(pool, f"SELECT request_count FROM {CALLS}") == [{"request_count": 3}]


def test_statistics_use_the_day_of_the_configured_timezone(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    add_tasks(pool, lane, 2)

    with worker(dsn) as me:
        for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):  # 25 hours apart: never the same day
            queue.claim(me.session, counts={lane: 1}, worker_id=me.id, timezone=zone)

    assert len(all_rows(pool, f"SELECT day FROM {CALLS}")) == 2


def test_an_upload_counts_in_no_statistics(pool: db.Pool, dsn: str) -> None:
    save(pool, add_task(pool, add_model(pool)))

    with worker(dsn) as me:
        assert me.claim_upload()

    assert all_rows(pool, f"SELECT * FROM {CALLS}") == []


def test_lanes_of_the_system_count_in_no_statistics(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    add_task(pool, lane)
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_models SET kind = 'webhook'")

    with worker(dsn) as me:
        me.claim_one(lane)

    assert all_rows(pool, f"SELECT * FROM {CALLS}") == []


def test_a_scan_finds_every_waiting_lane_once_page_by_page(pool: db.Pool, dsn: str) -> None:
    lanes = [add_model(pool, f"m{n:02}") for n in range(10)]
    for lane in lanes[::2]:
        add_tasks(pool, lane, 3)

    found, cursor = list[int](), 0
    with worker(dsn) as me:
        while True:
            page, after = slots.scan_lanes(me.session, after=cursor, most=2)
            found += [lane.lane_id for lane in page]
            if after is None:
                break
            cursor = after

    assert found == lanes[::2]


@pytest.mark.parametrize("most", [1, 2, 20])
def test_a_scan_looks_at_known_lanes_from_their_marks_alone(pool: db.Pool, dsn: str, most: int) -> None:
    """As far as the ranks go that have one; what it does not know it finds as ever."""
    before, behind, ranked, empty, new, polled, last = (add_model(pool, f"m{n}") for n in range(7))
    now = datetime.now(UTC)
    bend(pool, add_tasks(pool, before, 3), enqueue_at=now - timedelta(hours=1))
    bend(pool, add_tasks(pool, behind, 1), enqueue_at=now)
    bend(pool, add_tasks(pool, ranked, 1, priority=3), enqueue_at=now - timedelta(hours=1))
    add_tasks(pool, new, 2)
    works = add_tasks(pool, polled, 1)
    working_on(pool, works)
    bend(pool, works, enqueue_at=now - timedelta(hours=1))
    add_tasks(pool, last, 2)
    marks = {lane: {19: now - timedelta(minutes=1)} for lane in (before, behind, ranked, empty, polled, last)}

    found, cursor = list[int](), 0
    with worker(dsn) as me:
        while True:
            starts = {lane: marks[lane] for lane in sorted(marks) if lane > cursor}
            page, after = slots.scan_lanes(me.session, after=cursor, most=most, starts=starts)
            found += [lane.lane_id for lane in page]
            if after is None:
                break
            cursor = after

    assert found == [behind, ranked, new, polled, last]


def test_sweeps_that_look_from_the_beginning_take_a_twentieth_of_the_time(
    pool: db.Pool, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a clock on which each of them takes a second, as under a held snapshot."""
    now, wholes = 0.0, list[float]()

    def scan(session: db.Connection, **asked: Any) -> tuple[list[slots.Lane], int | None]:
        nonlocal now
        if not asked["starts"]:
            wholes.append(now)
            now += 1.0
        return slots.scan_lanes(session, **asked)

    monkeypatch.setattr(lookout, "monotonic", lambda: now)
    monkeypatch.setattr(lookout, "scan_lanes", scan)
    lane = add_model(pool)
    task = add_task(pool, lane)
    with worker(dsn) as me:
        marks = Marks()
        (claim,) = me.claim(lane)
        marks.learn({lane: 1}, {lane: {}}, [claim], took_s=0.0)
        bend(pool, [task], state=State.PENDING, worker_id=0, enqueue_at=ago(3600))  # to a place before the mark
        looks = Lookout(me.session, marks, batch_size=64, poll_interval_s=1.0, tenant_most=0, tmp_host=HOST)
        found = []
        while now < 90.0:
            met = looks.look(calls=1, busy=())
            found += [now for _ in met]
            for each in met:
                looks.cool(each.lane_id)
            now += 0.1

    assert wholes[0] == 0.0
    assert all(20.9 < after - before < 22.1 for before, after in pairwise(wholes))  # it sweeps once a second
    assert len(found) == len(wholes) > 3


def test_sweeps_go_the_way_that_was_cheaper(pool: db.Pool, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock where a sweep takes what it is said to: from the marks more at first, as a probe a rank does."""
    now, cost, ways = 0.0, {"beginning": 0.5, "marks": 0.8}, list[str]()

    def scan(session: db.Connection, **asked: Any) -> tuple[list[slots.Lane], int | None]:
        nonlocal now
        ways.append("marks" if asked["starts"] else "beginning")
        now += cost[ways[-1]]
        return slots.scan_lanes(session, **asked)

    def sweep_until(then: float) -> list[str]:
        nonlocal now
        ways.clear()
        while now < then:
            looks.look(calls=1, busy=())
            now += 0.1
        return list(ways)

    monkeypatch.setattr(lookout, "monotonic", lambda: now)
    monkeypatch.setattr(lookout, "scan_lanes", scan)
    lane = add_model(pool)
    add_task(pool, lane)
    with worker(dsn) as me:
        marks = Marks()
        (claim,) = me.claim(lane)
        marks.learn({lane: 1}, {lane: {}}, [claim], took_s=0.0)
        looks = Lookout(me.session, marks, batch_size=64, poll_interval_s=1.0, tenant_most=0, tmp_host=HOST)
        at_first = sweep_until(20.0)
        cost["beginning"] = 2.0
        under_a_snapshot = sweep_until(60.0)
        cost["beginning"] = 0.5
        after_it = sweep_until(150.0)

    assert at_first[:3] == ["beginning", "marks", "beginning"]
    assert at_first.count("marks") == 1
    assert 1 <= under_a_snapshot.count("beginning") <= 2
    assert under_a_snapshot.count("marks") > 10
    assert after_it[-20:] == ["beginning"] * 20


def test_a_claim_tells_the_terms_of_the_call(pool: db.Pool, dsn: str) -> None:
    lane = add_model(
        pool, base_url="http://model", route="r", http_method="GET", timeout_seconds=7, retry_times=3,
        retry_queue_max_seconds=-1, retry_on="transient", retry_backoff_seconds=2, max_result_bytes=99,
    )  # fmt: skip
    add_task(pool, lane, payload='{"a": 1}', input_ref="ref", priority=4)

    with worker(dsn) as me:
        claim = me.claim_one(lane)

    target, rule = claim.target, claim.target.retry
    assert (target.base_url, target.route, target.method, target.timeout_s, target.max_bytes) == (
        "http://model", "r", "GET", 7.0, 99,
    )  # fmt: skip
    assert (rule.times, rule.on.value, rule.backoff_s, rule.queue_max_s) == (3, "transient", 2.0, -1)
    assert (claim.payload, claim.input_ref, claim.rank) == ('{"a": 1}', "ref", 11)


def test_a_claim_leaves_out_what_was_enqueued_before_its_start(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    before, after, *_ = add_tasks(pool, lane, 2)
    (urgent,) = add_tasks(pool, lane, priority=9)
    bend(pool, [before, urgent], enqueue_at=ago(20))
    bend(pool, [after], enqueue_at=ago(5))
    with worker(dsn) as me:
        found = queue.claim(
            me.session,
            counts={lane: 9},
            starts={lane: {19: datetime.now(UTC) - timedelta(seconds=10)}},
            worker_id=me.id,
            timezone="UTC",
        )

    assert [claim.id for claim in found] == [urgent, after]


# -- where a model works on ----------------------------------------------------------------------------------------


def working_on(pool: db.Pool, ids: list[int]) -> None:
    """Called an hour ago, answered by a 202, then put back by a worker that ended."""
    bend(pool, ids, poll_url="http://x/1", attempt=3, call_attempt=2, started_at=ago(3600), progress=40, message="m")


def test_what_a_model_works_on_comes_before_any_new_call(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    urgent = add_tasks(pool, lane, 3, priority=9)
    works = add_tasks(pool, lane, 2)
    working_on(pool, works)
    with worker(dsn) as me, worker(dsn) as other:
        first, second = me.claim(lane, 1), other.claim(lane, 3)

    assert {claim.id for claim in first} | {claim.id for claim in second[:3]} == {*works, *urgent[:2]}
    assert first[0].id in works
    assert len(second) == 3


def test_it_goes_on_with_its_call_and_counts_as_none(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    (task,) = add_tasks(pool, lane, payload='{"big": 1}')
    working_on(pool, [task])
    before = row_of(pool, task)
    with worker(dsn) as me:
        claim = me.claim_one(lane)

    row = row_of(pool, task)
    assert (claim.attempt, claim.call_attempt, claim.poll_url, claim.payload) == (4, 2, "http://x/1", None)
    assert claim.started_at == row["started_at"] == before["started_at"]
    assert (row["progress"], row["message"], row["call_attempt"]) == (40, "m", 2)
    assert not all_rows(pool, f"SELECT 1 FROM {CALLS}")


def test_a_disabled_model_ends_what_it_works_on_and_begins_nothing(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    new, works = add_tasks(pool, lane, 2)
    working_on(pool, [works])
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_models SET enabled = 0")
    with worker(dsn) as me:
        assert [found.lane_id for found in slots.lanes_named(me.session, [lane])] == [lane]
        assert [found.lane_id for found in slots.scan_lanes(me.session, after=0, most=5)[0]] == [lane]
        assert [claim.id for claim in me.claim(lane, 5)] == [works]
        assert slots.lanes_named(me.session, [lane]) == []
        assert slots.scan_lanes(me.session, after=0, most=5)[0] == []

    assert state_of(pool, new) is State.PENDING


@pytest.mark.parametrize("charged", [True, False])
def test_a_rescue_keeps_where_a_model_works_on_and_charges_nobody(pool: db.Pool, dsn: str, charged: bool) -> None:
    lane = add_model(pool)
    (works,) = add_tasks(pool, lane)
    working_on(pool, [works])
    with worker(dsn) as me:
        claim = me.claim_one(lane)
        with db.transaction(pool) as conn:
            keep = workers.Retention(60.0, 60.0)
            found = workers.rescue(
                conn, workers=[me.id], host="h", charged=charged, max_crashes=1, keep=keep, most=9
            )  # fmt: skip

    row = row_of(pool, claim.id)
    assert found == [(lane, State.PENDING)]
    assert (row["poll_url"], row["crash_count"], row["progress"]) == ("http://x/1", 0, 40)


def test_what_runs_again_by_wish_of_its_user_is_called_anew(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    (works,) = add_tasks(pool, lane)
    working_on(pool, [works])
    with db.transaction(pool) as conn:
        store.cancel(conn, tenant_id=1, ids=[works], updater="u", failed_retention_s=60.0)
        store.rerun(conn, tenant_id=1, ids=[works], updater="u", queue_timeout_s=60.0)
    with worker(dsn) as me:
        claim = me.claim_one(lane)

    assert (claim.poll_url, claim.call_attempt, claim.payload) == ("", claim.attempt, "{}")
    assert row_of(pool, works)["progress"] is None
