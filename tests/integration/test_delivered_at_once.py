"""A result whose storing is no more than another name for its file: both halves of its task are one move."""

from __future__ import annotations

import os
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from asynch import db
from asynch.domain.states import Phase, State
from asynch.errors import SessionLost, StaleClaim
from asynch.storage.local import LocalStorage
from asynch.store import queue
from asynch.store.queue import Claim, Saved
from asynch.worker import attempt, outcomes
from asynch.worker.sweep import sweep
from asynch.worker.tmpdir import TmpDir
from tests.life import Life
from tests.moving import RESULT, TERMS, settled
from tests.rows import HOST, TENANT, add_model, add_task, bend, row_of, worker
from tests.waiting import until


@pytest.fixture
def dsn(own_dsn: str) -> str:
    return own_dsn


# -- in a worker ---------------------------------------------------------------------------------------------------


def test_results_that_follow_the_first_need_no_second_move(life: Life) -> None:
    lane = life.lane(max_concurrency=1)
    tasks = life.create(lane, *({"size": 100 + n} for n in range(6)))

    rows = [life.ended(task) for task in tasks]

    assert [len(life.result(task)) for task in tasks] == [100 + n for n in range(6)]
    assert 3 in {row["version"] for row in rows[1:]}  # created, claimed, delivered
    for row in rows:
        assert (row["state"], row["phase"], row["tmp_file"], row["attempt"]) == (State.SUCCEEDED, 0, "", 1)
        assert [(r["phase"], r["outcome"]) for r in row["attempts"]] == [(0, "saved"), (1, "delivered")]
        assert all(r["startedAt"] <= r["finishedAt"] for r in row["attempts"])
    until(lambda: life.tmp_files() == [])


def test_the_object_of_a_result_that_came_too_late_is_removed(life: Life, caplog: pytest.LogCaptureFixture) -> None:
    lane = life.lane(max_concurrency=1)
    first, late = life.create(lane, {}, {"sleep": 0.4})
    life.result(first)
    until(lambda: life.calls(late))

    bend(life.pool, [late], attempt=7)

    until(lambda: "is void" in caplog.text)
    until(lambda: not [*(life.home / "files").rglob(f"{late}-1.*")])
    life.cancel([late])


@pytest.mark.parametrize("why", [StaleClaim("x"), SessionLost("x")])
def test_an_object_whose_commit_may_still_come_stays(left: Left, pool: db.Pool, dsn: str, why: Exception) -> None:
    with worker(dsn) as me:
        claim = me.claim_one(lane_of(pool))
    parts = SimpleNamespace(
        storage=left.storage,
        names_object=lambda held, address: names(pool, held, address),
        aside=lambda _claim, work: work(),
    )
    answer: Future[datetime] = Future()
    answer.set_exception(why)

    upload = claim._replace(phase=Phase.UPLOAD, saved=Saved(key=left.key))
    attempt._after_delivery(parts, upload, left.key, lambda: None, answer)  # type: ignore[arg-type]

    assert left.storage.exists(left.key) == isinstance(why, SessionLost)


def lane_of(pool: db.Pool) -> int:
    with db.connection(pool) as conn:
        return int(conn.execute("SELECT lane_id FROM asynch_models").fetchall()[0]["lane_id"])


def names(pool: db.Pool, claim: Claim, address: str) -> bool:
    with db.connection(pool) as conn:
        return queue.names_object(conn, claim, address)


# -- in the row ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 17, 18, 19, 20])
def test_it_leaves_the_last_twenty_records_at_most(pool: db.Pool, dsn: str, before: int) -> None:
    task = add_task(pool, lane := add_model(pool))
    with worker(dsn) as me:
        (claim,) = me.claim(lane)
        old = "[" + ",".join(f'{{"attempt": {n}}}' for n in range(before)) + "]"
        bend(pool, [task], attempts=old)
        settled(pool, outcomes.saved_and_delivered(TERMS, claim, RESULT))

    row = row_of(pool, task)
    kept, (saved, delivered) = row["attempts"][:-2], row["attempts"][-2:]
    assert kept == [{"attempt": n} for n in range(max(0, before - 18), before)]
    assert (saved["outcome"], delivered["outcome"]) == ("saved", "delivered")
    assert delivered["startedAt"] == delivered["finishedAt"] == saved["finishedAt"]


def test_it_tells_of_the_file_as_two_moves_would(pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool)
    tasks = [add_task(pool, lane) for _ in range(2)]
    with worker(dsn) as me:
        one, other = me.claim(lane, 2)
        settled(pool, outcomes.saved_and_delivered(TERMS, one, RESULT))
        settled(pool, outcomes.saved(TERMS, other, RESULT))
        settled(pool, outcomes.delivered(TERMS, other._replace(phase=Phase.UPLOAD, saved=RESULT)))

    at_once, in_two = (row_of(pool, task) for task in tasks)
    own = {"id", "task_id", "created_at", "updated_at", "enqueue_at", "started_at", "finished_at", "wake_at"}
    own |= {"attempts", "version", "entry"}
    assert {k: v for k, v in at_once.items() if k not in own} == {k: v for k, v in in_two.items() if k not in own}


# -- killed before it was committed --------------------------------------------------------------------------------


class Left:
    """What a worker that died after linking leaves behind: a file, and an object of the same."""

    def __init__(self, pool: db.Pool, home: Path, task_id: int) -> None:
        began = datetime(2026, 11, 28, 23, 59, tzinfo=UTC)
        self.pool, self.tmp = pool, TmpDir(home / "tmp", max_bytes=1)
        self.storage = LocalStorage(home / "files", base_url="http://h", signing_key=b"k", url_ttl_s=60)
        self.file = self.tmp.file(self.tmp.name_of(TENANT, task_id, 1))
        self.file.write_bytes(b'{"answer": 42}')
        self.key = outcomes.key_of(TENANT, began, task_id, 1, "json")
        self.storage.put(self.key, self.file, "application/json")
        self.storage.put(self.key.replace("-1.", "-0."), self.file, "application/json")
        os.utime(self.file, (0, 0))
        record = f'[{{"attempt": 1, "startedAt": "{outcomes.rfc3339(began)}", "outcome": "crashed"}}]'
        bend(pool, [task_id], attempt=1, attempts=record)

    def sweep(self) -> None:
        sweep(self.pool, self.tmp, self.storage)


@pytest.fixture
def task_id(pool: db.Pool) -> int:
    return add_task(pool, add_model(pool))


@pytest.fixture
def left(pool: db.Pool, tmp_path: Path, task_id: int) -> Left:
    return Left(pool, tmp_path, task_id)


def test_the_sweep_removes_file_and_object(left: Left) -> None:
    left.sweep()

    assert not left.file.exists()
    assert not left.storage.exists(left.key)


def test_the_sweep_leaves_another_file_under_that_name(left: Left, tmp_path: Path) -> None:
    (other := tmp_path / "other").write_bytes(b"other")
    left.storage.put(left.key, other, "application/json")

    left.sweep()

    assert not left.file.exists()
    assert left.storage.exists(left.key)


def test_the_sweep_leaves_what_was_delivered(left: Left, task_id: int) -> None:
    bend(left.pool, [task_id], state=2, final=True, oss_file=left.key)

    left.sweep()

    assert not left.file.exists()
    assert left.storage.exists(left.key)


def test_the_sweep_leaves_an_object_of_which_nobody_can_tell(left: Left) -> None:
    with db.transaction(left.pool) as conn:
        conn.execute("DELETE FROM asynch_task")

    left.sweep()

    assert not left.file.exists()
    assert left.storage.exists(left.key)


def test_the_sweep_leaves_a_saved_result_and_what_is_in_work(left: Left, task_id: int) -> None:
    bend(left.pool, [task_id], phase=1, tmp_file=left.file.name, tmp_host=HOST)
    left.sweep()
    bend(left.pool, [task_id], state=1, phase=0, tmp_file="", worker_id=1)
    left.sweep()

    assert left.file.exists()
    assert left.storage.exists(left.key)


def test_a_store_elsewhere_is_not_looked_into(left: Left) -> None:
    class Elsewhere:
        pass

    sweep(left.pool, left.tmp, Elsewhere())  # type: ignore[arg-type]  # nothing may be asked of it

    assert not left.file.exists()
    assert left.storage.exists(left.key)
