"""Uploads, by form and in pieces, beside a bare write and fsync of the same bytes, and beside nginx's own upload."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from time import monotonic

import psutil
import requests

from tests.bench.figures import Figure, compared
from tests.bench.memory import pss
from tests.bench.place import Bench, BenchError, Site, child, free_port, until_it_listens

_MIB = 1 << 20
_SEED = b"\x89PNG\r\n\x1a\n" + os.urandom(_MIB - 8)
_TUS = {"Tus-Resumable": "1.0.0"}
_NGINX = """
worker_processes 1; daemon off; pid {home}/nginx.pid; error_log {home}/nginx.err;
events {{ worker_connections 64; }}
http {{
    access_log off; client_max_body_size 0; client_body_temp_path {home}/nginx-tmp;
    server {{ listen 127.0.0.1:{port}; root {home}/nginx-root; location / {{ dav_methods PUT; }} }}
}}
"""


def run(bench: Bench) -> list[Figure]:
    """Seconds from the first byte to the answer / seconds of the write, three times in turn."""
    size = bench.scaled(512, 64)
    with bench.site() as site, site.api() as url:
        _form(url, size)  # connections, caches
        figures = [
            compared(f"{size} MiB {name} / write and fsync", _pairs(ours, url, site, size), target=4.0, at_most=True)
            for name, ours in (("by form", _form), ("in pieces of 8 MiB", _in_pieces))
        ]
        if shutil.which("nginx"):
            figures.append(_beside_nginx(url, site, size))
        size = bench.scaled(2048, 256)
        figures += [_memory(url, size, "by form", _form), _memory(url, size, "in pieces", _in_pieces)]
    shutil.rmtree(site.home)
    return figures


def _memory(url: str, size: int, way: str, send: Callable[[str, int], object]) -> Figure:
    """The most that the API's processes had while a large file came, less what they had before."""
    (api,) = [process for process in psutil.Process().children() if "api" in process.cmdline()]
    idle = seen = pss(api.pid)
    with ThreadPoolExecutor(1) as sender:
        sending = sender.submit(send, url, size)
        while not sending.done():
            seen = max(seen, pss(api.pid))
        sending.result()
    name = f"memory of the API, {size:,} MiB {way}"
    return Figure(name, (seen - idle) / _MIB, "MiB more", 64, at_most=True, parts={"idle": idle / _MIB})


def _pairs(ours: Callable[[str, int], float], url: str, site: Site, size: int) -> list[tuple[float, float]]:
    return [(ours(url, size), _written(site.home / "bare", size)) for _ in range(3)]


def _beside_nginx(url: str, site: Site, size: int) -> Figure:
    with _nginx(site.home) as theirs:
        pairs = [(_form(url, size), _put(f"{theirs}/{n}", size)) for n in range(3)]
    return compared(f"{size} MiB by form / PUT to nginx, which does not fsync", pairs, target=3.0, at_most=True)


def _blocks(size: int) -> Iterator[bytes]:
    """So many MiB, that nobody has sent before."""
    yield _SEED[:8] + os.urandom(16) + _SEED[24:]
    for _ in range(size - 1):
        yield _SEED


def _form(url: str, size: int) -> float:
    def body() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        yield from _blocks(size)
        yield b"\r\n--x--\r\n"

    began = monotonic()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = requests.post(f"{url}/api/file/upload", data=body(), headers=headers, timeout=600)
    return _took(answer, 200, began)


def _in_pieces(url: str, size: int) -> float:
    began = monotonic()
    made = requests.post(f"{url}/api/file/tus", headers={**_TUS, "Upload-Length": str(size * _MIB)}, timeout=30)
    where = f"{url}/api/file/tus/{made.headers['Location'].rpartition('/')[2]}"
    blocks, at = _blocks(size), 0
    with requests.Session() as session:
        while at < size:
            piece = b"".join(islice(blocks, 8))
            headers = {**_TUS, "Upload-Offset": str(at * _MIB), "Content-Type": "application/offset+octet-stream"}
            answer = session.patch(where, data=piece, headers=headers, timeout=600)
            at += len(piece) // _MIB
    return _took(answer, 204, began)


def _put(url: str, size: int) -> float:
    began = monotonic()
    return _took(requests.put(url, data=_blocks(size), timeout=600), 201, began)


def _took(answer: requests.Response, expected: int, began: float) -> float:
    if answer.status_code != expected:
        raise BenchError(f"an upload was answered {answer.status_code}: {answer.text[:300]}")
    return monotonic() - began


def _written(path: Path, size: int) -> float:
    began = monotonic()
    with path.open("wb") as file:
        for block in _blocks(size):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    took = monotonic() - began
    path.unlink()
    return took


@contextmanager
def _nginx(home: Path) -> Iterator[str]:
    (home / "nginx-root").mkdir()
    port, config = free_port(), home / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(user + _NGINX.format(home=home, port=port))
    with child(["nginx", "-c", str(config)], log := home / "nginx.log") as process:
        until_it_listens(process, log, port)
        yield f"http://127.0.0.1:{port}"
