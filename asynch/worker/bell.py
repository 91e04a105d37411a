"""Wakes a thread that waits for a socket."""

from __future__ import annotations

import select
import socket
from contextlib import suppress


class Bell:
    """Many may ring, one waits."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._rung = False

    def ring(self) -> None:
        """End the present wait, or the next one. Any thread."""
        if not self._rung:  # one byte for all who ring before it is read: each costs a system call
            self._rung = True
            with suppress(BlockingIOError, OSError):
                self._writer.send(b"\0")

    def wait(self, fd: int, timeout_s: float) -> bool:
        """Until it rings, there is something to read from `fd`, or the time is over; whether there is."""
        readable, _, _ = select.select([fd, self._reader.fileno()], [], [], timeout_s)
        if self._reader.fileno() in readable:
            # In this order: a byte of who came in between would be taken, and nobody after him would send another. He
            # needs none, as what he did is looked at from here on.
            self._reader.recv(4096)
            self._rung = False
        return fd in readable

    def close(self) -> None:
        """Ring no more; who rings all the same is not heard."""
        self._reader.close()
        self._writer.close()
