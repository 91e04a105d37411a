"""Staying alive and noticing death: beats, deadlines, cancellations, strays, and the rescue of the dead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import cast

import pytest

from asynch import db
from asynch.domain.states import State
from asynch.errors import CutReason, DatabaseDown, SessionLost
from asynch.executors import Call
from asynch.store import slots, workers
from asynch.store import tasks as store
from asynch.store.queue import Claim
from asynch.store.slots import Slot
from asynch.worker import liveness
from asynch.worker.liveness import Beat, Self, rescue_dead
from asynch.worker.poller import Poller
from asynch.worker.running import Run, Running
from asynch.worker.tmpdir import TmpDir
from tests.database import all_rows
from tests.rows import TENANT, Worker, a_claim, add_model, add_task, add_tasks, row_of, state_of, worker
from tests.waiting import until

KEEP = workers.Retention(failed_s=60.0, queue_timeout_s=60.0)


@pytest.fixture
def me(dsn: str) -> Iterator[Worker]:
    with worker(dsn) as registered:
        yield registered


@pytest.fixture
def running() -> Running:
    return Running()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time as the beat sees it."""
    now = [monotonic()]
    monkeypatch.setattr(liveness, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def beat(pool: db.Pool, me: Worker, running: Running, tmp_path: Path, clock: list[float]) -> Beat:
    made = Beat(
        pool,
        Self(me.id, "tests", "host-a"),
        running=running,
        tmp=TmpDir(tmp_path / "tmp", max_bytes=1000),
        keep=KEEP,
        max_crashes=3,
        free_threads=lambda: 5,
    )
    clock[0] += 2.0  # it is time to say something
    return made


def in_hand(running: Running, claim: Claim, *, slot: Slot | None = None, timeout_s: float = 60.0) -> Run:
    run = Run(claim, Call(timeout_s), () if slot is None else (slot,))
    running.add(run)
    return run


def a_dead_worker(pool: db.Pool, dsn: str, lane: int, count: int) -> Worker:
    """A worker that died with some calls open."""
    with worker(dsn, host="host-of-the-dead") as dead:
        dead.claim(lane, count)
        backend = dead.session.info.backend_pid
    until(lambda: not all_rows(pool, "SELECT 1 FROM pg_stat_activity WHERE pid = %s", backend))
    return dead


def mourned(pool: db.Pool) -> None:
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_worker SET dead_at = dead_at - interval '2 s'")


# -- the beat ------------------------------------------------------------------------------------------------------


def test_a_beat_says_that_worker_and_host_live_and_what_they_do(
    beat: Beat, pool: db.Pool, me: Worker, running: Running
) -> None:
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_worker SET seen_at = now() - interval '1 h'")
        conn.execute("UPDATE asynch_host SET seen_at = now() - interval '1 h'")
    in_hand(running, a_claim(worker_id=me.id))

    beat.once()

    (row,) = all_rows(pool, "SELECT seen_at > now() - interval '1 min' AS fresh, info FROM asynch_worker")
    assert row["fresh"]
    assert row["info"] == {
        "running": [
            {"taskId": "5", "tenantId": "1", "modelName": "m", "phase": 0, "since": "2026-01-02T03:04:05.678Z"},
        ],
        "runningTotal": 1, "freeThreads": 5, "tmpBytes": 0, "trouble": "",
    }  # fmt: skip
    assert all_rows(pool, "SELECT seen_at > now() - interval '1 min' AS fresh FROM asynch_host") == [{"fresh": True}]


def test_a_beat_names_a_hundred_tasks_at_most_and_those_it_has_longest(
    beat: Beat, pool: db.Pool, me: Worker, running: Running
) -> None:
    now = a_claim().claimed_at
    for n in range(103):
        in_hand(running, a_claim(id=n + 1, worker_id=me.id, claimed_at=now - timedelta(seconds=n)))

    beat.once()

    (row,) = all_rows(pool, "SELECT info FROM asynch_worker")
    assert [task["taskId"] for task in row["info"]["running"]] == [str(n) for n in range(103, 3, -1)]
    assert row["info"]["runningTotal"] == 103


def test_a_worker_given_up_by_others_hears_of_it(beat: Beat, me: Worker) -> None:
    slots.mark_dead(me.session, [me.id])

    with pytest.raises(SessionLost):
        beat.once()


def test_given_up_by_others_it_is_lost(beat: Beat, me: Worker) -> None:
    slots.mark_dead(me.session, [me.id])
    lost, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=beat.run, args=(lost, stop))
    thread.start()

    assert lost.wait(10)
    stop.set()
    thread.join()


def test_a_worker_that_can_tell_nobody_gives_itself_up_before_others_do(
    running: Running,
    tmp_path: Path,
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(liveness, "BEAT_S", 0.02)
    monkeypatch.setattr(db, "_PATIENCE_S", 0.0)
    with db.open_pool("host=127.0.0.1 port=1 dbname=none", size=1, name="tests") as nowhere:
        beat = Beat(
            nowhere, Self(1, "n", "h"), running=running, tmp=TmpDir(tmp_path, max_bytes=1), keep=KEEP, max_crashes=3,
            free_threads=lambda: 0,
        )  # fmt: skip
        lost, stop = threading.Event(), threading.Event()
        thread = threading.Thread(target=beat.run, args=(lost, stop))
        thread.start()
        clock[0] += workers.FROZEN_S - 0.2
        until(lambda: [r.getMessage() for r in caplog.records].count("the beat failed, will retry") == 2)
        assert not lost.is_set()  # the first failure has been judged: it may still be a short absence
        clock[0] += 0.2

        assert lost.wait(10)
        stop.set()
        thread.join()


def test_a_beat_without_a_database_says_so(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "_PATIENCE_S", 0.0)
    with db.open_pool("host=127.0.0.1 port=1 dbname=none", size=1, name="tests") as nowhere:
        beat = Beat(
            nowhere, Self(1, "n", "h"), running=running, tmp=TmpDir(tmp_path, max_bytes=1), keep=KEEP, max_crashes=3,
            free_threads=lambda: 0,
        )  # fmt: skip
        with pytest.raises(DatabaseDown):
            beat.once()


# -- cancellations and strays --------------------------------------------------------------------------------------


def test_a_cancellation_that_was_not_heard_is_found_by_the_beat(
    beat: Beat, pool: db.Pool, me: Worker, running: Running
) -> None:
    lane = add_model(pool)
    add_tasks(pool, lane, 2)
    runs = [in_hand(running, claim) for claim in me.claim(lane, 2)]
    with db.transaction(pool) as conn:
        store.cancel(conn, tenant_id=TENANT, ids=[runs[0].claim.id], updater="u", failed_retention_s=1.0)

    beat.once()

    assert [run.call.reason for run in runs] == [CutReason.CANCEL, None]


def test_a_claim_that_nobody_has_in_hand_goes_back(beat: Beat, pool: db.Pool, me: Worker, running: Running) -> None:
    lane = add_model(pool)
    add_tasks(pool, lane, 2)
    kept, stray = me.claim(lane, 2)
    in_hand(running, kept)
    running.in_doubt.set()

    beat.once()
    assert state_of(pool, stray.id) is State.RUNNING  # it may just be on its way into a hand
    beat.once()

    assert (state_of(pool, kept.id), state_of(pool, stray.id)) == (State.RUNNING, State.PENDING)
    row = row_of(pool, stray.id)
    assert (row["crash_count"], row["retry_count"]) == (0, 0)


# -- the dead ------------------------------------------------------------------------------------------------------


def test_the_dead_are_noted_then_mourned_then_rescued_and_forgotten(
    beat: Beat, pool: db.Pool, dsn: str, me: Worker
) -> None:
    lane = add_model(pool)
    tasks = add_tasks(pool, lane, 3)
    a_dead_worker(pool, dsn, lane, 3)

    beat.once()
    assert [state_of(pool, task) for task in tasks] == [State.RUNNING] * 3
    mourned(pool)
    beat.once()

    assert [state_of(pool, task) for task in tasks] == [State.PENDING] * 3
    assert all_rows(pool, "SELECT id FROM asynch_worker") == [{"id": me.id}]


def test_a_rescued_task_tells_whose_loss_it_was(beat: Beat, pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    a_dead_worker(pool, dsn, lane, 1)
    beat.once()
    mourned(pool)
    beat.once()

    row = row_of(pool, task)
    (record,) = row["attempts"]
    assert (record["outcome"], record["host"], record["attempt"]) == ("worker_lost", "host-of-the-dead", 1)
    assert (row["crash_count"], row["retry_count"]) == (1, 0)


def test_rescued_tasks_are_announced(beat: Beat, pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    add_task(pool, lane)
    a_dead_worker(pool, dsn, lane, 1)
    beat.once()
    mourned(pool)
    with db.open_session(dsn, name="tests") as session:
        session.execute("LISTEN asynch_lane")
        beat.once()

        assert [n.payload for n in session.notifies(timeout=5, stop_after=1)] == [str(lane)]


def test_a_big_loss_is_rescued_in_batches_and_forgotten_at_the_end(
    pool: db.Pool, dsn: str, me: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_RESCUE_BATCH", 2)
    lane = add_model(pool)
    add_tasks(pool, lane, 5)
    dead = a_dead_worker(pool, dsn, lane, 5)
    slots.mark_dead(me.session, [dead.id])
    mourned(pool)

    def known() -> bool:
        return bool(all_rows(pool, "SELECT 1 FROM asynch_worker WHERE id = %s", dead.id))

    rescued = [(rescue_dead(pool, Self(me.id, "n", "h"), KEEP, max_crashes=3), known()) for _ in range(3)]

    assert sum(n for n, _ in rescued) == 5
    assert max(n for n, _ in rescued) == 2
    assert (rescued[0][1], rescued[-1][1]) == (True, False)


def test_a_task_cancelled_while_its_worker_died_is_cancelled(beat: Beat, pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    a_dead_worker(pool, dsn, lane, 1)
    with db.transaction(pool) as conn:
        store.cancel(conn, tenant_id=TENANT, ids=[task], updater="u", failed_retention_s=60.0)
    beat.once()
    mourned(pool)
    beat.once()

    row = row_of(pool, task)
    assert (row["state"], row["error_code"], row["crash_count"]) == (State.CANCELLED, "cancelled", 1)


def test_a_task_whose_row_is_locked_keeps_its_dead_worker_for_the_next_rescue(
    pool: db.Pool, dsn: str, me: Worker
) -> None:
    lane = add_model(pool)
    free, locked = add_tasks(pool, lane, 2)
    dead = a_dead_worker(pool, dsn, lane, 2)
    slots.mark_dead(me.session, [dead.id])
    mourned(pool)

    with db.transaction(pool) as conn:
        conn.execute("SELECT 1 FROM asynch_task WHERE id = %s FOR UPDATE", (locked,))
        assert rescue_dead(pool, Self(me.id, "n", "h"), KEEP, max_crashes=3) == 1
        assert (state_of(pool, free), state_of(pool, locked)) == (State.PENDING, State.RUNNING)
        assert all_rows(pool, "SELECT 1 FROM asynch_worker WHERE id = %s", dead.id)

    assert rescue_dead(pool, Self(me.id, "n", "h"), KEEP, max_crashes=3) == 1
    assert state_of(pool, locked) is State.PENDING
    assert not all_rows(pool, "SELECT 1 FROM asynch_worker WHERE id = %s", dead.id)


def test_a_row_that_the_dead_themselves_still_hold_is_rescued_at_once(pool: db.Pool, dsn: str, me: Worker) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    with worker(dsn) as half_dead:
        half_dead.claim_one(lane)
        half_dead.session.execute("BEGIN")
        half_dead.session.execute("SELECT 1 FROM asynch_task WHERE id = %s FOR UPDATE", (task,))
        slots.mark_dead(me.session, [half_dead.id])
        mourned(pool)

        assert rescue_dead(pool, Self(me.id, "n", "h"), KEEP, max_crashes=3) == 1

    assert state_of(pool, task) is State.PENDING


def test_a_task_whose_workers_all_died_fails_for_good(pool: db.Pool, dsn: str, me: Worker) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    for _ in range(2):
        assert state_of(pool, task) is State.PENDING
        dead = a_dead_worker(pool, dsn, lane, 1)
        slots.mark_dead(me.session, [dead.id])
        mourned(pool)
        rescue_dead(pool, Self(me.id, "n", "h"), KEEP, max_crashes=2)

    row = row_of(pool, task)
    assert (row["state"], row["final"], row["error_code"], row["crash_count"]) == (State.FAILED, True, "crashed", 2)


def test_a_worker_that_says_nothing_is_ended(beat: Beat, pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as silent:
        with db.transaction(pool) as conn:
            conn.execute("UPDATE asynch_worker SET seen_at = now() - interval '16 s' WHERE id = %s", (silent.id,))
        beat.once()

        until(lambda: not all_rows(pool, "SELECT 1 FROM pg_locks WHERE pid = %s", silent.session.info.backend_pid))


# -- the watch -----------------------------------------------------------------------------------------------------


class Watched:
    """The watch in a thread of its own, over a claim session whose last answer a test decides."""

    def __init__(self, running: Running) -> None:
        self.session = SimpleNamespace(answered_at=monotonic())
        self.lost, self.stop = threading.Event(), threading.Event()
        poller = cast(Poller, self.session)
        args = (running, poller, db.Lines(), self.lost, self.stop)
        self.thread = threading.Thread(target=liveness.watch, args=args)

    def __enter__(self) -> Watched:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def test_a_call_whose_time_is_up_is_cut_and_no_other(running: Running) -> None:
    late = in_hand(running, a_claim(id=1), slot=Slot(3, 0), timeout_s=-1.0)
    early = in_hand(running, a_claim(id=2), slot=Slot(3, 1))
    with Watched(running):
        until(lambda: late.call.reason)

    assert (late.call.reason, early.call.reason) == (CutReason.TIMEOUT, None)


def test_an_upload_has_no_deadline(running: Running) -> None:
    upload = in_hand(running, a_claim(id=1), timeout_s=-1.0)
    call = in_hand(running, a_claim(id=2), slot=Slot(3, 1), timeout_s=-1.0)
    with Watched(running):
        until(lambda: call.call.reason)

    assert upload.call.reason is None


def test_a_claim_session_that_does_not_answer_is_lost_and_its_calls_are_cut(running: Running) -> None:
    run = in_hand(running, a_claim(), slot=Slot(3, 0))
    with Watched(running) as watched:
        watched.session.answered_at -= 9.0
        assert watched.lost.wait(5)
        until(lambda: run.call.reason)

    assert run.call.reason is CutReason.SESSION_LOST


def test_a_lost_session_cuts_its_calls_within_half_a_second(running: Running) -> None:
    run = in_hand(running, a_claim(), slot=Slot(3, 0))
    with Watched(running) as watched:
        began = monotonic()
        watched.lost.set()
        until(lambda: run.call.reason)

    assert monotonic() - began < 0.5


def test_what_is_claimed_after_the_loss_is_cut_before_it_begins(running: Running) -> None:
    with Watched(running) as watched:
        watched.lost.set()
        watched.thread.join(5)

    assert in_hand(running, a_claim(), slot=Slot(3, 0)).call.reason is CutReason.SESSION_LOST
