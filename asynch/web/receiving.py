"""Bodies that are files: read as they come, by no more than half of a process's threads, and given up when silent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import current_app, request

from asynch.errors import MalformedBody, Overloaded
from asynch.web.bodies import BROKEN

#: Each read waits until it is complete: so much of what a hanging sender has sent may have to be sent again. Of 16 KiB
#: the server spends most of its time on moving what it has read ahead.
_PIECE_BYTES = 1 << 17
#: A sender that is silent for so long is given up: its thread is needed.
_SILENT_S = 60.0


class Seats:
    """How many bodies this process receives at once; the other threads are for everybody else."""

    def __init__(self, threads: int) -> None:
        self._most = max(1, threads // 2)
        self._free = threading.BoundedSemaphore(self._most)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Overloaded where none is free."""
        if not self._free.acquire(blocking=False):
            raise Overloaded(f"{self._most} files are being received here already.")
        try:
            yield
        finally:
            self._free.release()


@contextmanager
def receiving() -> Iterator[None]:
    """While a body is read. Overloaded."""
    seats: Seats = current_app.extensions["asynch.seats"]
    with seats.taken(), _impatient(request.environ.get("gunicorn.socket")):
        yield


@contextmanager
def _impatient(line: Any) -> Iterator[None]:
    if line is None:
        yield
        return
    former = line.gettimeout()
    line.settimeout(_SILENT_S)
    try:
        yield
    finally:
        line.settimeout(former)


def pieces() -> Iterator[bytes]:
    """The bytes of a body as they come. MalformedBody where it ends too early, or its sender falls silent."""
    try:
        while piece := request.stream.read(_PIECE_BYTES):
            yield piece
    except BROKEN as exc:
        raise MalformedBody("The body ended before it was complete.") from exc
