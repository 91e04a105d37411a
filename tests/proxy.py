"""A TCP proxy between a program under test and its server: cuts, refuses, stalls and bends connections on demand."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

_BLOCK = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends RST, as a host does that forgot the connection


class Proxy:
    """Forwards `host`:`port` to `target`: `with Proxy(("127.0.0.1", 5432)) as proxy: ... proxy.port`.

    What the server says goes through `bend`.
    """

    def __init__(
        self, target: tuple[str, int], host: str = "127.0.0.1", bend: Callable[[bytes], bytes] = bytes
    ) -> None:
        self._bend = bend
        self._target = target
        self._host = host
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._listener = socket.create_server((host, 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._serve()

    def cut(self) -> int:
        """End every connection that is open now; returns how many. New ones are served."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    def refuse(self) -> None:
        """End every connection and accept no other until `accept`."""
        self._close_listener()
        self.cut()

    def accept(self) -> None:
        """Serve again after `refuse`."""
        self._listener = socket.create_server((self._host, self.port), backlog=256)
        self._serve()

    def turn_to(self, target: tuple[str, int]) -> None:
        """Lead what comes from now on to another server."""
        self._target = target

    def stall(self) -> None:
        """Keep every connection open, take new ones, and let no byte through until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let what was held back flow."""
        self._flowing.set()

    def freeze(self) -> None:
        """Let no byte more through on the connections open now, ever; new ones are served."""
        self.stall()
        self._flowing = threading.Event()
        self.resume()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close_listener()
        with self._lock:
            for link in self._links:
                link.flowing.set()
        self.cut()

    def _close_listener(self) -> None:
        with suppress(OSError):  # close alone would leave the thread in accept, and the port open
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.close()
                continue
            server.settimeout(None)
            link = _Link(client, server, self._flowing, self._bend)
            with self._lock:
                self._links = {other for other in self._links if other.alive} | {link}
            link.start()


class _Link:
    """One connection: two threads, one a direction; the last to end closes both sockets."""

    def __init__(
        self, client: socket.socket, server: socket.socket, flowing: threading.Event, bend: Callable[[bytes], bytes]
    ) -> None:
        self._bend = bend
        self._ends = (client, server)
        self.flowing = flowing
        self._left = 2
        self._lock = threading.Lock()
        for end in self._ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def alive(self) -> bool:
        return self._left > 0

    def start(self) -> None:
        client, server = self._ends
        for source, sink, bend in ((client, server, bytes), (server, client, self._bend)):
            threading.Thread(target=self._pump, args=(source, sink, bend), daemon=True).start()

    def reset(self) -> None:
        """End both sides at once, whatever is on its way."""
        for end in self._ends:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)

    def _pump(self, source: socket.socket, sink: socket.socket, bend: Callable[[bytes], bytes]) -> None:
        with suppress(OSError):
            while data := source.recv(_BLOCK):
                self.flowing.wait()
                sink.sendall(bend(data))
        self.flowing.wait()  # the news of an end is held back like any other byte
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            for end in self._ends:
                end.close()
