"""The API behind its real server, as a process that a test may end."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

from tests.live import KEY
from tests.programs import REPOSITORY
from tests.waiting import until

#: a process like `asynch api`, with as little as it takes
PROGRAM = """
import sys
from pathlib import Path
from asynch import db, log, settings
from asynch.secretbox import SecretBox
from asynch.storage.local import LocalStorage
from asynch.web import Parts
from asynch.web.app import create_app
from asynch.web.server import serve

dsn, data_dir, key, fd = sys.argv[1:]
log.configure("INFO", "json")
chosen = settings.build({"data_dir": data_dir, "server": {"processes": 2, "threads": 4, "max_body": 1000}})

def make():
    box = SecretBox([key])
    storage = LocalStorage(
        chosen.files_path, base_url="http://h", signing_key=box.signing_key("files"), url_ttl_s=60
    )
    return create_app(Parts(chosen, db.open_pool(dsn, size=4, name="api"), box, storage))

serve(make, chosen, fd=int(fd))
"""


class Served:
    """The process, its port and its log."""

    def __init__(self, dsn: str, data_dir: Path) -> None:
        self.log = data_dir / "log"
        with socket.create_server(("127.0.0.1", 0)) as listener, self.log.open("wb") as log:
            self.port = listener.getsockname()[1]
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, dsn, str(data_dir), KEY, str(listener.fileno())],
                pass_fds=[listener.fileno()],
                stderr=log,
                cwd=REPOSITORY,
            )

    def is_up(self) -> bool:
        assert self.process.poll() is None, "it ended instead of serving"
        with suppress(requests.ConnectionError, psutil.NoSuchProcess):
            return len(self.workers()) == 2 and requests.get(self.url("/healthz"), timeout=5).ok
        return False

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def list_models(self, **options: object) -> requests.Response:
        return requests.post(self.url("/model/listModel"), timeout=20, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        with suppress(psutil.NoSuchProcess):
            for worker in self.workers():
                worker.kill()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def served(dsn: str, tmp_path: Path) -> Iterator[Served]:
    """One that is up."""
    made = Served(dsn, tmp_path)
    try:
        until(made.is_up, 60)
        yield made
    finally:
        print(made.log.read_text())
        made.close()
