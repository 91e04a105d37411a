"""Slots: advisory locks of the claim session, won and given back exactly, and free again when their holder is gone."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from asynch import db
from asynch.embedded import EmbeddedPostgres
from asynch.errors import SessionLost
from asynch.service import schema
from asynch.store import queue, slots, workers
from asynch.store.slots import Slot
from asynch.worker.poller import Limits, Poller
from asynch.worker.running import Running
from asynch.worker.tmpdir import TmpDir
from tests.database import all_rows, run_on
from tests.rows import Worker, add_model, add_task, bend, worker
from tests.waiting import until


def slot_locks(pool: db.Pool) -> list[tuple[int, int]]:
    """Every slot that anybody holds, once for each time it is held by a session."""
    found = all_rows(
        pool,
        "SELECT classid::int AS lane, objid::int AS slot FROM pg_locks "
        "WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND database = "
        "(SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1, 2",
    )
    return [(r["lane"], r["slot"]) for r in found]


def kill(pool: db.Pool, victim: Worker) -> None:
    """End the session of a worker, and wait until its locks are free."""
    with db.connection(pool) as conn:
        conn.execute("SELECT pg_terminate_backend(%s, 5000)", (victim.session.info.backend_pid,))


def age_death(pool: db.Pool, seconds: float) -> None:
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_worker SET dead_at = dead_at - make_interval(secs => %s)", (seconds,))


def test_a_free_slot_is_won_and_a_held_one_is_not(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as other:
        assert me.win(5, 1, [0])[0] == [Slot(5, 0)]
        assert other.win(5, 1, [0])[0] == []


def test_no_more_slots_are_won_than_wanted(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me:
        assert len(me.win(5, 3, range(1000))[0]) == 3
        assert len(slot_locks(pool)) == 3


def test_no_lock_is_taken_that_is_not_told(pool: db.Pool, dsn: str) -> None:
    dice = random.Random(1)
    with worker(dsn) as me, worker(dsn) as other:
        told = other.win(5, 50, dice.sample(range(100), 100))[0]
        for lane in (5, 6, 7):
            told += me.win(lane, 10, dice.sample(range(100), 100))[0]

        assert slot_locks(pool) == sorted((s.lane_id, s.slot) for s in told)


def test_the_last_free_slot_of_a_thousand_is_found_at_once(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as other:
        other.win(5, 999, [n for n in range(1000) if n != 421])

        assert me.win(5, 4, random.sample(range(1000), 1000))[0] == [Slot(5, 421)]


def test_slots_are_tried_in_the_order_given_each_once(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me:
        assert me.win(5, 4, [3, 1, 2, 0])[0] == [Slot(5, 3), Slot(5, 1), Slot(5, 2), Slot(5, 0)]
        assert len(slot_locks(pool)) == 4


def test_each_lane_wins_its_own_slots(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me:
        won = slots.swap_slots(me.session, give_back=[], wants=[(5, 2, [0, 1]), (6, 1, [0, 1]), (7, 0, [0])])

    assert won == [Slot(5, 0), Slot(5, 1), Slot(6, 0)]


def test_a_slot_given_back_is_free_for_others(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as other:
        slots, _ = me.win(5, 2, [0, 1])
        me.win(5, 0, [], give_back=slots[:1])

        assert slot_locks(pool) == [(5, 1)]
        assert other.win(5, 2, [0, 1])[0] == slots[:1]


def test_slots_given_back_can_be_won_in_the_same_exchange(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me:
        slots, _ = me.win(5, 1, [0])

        assert me.win(5, 1, [0], give_back=slots)[0] == [Slot(5, 0)]
        assert slot_locks(pool) == [(5, 0)]


@pytest.mark.filterwarnings("ignore")
def test_giving_back_what_is_not_held_ends_the_session(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, pytest.raises(SessionLost):
        me.win(5, 0, [], give_back=[Slot(5, 0)])


def test_a_failed_statement_costs_no_slot(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me:
        slots, _ = me.win(5, 2, [0, 1])
        with pytest.raises(psycopg.Error):
            me.session.execute("SELECT 1 / 0")

        assert slot_locks(pool) == [(5, 0), (5, 1)]
        me.win(5, 0, [], give_back=slots)
        assert slot_locks(pool) == []


def test_an_exchange_that_fails_half_way_leaves_what_the_end_of_the_session_frees(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, pytest.raises(psycopg.Error):
        slots.swap_slots(me.session, give_back=[], wants=[(5, 1, [0]), (6, 1, [10**12])])

    until(lambda: slot_locks(pool) == [])


def test_a_claim_that_fails_leaves_the_slots_held_and_no_task_claimed(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    task = add_task(pool, lane)
    with worker(dsn) as me:
        slots, _ = me.win(lane, 1, [0])
        with pytest.raises(psycopg.Error):
            queue.claim(me.session, counts={lane: 1}, worker_id=me.id, timezone="Nowhere/At_All")

        assert slot_locks(pool) == [(lane, slots[0].slot)]
        assert all_rows(pool, "SELECT id, state FROM asynch_task") == [{"id": task, "state": 0}]


def test_slots_of_a_killed_session_are_free_at_once(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as other:
        me.win(5, 3, range(3))
        kill(pool, me)

        assert len(other.win(5, 3, range(3))[0]) == 3


# -- mourning ------------------------------------------------------------------------------------------------------


def test_a_worker_that_lives_is_not_found_dead(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn):
        assert me.win(5, 1, [0])[1] == {}


def test_it_is_told_who_has_just_died(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as other:
        kill(pool, other)

        assert me.win(5, 1, [0])[1] == {other.id: False}


def test_the_mourning_ends_a_second_after_the_death_was_noted(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as other:
        kill(pool, other)
        slots.mark_dead(me.session, [other.id])
        age_death(pool, 0.5)
        assert me.win(5, 1, [0])[1] == {other.id: False}

        age_death(pool, 0.5)

        assert me.win(5, 1, [1])[1] == {other.id: True}


def test_nothing_is_claimed_while_somebody_is_mourned_of_whom_the_claimer_does_not_know(
    pool: db.Pool, dsn: str
) -> None:
    lane = add_model(pool)
    tasks = [add_task(pool, lane) for _ in range(2)]
    with worker(dsn) as me, worker(dsn) as other:
        kill(pool, other)
        terms: dict[str, Any] = {"counts": {lane: 1}, "worker_id": me.id, "timezone": "UTC"}

        assert queue.claim(me.session, **terms) == []
        assert [c.id for c in queue.claim(me.session, **terms, known_dead=[other.id])] == tasks[:1]
        with db.transaction(pool) as conn:
            workers.bury(conn, other.id)
        assert [c.id for c in queue.claim(me.session, **terms)] == tasks[1:]


def test_a_death_is_noted_once(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as other:
        kill(pool, other)
        slots.mark_dead(me.session, [other.id])
        first = all_rows(pool, "SELECT dead_at FROM asynch_worker WHERE id = %s", other.id)
        slots.mark_dead(me.session, [other.id])

    assert all_rows(pool, "SELECT dead_at FROM asynch_worker WHERE id = %s", other.id) == first


def test_only_lanes_where_the_dead_had_a_call_are_in_mourning(pool: db.Pool, dsn: str) -> None:
    lanes = [add_model(pool, f"m{n}") for n in range(4)]
    called, uploading, elsewhere, _ = tasks = [add_task(pool, lane) for lane in lanes]
    bend(pool, tasks[:3], state=1, worker_id=9)
    bend(pool, [uploading], phase=1, tmp_file="f", tmp_host="h")
    bend(pool, [elsewhere], worker_id=8)

    with worker(dsn) as me:
        assert slots.lanes_in_mourning(me.session, [9]) == {lanes[0]: 1}
    assert called


def test_looking_for_the_dead_takes_no_lock_that_stays(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as other, worker(dsn) as third:
        kill(pool, other)
        held = me.locks()

        for looking in (me, third):  # both at once find it: neither keeps the other from seeing
            assert looking.win(5, 0, [])[1] == {other.id: False}

        assert me.locks() == held


def test_a_worker_declared_dead_may_not_say_that_it_lives(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me:
        assert workers.beat(me.session, worker_id=me.id, tmp_host="h", host="n", info={})
        slots.mark_dead(me.session, [me.id])

        assert not workers.beat(me.session, worker_id=me.id, tmp_host="h", host="n", info={})


def test_the_dead_are_left_to_one_rescuer(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as other, worker(dsn) as third:
        kill(pool, other)
        slots.mark_dead(me.session, [other.id])
        age_death(pool, 2)

        with db.transaction(pool) as conn:
            assert [d.id for d in workers.claim_dead(conn, worker_id=me.id, grace_s=1.0)] == [other.id]
            assert workers.claim_dead(third.session, worker_id=third.id, grace_s=1.0) == []


def test_the_dead_are_not_rescued_while_they_are_mourned(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as other:
        kill(pool, other)
        slots.mark_dead(me.session, [other.id])

        assert workers.claim_dead(me.session, worker_id=me.id, grace_s=1.0) == []


# -- silence -------------------------------------------------------------------------------------------------------


def fall_silent(pool: db.Pool, who: Worker) -> None:
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_worker SET seen_at = now() - interval '1 min' WHERE id = %s", (who.id,))


def test_the_sessions_of_a_silent_worker_are_ended_by_their_name(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as silent:
        slots, _ = silent.win(5, 1, [0])
        second = db.open_session(dsn, name=f"asynch-worker-{silent.id}")
        fall_silent(pool, silent)

        assert workers.terminate_silent(me.session, worker_id=me.id, silence_s=15.0) == [silent.id]

        until(lambda: me.win(5, 1, [0])[0] == slots)
        with pytest.raises(psycopg.OperationalError):
            second.execute("SELECT 1")


def test_a_worker_that_beats_keeps_its_sessions(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as other:
        assert workers.terminate_silent(me.session, worker_id=me.id, silence_s=15.0) == []
        other.session.execute("SELECT 1")


def test_nobody_ends_its_own_sessions(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me:
        fall_silent(pool, me)

        assert workers.terminate_silent(me.session, worker_id=me.id, silence_s=15.0) == []


@pytest.fixture
def neighbour(server_dsn: str, template: str) -> Iterator[str]:
    """Another installation on the same server: it counts its workers from 1 as well."""
    run_on(server_dsn, "CREATE DATABASE {} TEMPLATE {}", "asynch_neighbour", template)
    yield make_conninfo(server_dsn, dbname="asynch_neighbour")
    run_on(server_dsn, "DROP DATABASE {} WITH (FORCE)", "asynch_neighbour")


def test_workers_of_another_database_on_the_server_are_left_alone(pool: db.Pool, dsn: str, neighbour: str) -> None:
    with worker(dsn) as me, worker(dsn) as silent:
        namesake = db.open_session(neighbour, name=f"asynch-worker-{silent.id}")
        fall_silent(pool, silent)

        assert workers.terminate_silent(me.session, worker_id=me.id, silence_s=15.0) == [silent.id]

        until(lambda: me.win(5, 0, [])[1])
        assert namesake.execute("SELECT 1 AS alive").fetchone() == {"alive": 1}
        namesake.close()


def test_a_session_knows_that_no_pooler_is_in_between(dsn: str) -> None:
    with worker(dsn) as me:
        before = me.locks()

        assert workers.session_is_direct(me.session)
        assert me.locks() == before


# -- who is charged ------------------------------------------------------------------------------------------------


@contextmanager
def died(pool: db.Pool, dsn: str) -> Iterator[Worker]:
    with worker(dsn) as me, worker(dsn) as other:
        kill(pool, other)
        slots.mark_dead(me.session, [other.id])
        age_death(pool, 2)
        yield me


def test_a_worker_that_died_alone_is_charged(pool: db.Pool, dsn: str) -> None:
    with died(pool, dsn) as me:
        assert [d.charged for d in workers.claim_dead(me.session, worker_id=me.id, grace_s=1.0)] == [True]


def test_a_database_restart_charges_nobody(tmp_path_factory: pytest.TempPathFactory) -> None:
    data_dir = tmp_path_factory.mktemp("restarted")
    with EmbeddedPostgres(data_dir) as server:
        dsn = (server.data_dir / "dsn").read_text()
        with db.open_pool(dsn, size=1, name="tests") as pool:
            schema.migrate(pool)
        before = worker(dsn)
        dead = before.__enter__()
    before.__exit__(None, None, None)
    with EmbeddedPostgres(data_dir) as server:
        dsn = (server.data_dir / "dsn").read_text()
        with db.open_pool(dsn, size=1, name="tests") as pool, worker(dsn) as me:
            assert me.win(5, 0, [])[1] == {dead.id: False}
            slots.mark_dead(me.session, [dead.id])
            age_death(pool, 2)

            found = workers.claim_dead(me.session, worker_id=me.id, grace_s=1.0)

    assert [(d.id, d.charged) for d in found] == [(dead.id, False)]


def test_a_death_is_noted_by_the_moment_not_by_the_transactions_start(pool: db.Pool, dsn: str) -> None:
    with worker(dsn) as me, worker(dsn) as other, db.transaction(pool) as conn:
        (began,) = conn.execute("SELECT now() AS t").fetchall()
        conn.execute("SELECT pg_sleep(0.05)")
        slots.mark_dead(conn, [other.id])
        (noted,) = conn.execute("SELECT dead_at AS t FROM asynch_worker WHERE id = %s", (other.id,)).fetchall()
        assert me.id

    assert noted["t"] > began["t"]


def take_locks_without_end(session: db.Connection) -> None:
    """In small steps: a statement that fails looks at each lock it took once more, for each lock it took."""
    for n in range(2_000_000_000, 3_000_000_000, 500):
        session.execute("SELECT count(pg_advisory_lock(n)) FROM generate_series(%s::bigint, %s) AS n", (n, n + 499))


def test_no_memory_for_another_lock_means_no_free_slot_and_no_lost_session(
    pool: db.Pool, dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = add_task(pool, add_model(pool))
    claims: list[int] = []
    stop = threading.Event()
    with worker(dsn) as me, db.open_session(dsn, name="hog") as hog:
        poller = Poller(
            me.session,
            worker_id=me.id,
            limits=Limits(threads=2, reserve=0, batch_size=8, poll_interval_s=0.1, timezone="UTC"),
            running=Running(),
            tmp=TmpDir(tmp_path, max_bytes=1),
            hand_over=lambda claim, slot: claims.append(claim.id),
        )
        thread = threading.Thread(target=poller.run, args=(stop,))
        with pytest.raises(db.OutOfLocks):
            take_locks_without_end(hog)
        thread.start()
        until(lambda: caplog.text.count("no memory for another lock") >= 3)
        assert not claims
        hog.close()

        until(lambda: claims == [task])
        stop.set()
        thread.join()


class Interrupted:
    """The end of the bell that is read, which somebody writes to in the moment before it is read."""

    def __init__(self, poller: Poller, reader: socket.socket) -> None:
        self._poller, self._reader = poller, reader
        self.was_read = threading.Event()

    def fileno(self) -> int:
        return self._reader.fileno()

    def recv(self, size: int) -> bytes:
        self._poller.wake()
        data = self._reader.recv(size)
        self.was_read.set()
        return data

    def close(self) -> None:
        self._reader.close()


def test_whoever_wakes_the_poller_while_it_wakes_does_not_silence_those_after_him(dsn: str, tmp_path: Path) -> None:
    stop = threading.Event()
    with worker(dsn) as me:
        poller = Poller(
            me.session,
            worker_id=me.id,
            limits=Limits(threads=2, reserve=0, batch_size=8, poll_interval_s=30, timezone="UTC"),
            running=Running(),
            tmp=TmpDir(tmp_path, max_bytes=1),
            hand_over=lambda claim, slot: None,
        )
        poller._bell._reader = reader = cast(Any, Interrupted(poller, poller._bell._reader))
        thread = threading.Thread(target=poller.run, args=(stop,))
        thread.start()
        threading.Event().wait(0.3)  # it waits
        poller.wake()
        assert reader.was_read.wait(5)
        threading.Event().wait(0.3)  # it waits again
        stop.set()
        poller.wake()
        thread.join(1)  # by itself it looks after two seconds
        assert not thread.is_alive()


def test_a_death_that_nobody_has_settled_yet_keeps_other_lanes_from_nothing(
    pool: db.Pool, dsn: str, tmp_path: Path
) -> None:
    task = add_task(pool, add_model(pool))
    claims: list[int] = []
    stop = threading.Event()
    with worker(dsn) as me, worker(dsn) as other:
        other.session.close()  # its row stays until the rescue, of which there is none here
        poller = Poller(
            me.session,
            worker_id=me.id,
            limits=Limits(threads=2, reserve=0, batch_size=8, poll_interval_s=0.1, timezone="UTC"),
            running=Running(),
            tmp=TmpDir(tmp_path, max_bytes=1),
            hand_over=lambda claim, slot: claims.append(claim.id),
        )
        thread = threading.Thread(target=poller.run, args=(stop,))
        thread.start()
        try:
            until(lambda: claims == [task], 5)
        finally:
            stop.set()
            poller.wake()
            thread.join()
