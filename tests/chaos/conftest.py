"""Farms for the chaos tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from asynch import db
from asynch.embedded import EmbeddedPostgres
from asynch.service import schema
from tests.chaos.farm import Farm, farming
from tests.chaos.server import Server
from tests.database import run_on
from tests.proxy import Proxy
from tests.seaweed import Seaweed


@pytest.fixture
def dsn(own_dsn: str) -> str:
    return own_dsn


@pytest.fixture
def farm(dsn: str, tmp_path: Path) -> Iterator[Farm]:
    """An installation on a database of its own, with local storage and no worker yet."""
    with farming(dsn, tmp_path) as running:
        yield running


@pytest.fixture
def server(farm: Farm) -> Iterator[Server]:
    """An API process on the farm's database and directory."""
    running = Server(farm)
    yield running
    running.close()


@pytest.fixture
def store_line(seaweed: Seaweed) -> Iterator[Proxy]:
    """What leads to the S3 store."""
    host, _, port = seaweed.endpoint.partition(":")
    with Proxy((host, int(port))) as proxy:
        yield proxy


@pytest.fixture
def s3_farm(dsn: str, tmp_path: Path, seaweed: Seaweed, store_line: Proxy) -> Iterator[Farm]:
    """A farm whose workers reach their S3 store through `store_line`."""
    minio: dict[str, Any] = {
        "endpoint": f"127.0.0.1:{store_line.port}",
        "access_key": seaweed.access_key,
        "secret_key": seaweed.secret_key,
        "bucket": f"chaos-{uuid.uuid4().hex[:12]}",
        "secure": False,
    }
    with farming(dsn, tmp_path, sections={"storage": {"backend": "minio", "minio": minio}}) as running:
        yield running


@pytest.fixture
def base_line(dsn: str) -> Iterator[Proxy]:
    """What leads the workers to the database."""
    parts = conninfo_to_dict(dsn)
    with Proxy((str(parts["host"]), int(str(parts["port"])))) as proxy:
        yield proxy


@pytest.fixture
def far_farm(dsn: str, tmp_path: Path, base_line: Proxy) -> Iterator[Farm]:
    """A farm whose workers reach their database through `base_line`."""
    with farming(dsn, tmp_path, worker_dsn=make_conninfo(dsn, host="127.0.0.1", port=base_line.port)) as running:
        yield running


@dataclass
class Base:
    """A Postgres that a test may stop, kill and start again; its port stays."""

    server: EmbeddedPostgres
    dsn: str = field(default="")

    def kill(self) -> None:
        """kill -9 of the postmaster; its children notice and end."""
        assert self.server.process is not None
        self.server.process.kill()
        self.server.process.wait()
        self.server.stop()


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A Postgres for the tests that stop it; running whenever a test begins."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("base"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def base(own_server: EmbeddedPostgres) -> Base:
    """That Postgres with a migrated database of this test's own."""
    if own_server.process is None:
        own_server.start()
    administrator = (own_server.data_dir / "dsn").read_text()
    name = f"base_{uuid.uuid4().hex[:12]}"
    run_on(administrator, "CREATE DATABASE {}", name)
    dsn = make_conninfo(administrator, dbname=name)
    with db.open_pool(dsn, size=1, name="tests") as pool:
        schema.migrate(pool)
    return Base(own_server, dsn)


@pytest.fixture
def base_farm(base: Base, tmp_path: Path) -> Iterator[Farm]:
    """A farm on a Postgres that may be stopped."""
    with farming(base.dsn, tmp_path) as running:
        yield running
