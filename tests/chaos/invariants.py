"""What must hold after any chaos: the database, the model service's ledger, the store and every tmp_dir agree."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from minio import Minio

from asynch import db, settings
from asynch.cleaner.purge import purge
from asynch.cleaner.terms import Terms
from asynch.domain.states import Phase, State
from asynch.settings import Settings
from asynch.worker.sweep import sweep
from asynch.worker.tmpdir import TmpDir
from tests.chaos.farm import Farm
from tests.database import CALLS
from tests.waiting import until

SUCCESS = {State.SUCCEEDED, State.FETCHED}
#: how an attempt's call can have ended; each is written once for each claim of phase 0
ENDS_OF_A_CALL = {"saved", "failed", "released", "cancelled", "worker_lost"}
#: ends of claims that may never have reached the model
MAYBE_NOT_CALLED = {"failed", "released", "cancelled", "worker_lost"}
RECORDS_KEPT = 20


def check_invariants(farm: Farm, *, pending: Collection[int] = (), most_s: float = 40.0) -> None:
    """Wait for the end of everything but `pending`, end the workers, and compare what is left everywhere."""
    farm.finish(farm.accepted.keys() - set(pending), most_s)
    if living := {worker.pid for worker in farm.workers if worker.alive}:
        until(lambda: farm.worker_ids().keys() <= living, what="the burial of the dead")
    farm.stop_workers()
    rows = {row["id"]: row for row in farm.ask("SELECT * FROM asynch_task")}
    check_nothing_lost(farm, rows)
    check_states(farm, rows, pending)
    check_tmp_dirs(farm, rows)
    check_objects(farm, rows)
    check_calls(farm, rows)
    check_statistics(farm, rows)


def check_nothing_lost(farm: Farm, rows: Mapping[int, db.Row]) -> None:
    """Every accepted id is there, or was purged and noted; nothing else is."""
    noted = {int(row["task_id"]) for row in farm.ask("SELECT task_id FROM asynch_op_log WHERE op_type = 'purgeTask'")}
    assert farm.accepted.keys() - rows.keys() - noted == set(), "accepted tasks are gone"
    created = farm.ask("SELECT task_id FROM asynch_op_log WHERE op_type = 'createTask' AND success = 1")
    assert rows.keys() <= {int(row["task_id"]) for row in created}, "rows without their op log"


def check_states(farm: Farm, rows: Mapping[int, db.Row], pending: Collection[int]) -> None:
    """Nobody holds a claim, and each row's fields belong together."""
    for task_id, row in rows.items():
        state, seen = State(row["state"]), f"task {task_id}: {dict(row)}"
        assert row["final"] or task_id in pending, seen
        assert state is not State.RUNNING, seen
        assert not row["cancel_requested"], seen
        if state in SUCCESS:
            assert row["phase"] == Phase.CALL, seen
            assert not row["tmp_file"], seen
            assert row["oss_file"], seen
            assert row["sha256"], seen
            assert row["error_code"] == "", seen
        elif row["phase"] == Phase.CALL:
            assert not row["tmp_file"], seen
        assert (row["error_code"] == "") == (state in SUCCESS or not row["final"]) or row["retry_count"], seen
    listed = {row["pid"] for row in farm.ask("SELECT pid FROM asynch_worker")}
    assert listed & {worker.pid for worker in farm.workers if worker.process.returncode == 0} == set()


def check_objects(farm: Farm, rows: Mapping[int, db.Row]) -> None:
    """One object a success, with the bytes the row promises; no other object, and after a sweep no part of one.

    The upload of a task that was cancelled may have been killed or cut off between the store and the row: the row
    still names that object, and the object must go with it.
    """
    promised = {row["oss_file"]: row["sha256"] for row in rows.values() if row["state"] in SUCCESS}
    assert len(promised) == sum(row["state"] in SUCCESS for row in rows.values()), "two tasks share an object"
    chosen = settings.build(farm.sections)
    farm.live.parts.storage.sweep(0)  # who was killed while it copied has left its part
    there = dict(stored(chosen))
    undelivered = {row["oss_file"]: row["id"] for row in rows.values() if row["state"] not in SUCCESS and row["final"]}
    assert there.keys() - promised.keys() <= undelivered.keys(), "objects that no row names"
    if there.keys() & undelivered.keys():
        farm.ask("UPDATE asynch_task SET wake_at = now() WHERE id = ANY(%s) RETURNING id", list(undelivered.values()))
        purge(farm.pool, Terms(1, 1, 1, 1, 1, delete_results=False), farm.live.parts.storage)
    assert dict(stored(chosen)) == promised


def stored(chosen: Settings) -> Iterator[tuple[str, str]]:
    """Key and SHA-256 of every object in the store."""
    if chosen.storage.backend == "local":
        root = chosen.files_path
        for path in root.rglob("*"):
            if path.is_file() and path.name != ".store-id":
                yield str(path.relative_to(root)), hashlib.sha256(path.read_bytes()).hexdigest()
        return
    minio = chosen.storage.minio
    client = Minio(
        minio.endpoint,
        access_key=minio.access_key.get_secret_value(),
        secret_key=minio.secret_key.get_secret_value(),
        secure=minio.secure,
        region=minio.region,
    )
    for found in client.list_objects(minio.bucket, recursive=True):
        body = client.get_object(minio.bucket, str(found.object_name))
        yield str(found.object_name), hashlib.sha256(body.data).hexdigest()
        body.close()
        body.release_conn()


def check_tmp_dirs(farm: Farm, rows: Mapping[int, db.Row]) -> None:
    """After a sweep of each tmp_dir nothing is left but saved results that a row still needs."""
    needed = {row["tmp_file"] for row in rows.values() if row["tmp_file"]}
    left: set[str] = set()
    for path in farm.tmp_dirs:
        for file in path.iterdir():
            os.utime(file, (0, 0))  # a sweep leaves young files alone
        sweep(farm.pool, TmpDir(path, max_bytes=1), farm.live.parts.storage)
        names = {file.name for file in path.iterdir()}
        assert names - needed <= {".host-id", ".incoming", ".scratch"}, f"left in {path.name}"
        assert [*path.glob(".incoming/*"), *path.glob(".scratch/*")] == []
        left |= names
    assert needed <= left, "saved results are gone"


def check_calls(farm: Farm, rows: Mapping[int, db.Row]) -> None:
    """Each call is a recorded attempt, and a saved result is never called for again unless it was lost."""
    seen: dict[int, Counter[int]] = defaultdict(Counter)
    for entry in list(farm.model.ledger.calls):
        seen[int(entry.task_id)][entry.attempt] += 1
    for task_id, row in rows.items():
        if row["attempt"] > RECORDS_KEPT:
            continue
        ends = ends_of_calls(row)
        told = f"task {task_id}: called {dict(seen[task_id])}, recorded {row['attempts']}"
        assert max(seen[task_id].values(), default=0) <= 1, told
        assert seen[task_id].keys() <= ends.keys(), told
        assert all(end in MAYBE_NOT_CALLED for attempt, end in ends.items() if attempt not in seen[task_id]), told
        saves = [r["attempt"] for r in row["attempts"] if r["outcome"] == "saved"]
        losses = [r["attempt"] for r in row["attempts"] if r["outcome"] == "lost"]
        for save in saves:
            later = [attempt for attempt in seen[task_id] if attempt > save]
            assert not later or any(save <= lost < min(later) for lost in losses), told
        assert (row["state"] not in SUCCESS) or saves, told


def ends_of_calls(row: db.Row) -> dict[int, str]:
    """How each claim of phase 0 ended, by attempt."""
    records: list[dict[str, Any]] = row["attempts"]
    return {r["attempt"]: r["outcome"] for r in records if r["phase"] == Phase.CALL and r["outcome"] in ENDS_OF_A_CALL}


def check_statistics(farm: Farm, rows: Mapping[int, db.Row]) -> None:
    """request_count is the number of claims of phase 0: each a call, or one that its end kept from starting."""
    if len(rows) < len(farm.accepted) or any(row["attempt"] > RECORDS_KEPT for row in rows.values()):
        return
    counted = sum(row["request_count"] for row in farm.ask(f"SELECT request_count FROM {CALLS}"))
    assert counted == sum(len(ends_of_calls(row)) for row in rows.values())
