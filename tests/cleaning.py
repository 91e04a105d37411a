"""What the tests of the cleaner share: terms, a store, one that refuses, and hosts that are silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asynch import db
from asynch.cleaner.terms import Terms
from asynch.errors import ErrorCode, ExecutorError, StorageError
from asynch.storage.local import LocalStorage
from tests.rows import QUEUE_TIMEOUT_S

TERMS = Terms(
    interval_s=0.1,
    queue_timeout_s=QUEUE_TIMEOUT_S,
    failed_retention_s=60.0,
    op_log_retention_s=1000.0,
    tmp_host_grace_s=600.0,
    delete_results=False,
    batch=3,
)
BROKEN = ExecutorError(ErrorCode.MODEL_HTTP_ERROR, "500", transient=True, http_status=500)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(
        tmp_path / "files", base_url="http://127.0.0.1", signing_key=b"k" * 32, url_ttl_s=60, public_base_url=""
    )


def put_object(storage: LocalStorage, tmp_path: Path, key: str) -> Path:
    """Store something under a key; where the file is."""
    source = tmp_path / "source"
    source.write_bytes(b"result")
    storage.put(key, source, "text/plain")
    return tmp_path / "files" / key


class Stubborn:
    """A store that refuses to delete some keys, and otherwise does as it is told."""

    def __init__(self, storage: LocalStorage, *keys: str) -> None:
        self._storage = storage
        self.keys = set(keys)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def delete(self, key: str) -> None:
        if key in self.keys:
            raise StorageError("not now")
        self._storage.delete(key)


def silent_host(pool: db.Pool, name: str, silent_s: float) -> None:
    """A host that was heard of so long ago."""
    with db.transaction(pool) as conn:
        conn.execute(
            "INSERT INTO asynch_host (id, name, seen_at) VALUES (%s, %s, now() - make_interval(secs => %s))",
            (name, name, silent_s),
        )
