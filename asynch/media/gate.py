"""How many media programs run at once on this host, over all its worker processes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from asynch.errors import TmpUnavailable

_ASK_S = 0.05


@dataclass(frozen=True, slots=True)
class Gate:
    """A directory of numbered files, each held by a flock: the kernel gives a place back however its holder ends.

    The files stay: deleting one would let two hold the same place. All workers of a host name one directory.
    """

    directory: Path
    places: int

    @contextmanager
    def place(self, check: Callable[[], None]) -> Iterator[int]:
        """Hold one place for the length of the block; waits while all are taken, first come is not first served.

        `check` is asked every 50 ms, and ends the wait by raising. TmpUnavailable when the directory is unusable.
        """
        while (taken := self._take()) is None:
            check()
            time.sleep(_ASK_S)
        number, fd = taken
        try:
            yield number
        finally:
            os.close(fd)

    def _take(self) -> tuple[int, int] | None:
        """A free place and the descriptor that holds it."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            return self._first_free()
        except OSError as exc:
            raise TmpUnavailable(f"no place can be taken in {self.directory}: {exc.strerror}") from exc

    def _first_free(self) -> tuple[int, int] | None:
        for number in range(self.places):
            fd = os.open(self.directory / f"media-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return number, fd
            os.close(fd)
        return None
