"""What tests say to /task over HTTP, and workers for their tasks: one moved by hand, and a real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import requests

from asynch import db, settings
from asynch.cleaner.purge import purge
from asynch.cleaner.retry import retry
from asynch.cleaner.terms import Terms as CleanerTerms
from asynch.errors import ErrorCode, ExecutorError
from asynch.store import queue
from asynch.store.queue import Claim, Outcome, Saved
from asynch.wiring.worker import worker_setup
from asynch.worker import incarnation, outcomes
from tests import rows
from tests.live import KEY, Live

NOWHERE = "http://127.0.0.1:9/run"
BODY = b'{"answer":42}'
CLEANER = CleanerTerms(
    interval_s=10.0,
    queue_timeout_s=60.0,
    failed_retention_s=60.0,
    op_log_retention_s=3600.0,
    tmp_host_grace_s=600.0,
    delete_results=False,
)
TERMS = outcomes.Terms("tests", failed_retention_s=60.0, unfetched_retention_s=0.0)


@dataclass(frozen=True)
class Api:
    """One tenant's view of a running server."""

    live: Live
    tenant: int = 0
    role: str = "admin"

    def of(self, tenant: int, role: str = "user") -> Api:
        """The same server for another tenant."""
        return replace(self, tenant=tenant, role=role)

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        """A request as this tenant; a body of text or bytes is sent as it is."""
        info = json.dumps({"tenantId": self.tenant, "userName": "eva", "role": self.role})
        headers = {"X-User-Info": info, **options.pop("headers", {})}
        if isinstance(body, str | bytes):
            headers.setdefault("Content-Type", "application/json")
            options["data"], body = body.encode() if isinstance(body, str) else body, None
        return self.live.call(method, path, body, headers=headers, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.call("POST", f"/task/{path}", body, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.call("GET", f"/task/{path}", **options)

    def model(self, name: str = "m", **fields: Any) -> str:
        """A model; its id."""
        answer = self.call("POST", "/model/createModel", {"modelName": name, "baseUrl": NOWHERE, **fields})
        assert answer.status_code == 200, answer.text
        made: str = answer.json()["id"]
        return made

    def change_model(self, name: str = "m", **fields: Any) -> None:
        answer = self.call("PUT", "/model/updateModel", {"modelName": name, **fields})
        assert answer.status_code == 200, answer.text

    def create(self, **fields: Any) -> str:
        """A task of the model `m`; its id."""
        answer = self.post("createTask", {"modelName": "m", **fields})
        assert answer.status_code == 202, answer.text
        made: str = answer.json()["taskId"]
        return made

    def batch(self, *tasks: Any, **options: Any) -> list[dict[str, Any]]:
        """createTaskBatch; what came of each."""
        answer = self.post("createTaskBatch", {"tasks": list(tasks)}, **options)
        assert answer.status_code == 202, answer.text
        listed: list[dict[str, Any]] = answer.json()["list"]
        return listed

    def fill(self, count: int, **fields: Any) -> list[str]:
        """So many tasks of the model `m`; their ids."""
        return [made["taskId"] for made in self.batch(*[{"modelName": "m", **fields}] * count)]

    def status(self, task_id: str) -> dict[str, Any]:
        answer = self.get(task_id)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def collect(self, *task_ids: Any, **fields: Any) -> dict[str, list[Any]]:
        """getTaskBatch."""
        answer = self.post("getTaskBatch", {"taskIds": list(task_ids), **fields})
        assert answer.status_code == 200, answer.text
        found: dict[str, list[Any]] = answer.json()
        return found

    def listed(self, **body: Any) -> dict[str, Any]:
        """listTask."""
        answer = self.post("listTask", body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
def api(live: Live) -> Api:
    """Tenant 0 of the application."""
    return Api(live)


def problem(answer: requests.Response) -> tuple[int, str]:
    """Status and code of a problem document; AssertionError for anything else."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    told = answer.json()
    assert told["status"] == answer.status_code, answer.text
    assert told["requestId"] == answer.headers["X-Request-Id"]
    return answer.status_code, told["code"]


def pointers(answer: requests.Response) -> list[str]:
    """Where a refused body is wrong."""
    assert problem(answer) == (422, "invalid_input"), answer.text
    return [error["pointer"] for error in answer.json()["errors"]]


@dataclass(frozen=True)
class Hand:
    """A worker without threads: it claims what it is told to and settles it as it is told to."""

    worker: rows.Worker
    live: Live

    @property
    def pool(self) -> db.Pool:
        return self.live.parts.pool

    def take(self, *task_ids: str) -> list[Claim]:
        """Claim these tasks, which must be the first of their lanes."""
        wanted = [int(task_id) for task_id in task_ids]
        lanes = [row["lane_id"] for row in rows.rows_of(self.pool, wanted).values()]
        counts = {lane: lanes.count(lane) for lane in lanes}
        claims = queue.claim(self.worker.session, counts=counts, worker_id=self.worker.id, timezone="UTC")
        assert sorted(claim.id for claim in claims) == sorted(wanted)
        return claims

    def settle(self, *settled: Outcome) -> None:
        with db.transaction(self.pool) as conn:
            assert len(queue.settle(conn, settled, queue_timeout_s=60.0)) == len(settled)

    def save(self, *claims: Claim) -> list[Claim]:
        """Phase 0 to 1, and the object is in the store."""
        storage, source = self.live.parts.storage, self.live.parts.settings.data_path / "answer"
        source.write_bytes(BODY)
        saved = [
            Saved("f", "h", f"{c.tenant_id}/{c.id}-{c.attempt}.json", "json", "application/json", len(BODY), "0" * 64)
            for c in claims
        ]
        for result in saved:
            storage.put(result.key, source, result.content_type)
        self.settle(*[outcomes.saved(TERMS, c, s) for c, s in zip(claims, saved, strict=True)])
        return [c._replace(phase=c.phase.UPLOAD, saved=s) for c, s in zip(claims, saved, strict=True)]

    def succeed(self, *task_ids: str) -> None:
        """Bring these tasks to state 2."""
        self.deliver(*self.take(*task_ids))

    def deliver(self, *claims: Claim) -> None:
        """Bring what these claims are for to state 2."""
        self.settle(*[outcomes.delivered(TERMS, claim) for claim in self.save(*claims)])

    def fail(self, *task_ids: str, detail: str = "the model said no") -> None:
        """Let one call of each of these tasks fail; the model's retry rule decides what comes of it."""
        error = ExecutorError(ErrorCode.MODEL_HTTP_ERROR, detail, transient=True, http_status=500)
        self.settle(*[outcomes.call_failed(TERMS, claim, error) for claim in self.take(*task_ids)])


@pytest.fixture
def hand(live: Live, dsn: str) -> Iterator[Hand]:
    """A worker moved by hand."""
    with rows.worker(dsn) as worker:
        yield Hand(worker, live)


@contextmanager
def working(live: Live, dsn: str, **sections: Any) -> Iterator[None]:
    """A real worker with its threads while the block runs; further sections of its settings may be given."""
    chosen = settings.build(
        {
            "data_dir": live.parts.settings.data_dir,
            "database": {"dsn": dsn},
            "secrets": {"keys": [KEY]},
            "worker": {"threads": 4, "uploaders": 2, "poll_interval": 0.2, "drain_timeout": 0},
            "cleaner": {"enabled": False},
            **sections,
        }
    )
    with db.transaction(live.parts.pool) as conn:  # a database may outlive the directory of the test that used it
        conn.execute("DELETE FROM asynch_meta WHERE key = 'local_store_id'")
    stop = threading.Event()
    thread = threading.Thread(target=incarnation.run, args=(worker_setup(chosen), stop), name="worker")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def put_back(pool: db.Pool) -> int:
    """What the cleaner does with failures whose back-off is over."""
    return retry(pool, CLEANER)


def expire(pool: db.Pool, task_ids: Sequence[str], ago_s: float = 1.0) -> None:
    """Let the time of fetched tasks be over."""
    rows.bend(pool, [int(i) for i in task_ids], expire_at=rows.ago(ago_s), wake_at=rows.ago(ago_s))


def purge_rows(live: Live, task_ids: Sequence[str]) -> None:
    """Let the rows of final tasks have outlived their use, and the cleaner pass by."""
    rows.bend(live.parts.pool, [int(i) for i in task_ids], wake_at=rows.ago(1))
    assert purge(live.parts.pool, CLEANER, live.parts.storage) == len(task_ids)
    assert rows.rows_of(live.parts.pool, [int(i) for i in task_ids]) == {}
