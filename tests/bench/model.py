"""A model service that does nothing as fast as Python can, and remembers when it saw which call.

    /noop       answers a few bytes                /sleep/S    ... after S seconds
    /once       leaves the first attempt of a      /bytes/N    answers N bytes, as fast as they are taken
                task without an answer

GET /__calls tells [task id, attempt, monotonic time] of every call, GET /__count how many there were, GET /__reset forgets
them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

import requests

from tests.bench.place import child, free_port, until_it_listens

ANSWER = b'{"answer": 42}\n'
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_NOOP = _HEAD % len(ANSWER) + ANSWER
_PIECE = b"\0" * (256 << 10)


class _Line(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    calls: ClassVar[list[tuple[str, int, float]]] = []  # of all connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._streaming: asyncio.Task[None] | None = None

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
        length = int(headers.get(b"content-length", b"0"))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._answer(lines[0].split(b" ")[1].decode(), headers)

    def _answer(self, path: str, headers: dict[bytes, bytes]) -> None:
        kind, _, amount = path.strip("/").partition("/")
        if kind.startswith("__"):
            self._send(json.dumps(len(self.calls) if kind == "__count" else self.calls).encode())
            if kind == "__reset":
                self.calls.clear()
            return
        attempt = int(headers.get(b"x-asynch-attempt", b"1"))
        self.calls.append((headers.get(b"x-asynch-task-id", b"").decode(), attempt, monotonic()))
        if kind == "sleep":
            asyncio.get_running_loop().call_later(float(amount), self._transport.write, _NOOP)
        elif kind == "bytes":
            self._streaming = asyncio.get_running_loop().create_task(self._stream(int(amount)))
        elif kind != "once" or attempt > 1:
            self._transport.write(_NOOP)

    def _send(self, body: bytes) -> None:
        self._transport.write(_HEAD % len(body) + body)

    async def _stream(self, size: int) -> None:
        self._transport.write(_HEAD % size)
        while size > 0:
            await self._can_write.wait()
            self._transport.write(_PIECE[:size])
            size -= len(_PIECE)


@dataclass(frozen=True)
class Model:
    """The running service, asked over HTTP."""

    url: str

    def calls(self) -> list[tuple[str, int, float]]:
        """Task id, attempt and monotonic time of every call, in order."""
        return [(task, attempt, at) for task, attempt, at in self._get("__calls")]

    def count(self) -> int:
        """How many there were."""
        return int(self._get("__count"))

    def reset(self) -> None:
        """Forget them."""
        self._get("__reset")

    def _get(self, path: str) -> Any:
        return requests.get(f"{self.url}/{path}", timeout=30).json()


@contextmanager
def serving(home: Path) -> Iterator[Model]:
    """The service in a process of its own."""
    port, log = free_port(), home / "model.log"
    with child([sys.executable, "-m", "tests.bench.model", str(port)], log) as process:
        until_it_listens(process, log, port)
        yield Model(f"http://127.0.0.1:{port}")


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Line, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
