"""A worker in this process, the model and the store it works with, and what tests say about its tasks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from asynch import db, settings
from asynch.db import Row
from asynch.domain.states import State
from asynch.errors import StorageError
from asynch.store import news
from asynch.store import tasks as store
from asynch.wiring.worker import worker_setup
from asynch.worker import incarnation
from asynch.worker.setup import Setup
from tests.live import KEY
from tests.model_ledger import Entry
from tests.model_server import ModelServer
from tests.rows import TENANT, add_model, add_tasks, row_of
from tests.waiting import until


class MoodyStore:
    """A store that may be down; else the one it stands before."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self.down = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def link(self, key: str, source: Path) -> bool:
        return not self.down and self._storage.link(key, source)

    def put(self, key: str, source: Path, content_type: str, **sender: Any) -> str:
        if self.down:
            self.refused += 1
            raise StorageError("the store is down")
        address: str = self._storage.put(key, source, content_type, **sender)
        return address


@dataclass
class Life:
    """A worker in this process with what it works on; each test has a model of its own."""

    pool: db.Pool
    model: ModelServer
    home: Path
    setup: Setup
    store: MoodyStore
    numbers: count[int]

    def lane(self, **spec: Any) -> tuple[int, str]:
        """A new model on a path of its own: lane and name."""
        name = f"m{next(self.numbers)}"
        return add_model(self.pool, name, **{"base_url": self.model.url, "route": name, **spec}), name

    def create(self, lane: tuple[int, str], *payloads: Any, **fields: Any) -> list[int]:
        """Tasks with these payloads (text is sent as it is), announced as the API does."""
        ids = []
        for payload in payloads:
            text = payload if payload is None or isinstance(payload, str) else json.dumps(payload)
            ids += add_tasks(self.pool, lane[0], model_name=lane[1], payload=text, **fields)
        with db.transaction(self.pool) as conn:
            news.announce(conn, {lane[0]})
        return ids

    def one(self, payload: Any, *, fields: dict[str, Any] | None = None, **spec: Any) -> int:
        """One task of a new model."""
        return self.create(self.lane(**spec), payload, **(fields or {}))[0]

    def ended(self, task_id: int) -> Row:
        """The row of a task once it is final."""
        until(lambda: row_of(self.pool, task_id)["final"], 20.0)
        return row_of(self.pool, task_id)

    def result(self, task_id: int) -> bytes:
        """The stored bytes of a success."""
        row = self.ended(task_id)
        assert row["state"] == State.SUCCEEDED, row["error_msg"]
        return (self.home / "files" / row["oss_file"]).read_bytes()

    def calls(self, task_id: int | str) -> list[Entry]:
        return self.model.ledger.of(str(task_id))

    def cancel(self, ids: Sequence[int]) -> None:
        with db.transaction(self.pool) as conn:
            store.cancel(conn, tenant_id=TENANT, ids=ids, updater="u", failed_retention_s=60.0)
            news.announce_cancel(conn, ids)

    def tmp_files(self) -> list[str]:
        return [name for name, _, _ in self.setup.tmp.listing()]


@contextmanager
def living(
    dsn: str, home: Path, **worker: Any
) -> Iterator[tuple[Setup, threading.Event, threading.Thread, MoodyStore]]:
    """A worker's setup, its stop signal and its thread, ended with the block."""
    chosen = settings.build(
        {
            "data_dir": str(home),
            "database": {"dsn": dsn},
            "secrets": {"keys": [KEY]},
            "worker": {"threads": 6, "uploaders": 2, "poll_interval": 0.3, **worker},
            "cleaner": {"interval": 1},
        }
    )
    setup = worker_setup(chosen)
    moody = MoodyStore(setup.storage)
    setup = replace(setup, storage=moody)  # type: ignore[arg-type]  # it has all that a store has
    stop = threading.Event()
    thread = threading.Thread(target=incarnation.run, args=(setup, stop))
    thread.start()
    try:
        yield setup, stop, thread, moody
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def life(module_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    home = tmp_path_factory.mktemp("life")
    with (
        db.open_pool(module_dsn, size=4, name="tests") as pool,
        ModelServer() as model,
        living(module_dsn, home) as (setup, _, _, moody),
    ):
        yield Life(pool, model, home, setup, moody, count(1))
