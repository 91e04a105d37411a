"""A file in tmp_dir as it is written: it counts, hashes and keeps the head of what passes. Raises TmpUnavailable."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType

from asynch.domain.filetype import HEAD_BYTES
from asynch.errors import TmpUnavailable


class WrittenFile:
    """An open file that is being written, from its first byte to its last."""

    def __init__(self, path: Path, flags: int) -> None:
        """Open it; `flags` are those of open(2) besides how it is written."""
        self.path = path
        self.size_bytes = 0
        self.head = b""
        self._sha256 = hashlib.sha256()
        with disk("create a file in"):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        with disk("write to"):
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        self._note(data)
        return len(data)

    def _note(self, data: bytes) -> None:
        self._sha256.update(data)
        if len(self.head) < HEAD_BYTES:
            self.head += data[: HEAD_BYTES - len(self.head)]
        self.size_bytes += len(data)

    def sync(self) -> None:
        """Return when the bytes survive a crash of the machine."""
        with disk("sync to"):
            os.fsync(self._fd)

    @property
    def sha256(self) -> str:
        """Of what was written so far, hex."""
        return self._sha256.hexdigest()


class disk:  # noqa: N801 - used as `with disk("write to")`
    """Turns what the disk of tmp_dir says into TmpUnavailable."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(exc, OSError):
            raise TmpUnavailable(f"cannot {self._doing} tmp_dir: {exc.strerror}") from exc
