"""Received files of one host: on the disk of worker.tmp_dir until they are processed, shared by its processes.

Knows no tenant's limits and no database: who writes a file asks for it, who keeps its name decides how long it stays.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from asynch.durable import sync, write_once
from asynch.errors import UserError
from asynch.partial import Partial
from asynch.written import WrittenFile, disk

_HOST_FILE = ".host-id"
_DIRECTORY = ".incoming"  # with a dot: it is no result, and does not count as one
_NAME = re.compile(r"([0-9]{1,19})_([0-9]{1,19})")
_TURN = ".turn"  # beside a file that comes in pieces, see Partial
#: So much at most is left to the last sync, which the sender waits for, however large the file is.
SYNC_EVERY_BYTES = 32 << 20
_UNNAMED = re.compile(r"[0-9a-f]{32}")


def read_host_id(tmp_dir: Path) -> str:
    """The id of the host whose processes share this directory; a new one in a new directory. OSError, UserError."""
    file = tmp_dir / _HOST_FILE
    if not file.exists():
        write_once(file, uuid.uuid4().hex)  # an id that is lost with the power leaves its results to nobody
    host_id = file.read_text().strip()
    if not host_id:
        raise UserError(f"worker.tmp_dir: {file} is empty; remove it if no results wait in the directory")
    return host_id


class Reception(WrittenFile):
    """One file as it is received; gone at the end unless it is kept.

    It is locked while it is written, so that nobody takes it for a left-over, however slow its sender is.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_EXCL)
        self._kept = False
        self._unsynced = 0
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def write(self, data: bytes) -> int:
        """Write all of `data`; raises TmpUnavailable."""
        self._unsynced += super().write(data)
        if self._unsynced >= SYNC_EVERY_BYTES:
            self._unsynced = 0
            with disk("sync to"):
                os.fdatasync(self._fd)
        return len(data)

    def sync(self) -> None:
        """Return when the file survives a crash of the machine, with its name; raises TmpUnavailable."""
        super().sync()
        with disk("sync to"):
            sync(self.path.parent)

    def keep(self, name: str) -> None:
        """Give the file a name that somebody remembers, before that is committed: without him it is a left-over."""
        with disk("rename a file in"):
            self.path = self.path.rename(self.path.with_name(name))

    def kept(self) -> None:
        """It is committed: the file stays."""
        self._kept = True

    def __enter__(self) -> Reception:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if not self._kept:
            with suppress(OSError):
                self.path.unlink()
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class Left:
    """A file that nobody writes at the moment."""

    name: str
    upload: tuple[int, int] | None  #: tenant and upload; None of one that was never kept
    age_s: float
    size_bytes: int
    beside: bool  #: it only stands beside an upload's file


class Incoming:
    """The directory of received files below a tmp_dir."""

    def __init__(self, tmp_dir: Path) -> None:
        """Make what is missing; UserError when it cannot be used."""
        self._directory = tmp_dir / _DIRECTORY
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.host_id = read_host_id(tmp_dir)
        except OSError as exc:
            raise UserError(f"worker.tmp_dir {tmp_dir}: {exc.strerror}") from exc

    def receive(self) -> Reception:
        """A new file; raises TmpUnavailable."""
        return Reception(self._directory / uuid.uuid4().hex)

    @staticmethod
    def name_of(tenant_id: int, upload_id: int) -> str:
        """What the file of an upload is called."""
        return f"{tenant_id}_{upload_id}"

    def path(self, name: str) -> Path:
        """Where the file of this name is. ValueError for what is no name of such a file."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"not the name of a received file: {name!r}")
        return self._directory / name

    def partial(self, tenant_id: int, upload_id: int, length: int) -> Partial:
        """The file of an upload that comes in pieces."""
        return Partial(self._directory / self.name_of(tenant_id, upload_id), length)

    @property
    def directory(self) -> Path:
        """Where the files are, on the disk that results are on."""
        return self._directory

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is fine, and one that cannot be removed is the sweep's."""
        with suppress(OSError):
            (self._directory / name).unlink()

    def left(self, older_than_s: float) -> list[Left]:
        """Files of this age that nobody writes."""
        found = []
        for entry in os.scandir(self._directory):
            match = _NAME.fullmatch(entry.name.removesuffix(_TURN))
            if not match and not _UNNAMED.fullmatch(entry.name):
                continue
            if (stat := self._unused(entry.name)) is not None and (age := time.time() - stat.st_mtime) >= older_than_s:
                upload = (int(match[1]), int(match[2])) if match else None
                found.append(Left(entry.name, upload, age, stat.st_size, entry.name.endswith(_TURN)))
        return found

    def _unused(self, name: str) -> os.stat_result | None:
        """What is known of a file, None where somebody writes it or has taken it away."""
        try:
            fd = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return os.fstat(fd)
        except BlockingIOError:
            return None
        finally:
            os.close(fd)
