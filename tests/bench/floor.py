"""The same work with no queue at all: one call with a kept connection, one fsynced file."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import requests

THREADS = 32
PAYLOAD = {"n": 1}

_local = threading.local()


def call_and_write(url: str, path: Path) -> None:
    """Call the model and leave its answer, fsynced, in `path`; a session a thread."""
    session = getattr(_local, "session", None)
    if session is None:
        session = _local.session = requests.Session()
        session.trust_env = False
    with session.post(url, json=PAYLOAD, stream=True, timeout=60) as answer, path.open("wb", buffering=0) as file:
        for piece in answer.iter_content(64 << 10):
            file.write(piece)
        os.fsync(file.fileno())


def rate(url: str, directory: Path, prefix: str, count: int) -> float:
    """Calls a second of one process with 32 threads; the names of its files begin with `prefix`."""
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda n: call_and_write(url, directory / f"{prefix}warm-{n}"), range(THREADS)))
        began = monotonic()
        list(threads.map(lambda n: call_and_write(url, directory / f"{prefix}{n}"), range(count)))
        return count / (monotonic() - began)
