"""A load generator that costs little: the same request over and over on a few kept connections, one thread."""

from __future__ import annotations

import json
import multiprocessing
import selectors
import socket
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from tests.bench.place import BenchError


def rate(url: str, body: Any, *, expected: int, connections: int = 8, seconds: float) -> float:
    """Answers a second, measured from a process of its own; BenchError when one has another status."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_press, args=(url, body, expected, connections, seconds, writer), daemon=True)
    process.start()
    writer.close()
    try:
        outcome = reader.recv()
    except EOFError:
        raise BenchError("the load generator ended without a word") from None
    finally:
        process.join()
    if isinstance(outcome, str):
        raise BenchError(outcome)
    return float(outcome)


def _press(url: str, body: Any, expected: int, connections: int, seconds: float, answer: Any) -> None:
    target = urlsplit(url)
    lines = [_Line(target.hostname or "", target.port or 80, _request(target.path, target.netloc, body))]
    lines += [_Line(lines[0].host, lines[0].port, lines[0].request) for _ in range(connections - 1)]
    answered, began = 0, monotonic()
    with selectors.DefaultSelector() as selector:
        for line in lines:
            selector.register(line.sock, selectors.EVENT_READ, line)
            line.send()
        while monotonic() - began < seconds:
            for key, _ in selector.select(1.0):
                status = key.data.receive()
                if status not in (None, expected):
                    return answer.send(f"{url} answered {status}: {key.data.buffer[:500]!r}")
                if status is not None:
                    answered += 1
                    key.data.send()
    return answer.send(answered / (monotonic() - began))


def _request(path: str, host: str, body: Any) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


class _Line:
    """One connection with one request under way."""

    def __init__(self, host: str, port: int, request: bytes) -> None:
        self.host, self.port, self.request = host, port, request
        self.sock = socket.create_connection((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self) -> None:
        self.buffer = b""
        self.sock.sendall(self.request)

    def receive(self) -> int | None:
        """The status once the answer is complete; 0 when the server closed the connection."""
        data = self.sock.recv(1 << 16)
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not data:
            return 0
        if not found:
            return None
        length = next(int(h[16:]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length: "))
        return int(head[9:12]) if len(rest) >= length else None
