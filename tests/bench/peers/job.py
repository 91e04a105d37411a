"""The job every peer runs, and where: the floor's call and fsynced file, told by the environment."""

from __future__ import annotations

import os
from pathlib import Path

from tests.bench import floor

THREADS = floor.THREADS
DSN, REDIS, URL, FILES = "BENCH_DSN", "BENCH_REDIS", "BENCH_URL", "BENCH_FILES"


def do(number: int) -> None:
    """One job."""
    floor.call_and_write(os.environ[URL], Path(os.environ[FILES]) / str(number))
