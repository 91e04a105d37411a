"""What 500 readers who watch a task that does not change cost those who create tasks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from urllib.parse import urlsplit

import requests

from tests.bench import stock
from tests.bench.figures import Figure, compared, percentile
from tests.bench.place import Bench, BenchError

_STREAMS = 500
_AT_MOST = 2.0


def run(bench: Bench) -> list[Figure]:
    """The slowest in a hundred of createTask, one after another; with and without, three times in turn."""
    times = bench.scaled(1000, 300)
    with bench.site() as site:
        stock.add_lanes(site, slots=10, tenant=0)
        with site.api() as url, requests.Session() as session:
            watched = _created(session, url)
            _slowest(session, url, 100)  # connections, caches
            pairs = []
            for _ in range(3):
                with _watched(url, watched, _STREAMS):
                    ours = _slowest(session, url, times)
                pairs.append((ours, _slowest(session, url, times)))
    name = f"createTask p99 with {_STREAMS} idle streams / with none"
    return [compared(name, pairs, target=_AT_MOST, at_most=True)]


def _created(session: requests.Session, url: str) -> str:
    answer = session.post(f"{url}/task/createTask", json={"modelName": "m-0"}, timeout=30)
    if answer.status_code != 202:
        raise BenchError(f"createTask answered {answer.status_code}: {answer.text[:500]}")
    return str(answer.json()["taskId"])


def _slowest(session: requests.Session, url: str, times: int) -> float:
    took = []
    for _ in range(times):
        began = monotonic()
        _created(session, url)
        took.append(monotonic() - began)
    return percentile(took, 0.99)


@contextmanager
def _watched(url: str, task: str, count: int) -> Iterator[None]:
    """So many open streams of one task, each past its first event."""
    target = urlsplit(url)
    request = f"GET /task/{task}/events HTTP/1.1\r\nHost: {target.netloc}\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(count):
            line = stack.enter_context(socket.create_connection((target.hostname, target.port or 80), timeout=10))
            line.sendall(request)
            got = b""
            while b"event: status" not in got:
                if not (data := line.recv(1 << 16)) or b" 503 " in got[:20]:
                    raise BenchError(f"a stream was refused: {got[:200]!r}")
                got += data
        yield
