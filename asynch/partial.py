"""A file that comes in pieces, by requests of any process of its host; its size on the disk is the offset.

Whoever writes holds the file's lock only while it writes, never while it waits for its sender, and looks each time
whether its turn is over: so a later request takes the file over at once from one whose sender hangs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from asynch.domain.filetype import FileType, sniff_file
from asynch.durable import sync
from asynch.errors import AsynchError
from asynch.written import disk

_PIECE_BYTES = 1 << 20
#: So much at most is left to the sync before the answer, however large a piece is.
_SYNC_EVERY_BYTES = 32 << 20


class TurnOver(AsynchError):
    """Another request has taken the file over."""


class WrongOffset(AsynchError):
    """The file is not as long as its sender believes; `offset` is how long it is."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the offset is {offset}")
        self.offset = offset


class Partial:
    """The file at `path`, of `length` bytes when it is whole."""

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        self.length = length
        self._turn = path.with_name(f"{path.name}.turn")

    def create(self) -> None:
        """Make it, empty; raises TmpUnavailable."""
        with disk("create a file in"):
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            sync(self.path.parent)

    @property
    def offset(self) -> int:
        """How many bytes are there, and survive a crash of the machine. FileNotFoundError."""
        with self._opened() as fd:
            os.fsync(fd)
            return os.fstat(fd).st_size

    @property
    def changed_at(self) -> float:
        """When its last byte came, seconds since 1970. FileNotFoundError."""
        return self.path.stat().st_mtime

    @property
    def kind(self) -> FileType:
        """What it is as far as it goes. FileNotFoundError."""
        return sniff_file(self.path)

    def take_over(self) -> int:
        """End the turn of whoever writes; the offset. FileNotFoundError, TmpUnavailable."""
        with self._opened() as fd, _locked(fd):
            self._begin_turn()
            os.fsync(fd)
            return os.fstat(fd).st_size

    def append(self, offset: int, pieces: Iterable[bytes]) -> int:
        """Write what comes from `offset` on, and return the new offset, which survives a crash of the machine.

        What has been written stays, whatever ends the pieces. WrongOffset, TurnOver, FileNotFoundError, TmpUnavailable.
        """
        with self._opened() as fd:
            with _locked(fd):
                if (there := os.fstat(fd).st_size) != offset:
                    raise WrongOffset(there)
                turn, unsynced = self._begin_turn(), 0
            try:
                for piece in pieces:
                    self._write(fd, turn, piece)
                    unsynced += len(piece)
                    if unsynced >= _SYNC_EVERY_BYTES:
                        _sync_fd(fd)
                        unsynced = 0
            finally:
                _sync_fd(fd)
            return os.fstat(fd).st_size

    def _begin_turn(self) -> bytes:
        """A name for this turn, under the lock; the next one takes its place."""
        turn = uuid.uuid4().bytes
        with disk("write to"):
            self._turn.write_bytes(turn)
        return turn

    def _write(self, fd: int, turn: bytes, piece: bytes) -> None:
        with _locked(fd):
            try:
                if self._turn.read_bytes() != turn:
                    raise TurnOver("another request has taken the file over")
            except FileNotFoundError as exc:
                raise TurnOver("the file was given up") from exc
            with disk("write to"):
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view) :]

    def remove(self) -> None:
        """Remove it, whoever writes; one that is gone is fine."""
        for path in (self.path, self._turn):
            with suppress(OSError):
                path.unlink()

    @contextmanager
    def _opened(self) -> Iterator[int]:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


def spooled(directory: Path, pieces: Iterable[bytes], algorithm: str) -> tuple[bytes, IO[bytes]]:
    """The digest of all pieces, and a copy of them on the disk, so that nothing is believed before it is checked.

    The copy has no name, and goes with the one who closes it or dies. TmpUnavailable.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with disk("create a file in"):
        copy = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - the caller closes it
    try:
        for piece in pieces:
            digest.update(piece)
            _keep(copy, piece)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return digest.digest(), copy


def pieces_of(copy: IO[bytes]) -> Iterator[bytes]:
    """What `spooled` kept."""
    while piece := copy.read(_PIECE_BYTES):
        yield piece


def _keep(copy: IO[bytes], piece: bytes) -> None:
    with disk("write to"):
        copy.write(piece)


@contextmanager
def _locked(fd: int) -> Iterator[None]:
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _sync_fd(fd: int) -> None:
    with disk("sync to"):
        os.fsync(fd)
