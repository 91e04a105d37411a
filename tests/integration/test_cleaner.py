"""The cleaner at work: in bounded batches, by one leader among all workers, with all its duties."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from asynch import db, metrics
from asynch.cleaner import schedule
from asynch.cleaner.expire import expire
from asynch.cleaner.leader import LEADER_LOCK, Leader
from asynch.cleaner.lose import lose
from asynch.cleaner.purge import forget, purge
from asynch.cleaner.retry import retry
from asynch.cleaner.schedule import Cleaner
from asynch.cleaner.terms import Terms
from asynch.domain.states import State
from asynch.storage import Storage
from asynch.storage.local import LocalStorage
from asynch.store import actions, files
from asynch.store import unneeded as store_unneeded
from asynch.store.actions import NewAction
from asynch.store.files import NewUpload
from tests.cleaning import TERMS, Stubborn, put_object, silent_host
from tests.database import all_rows
from tests.rows import TENANT, add_model, add_tasks, ago, bend, row_of, rows_of, state_of
from tests.waiting import until

# -- batches -------------------------------------------------------------------------------------------------------

MANY: Mapping[str, tuple[Mapping[str, Any], Callable[[db.Pool, Terms, Storage], int]]] = {
    "retry": ({"state": 3}, lambda pool, terms, _: retry(pool, terms)),
    "expire": ({"state": 0}, lambda pool, terms, _: expire(pool, terms)),
    "purge": ({"state": 2, "final": True}, purge),
    "purge with its results": (
        {"state": 2, "final": True},
        lambda pool, terms, storage: purge(pool, replace(terms, delete_results=True), storage),
    ),
    "lose": ({"phase": 1, "tmp_file": "f", "tmp_host": "gone"}, lose),
}


@pytest.mark.parametrize("duty", MANY)
def test_a_duty_works_in_batches(pool: db.Pool, storage: LocalStorage, duty: str) -> None:
    columns, run = MANY[duty]
    bend(pool, add_tasks(pool, add_model(pool), 7), wake_at=ago(1), **columns)

    assert [run(pool, TERMS, storage) for _ in range(4)] == [3, 3, 1, 0]


@pytest.mark.parametrize("duty", MANY)
def test_a_row_in_other_hands_is_passed_over(pool: db.Pool, storage: LocalStorage, duty: str) -> None:
    columns, run = MANY[duty]
    tasks = add_tasks(pool, add_model(pool), 3)
    bend(pool, tasks, wake_at=ago(1), **columns)

    with db.transaction(pool) as conn:
        conn.execute("SELECT 1 FROM asynch_task WHERE id = %s FOR UPDATE", (tasks[0],))
        assert run(pool, TERMS, storage) == 2


def test_forgetting_works_in_batches(pool: db.Pool) -> None:
    with db.transaction(pool) as conn:
        conn.execute(
            "INSERT INTO asynch_op_log (tenant_id, op_type, created_at) "
            "SELECT 1, 'x', now() - interval '1 day' FROM generate_series(1, 5)"
        )

    assert [forget(pool, TERMS) for _ in range(3)] == [3, 2, 0]


# -- one leader ----------------------------------------------------------------------------------------------------

Open = Callable[[], Leader]


@pytest.fixture
def leaders(dsn: str) -> Iterator[Open]:
    made: list[Leader] = []

    def make() -> Leader:
        made.append(Leader(partial(db.open_session, dsn, name="asynch-worker-9")))
        return made[-1]

    yield make
    for leader in made:
        leader.close()


LEADING = (
    "FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
    "AND (classid::bigint << 32 | objid::bigint) = %s"
)


def end_leading_session(pool: db.Pool) -> None:
    with db.connection(pool) as conn:
        conn.execute(f"SELECT pg_terminate_backend(pid, 5000) {LEADING}".encode(), (LEADER_LOCK,))


def test_one_of_many_leads(leaders: Open) -> None:
    assert [leader.leads() for leader in [leaders() for _ in range(4)]] == [True, False, False, False]


def test_the_leader_stays_the_leader(leaders: Open) -> None:
    first, second = leaders(), leaders()

    assert [(first.leads(), second.leads()) for _ in range(3)] == [(True, False)] * 3


def test_leadership_moves_when_the_leader_leaves(leaders: Open) -> None:
    first, second = leaders(), leaders()
    assert (first.leads(), second.leads()) == (True, False)

    first.close()

    until(second.leads)


def test_leadership_moves_when_the_leaders_session_dies(pool: db.Pool, leaders: Open) -> None:
    first, second = leaders(), leaders()
    assert (first.leads(), second.leads()) == (True, False)

    end_leading_session(pool)

    assert (second.leads(), first.leads()) == (True, False)


def test_a_leader_that_lost_its_session_can_lead_again(pool: db.Pool, leaders: Open) -> None:
    leader = leaders()
    assert leader.leads()

    end_leading_session(pool)

    assert [leader.leads(), leader.leads()] == [False, True]


def test_without_a_database_nobody_leads() -> None:
    leader = Leader(partial(db.open_session, "host=127.0.0.1 port=1 dbname=none", name="x"))

    assert not leader.leads()


def test_only_the_leaders_cleaner_works(pool: db.Pool, storage: LocalStorage, leaders: Open) -> None:
    tasks = add_tasks(pool, add_model(pool), 2)
    bend(pool, tasks[:1], state=4, final=True, wake_at=ago(1))
    other = leaders()
    assert other.leads()
    cleaner = Cleaner(pool, leaders(), TERMS, storage)
    cleaner.start()
    try:
        until(lambda: tasks_of_the_leader_lock(pool) >= 1)
        assert len(rows_of(pool)) == 2
        other.close()

        until(lambda: set(rows_of(pool)) == {tasks[1]})
    finally:
        cleaner.stop()


def tasks_of_the_leader_lock(pool: db.Pool) -> int:
    """Sessions of leaders that are connected besides the one that leads."""
    return len(all_rows(pool, "SELECT 1 FROM pg_stat_activity WHERE application_name = 'asynch-worker-9'")) - 1


class Sweeping(Stubborn):
    """A store that notes which of its left-over parts are to go."""

    def __init__(self, storage: LocalStorage) -> None:
        super().__init__(storage)
        self.swept: list[float] = []

    def sweep(self, older_than_s: float) -> int:
        self.swept.append(older_than_s)
        return 0


def work_for_all(pool: db.Pool, storage: LocalStorage, tmp_path: Path) -> dict[str, Callable[[], bool]]:
    """Something to do for each duty; by its name, whether that is done."""
    lane = add_model(pool)
    retried, expired, noticed, lost, purged = add_tasks(pool, lane, 5, biz_name="b")
    bend(pool, [retried], state=3, wake_at=ago(1))
    bend(pool, [expired], wake_at=ago(1))
    bend(pool, [noticed], state=4, final=True, wake_at=ago(-60), expire_notice_seconds=3600, callback_lane=lane)
    bend(pool, [lost], phase=1, tmp_file="f", tmp_host="gone", wake_at=None)
    bend(pool, [purged], state=5, final=True, wake_at=ago(1))
    silent_host(pool, "old", 31 * 86400)
    left_over = put_object(storage, tmp_path, "left/over")
    with db.transaction(pool) as conn:
        actions.insert_actions(
            conn, tenant_id=TENANT, actions=[NewAction(1, 2, 3, "tell", 2, "http://127.0.0.1:1", 60)]
        )
        conn.execute("UPDATE asynch_action SET status = 'awaiting', deadline = now()")
        files.insert_upload(conn, tenant_id=TENANT, upload=NewUpload("eva", "a.png", "", 1, "", "pending", parts=1))
        conn.execute("UPDATE asynch_upload SET created_at = now() - interval '2 days'")
        store_unneeded.note(conn, ["left/over"])
        conn.execute("UPDATE asynch_unneeded SET created_at = now() - interval '2 minutes'")
    return {
        "retry": lambda: state_of(pool, retried) is State.PENDING,
        "expire": lambda: state_of(pool, expired) is State.FAILED,
        "notice": lambda: (
            all_rows(pool, "SELECT parent_id FROM asynch_task WHERE parent_id <> 0") == [{"parent_id": noticed}]
        ),
        "lose": lambda: row_of(pool, lost)["phase"] == 0,
        "purge": lambda: purged not in rows_of(pool),
        "forget": lambda: all_rows(pool, "SELECT id FROM asynch_host") == [],
        "unanswered": lambda: all_rows(pool, "SELECT status FROM asynch_action") == [{"status": "failed"}],
        "unneeded": lambda: not left_over.exists(),
        "unsent": lambda: all_rows(pool, "SELECT status FROM asynch_upload") == [{"status": "failed"}],
        "fold": lambda: all_rows(pool, "SELECT request_count AS n FROM asynch_biz_stat") == [{"n": 5}],
    }


def duties() -> set[str]:
    """Those that ever came to an end in this process."""
    return {sample.labels["duty"] for metric in metrics.CLEANER_RUN.collect() for sample in metric.samples}


def test_a_cleaner_does_all_its_duties(
    pool: db.Pool, storage: LocalStorage, leaders: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_SWEEP_EVERY_S", 0.1)
    sweeping = Sweeping(storage)
    done = work_for_all(pool, storage, tmp_path) | {"sweep": lambda: sweeping.swept[:1] == [86_400.0]}
    cleaner = Cleaner(pool, leaders(), TERMS, cast(Storage, sweeping))
    cleaner.start()
    try:
        for duty, is_done in done.items():
            until(is_done, what=duty)
        until(lambda: duties() >= done.keys())
    finally:
        cleaner.stop()
    assert duties() == done.keys(), "a new duty needs work in work_for_all"


def test_a_stopped_cleaner_leads_no_more(pool: db.Pool, storage: LocalStorage, leaders: Open) -> None:
    cleaner = Cleaner(pool, leaders(), TERMS, storage)
    cleaner.start()
    until(lambda: all_rows(pool, f"SELECT pid {LEADING}", LEADER_LOCK))

    cleaner.stop()

    until(leaders().leads)
