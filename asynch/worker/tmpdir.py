"""The tmp_dir of a worker: results on their way to storage, its id as a host, and how full it is."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import BinaryIO, cast

from asynch.errors import TmpUnavailable, UserError
from asynch.incoming import read_host_id
from asynch.written import WrittenFile, disk

_PIECE_BYTES = 1 << 20
_RESULT_NAME = re.compile(r"(-?[0-9]{1,19})_([0-9]{1,19})_([0-9]{1,10})")
_SCRATCH = ".scratch"  # with a dot: its directories are no results
_BLOCK_MAX_S = 60.0


class ResultFile(WrittenFile):
    """A result being written. Raises TmpUnavailable."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_TRUNC)

    def adopt(self, path: Path, check: Callable[[], None]) -> None:
        """Have the content of the file at `path`, on the same disk, which stays where it is and as it is.

        `check` is called between the pieces that are read for the hash; what it raises passes through.
        """
        with disk("take over a file in"):
            self.path.unlink()
            os.link(path, self.path)
            os.close(self._fd)
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            while piece := os.read(self._fd, _PIECE_BYTES):
                check()
                self._note(piece)

    def as_binary(self) -> BinaryIO:
        """The part of it that an executor needs."""
        return cast(BinaryIO, self)

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._fd)


class TmpDir:
    """One directory, one host id. Workers that share it are one host."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._blocked_until = 0.0
        self._block_s = 0.5
        self.trouble = ""  #: why no call may start, empty while one may
        self.careful = False  #: after trouble, until a result was written: one call at a time
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.host_id = read_host_id(path)
        except OSError as exc:
            raise UserError(f"worker.tmp_dir {path}: {exc.strerror}") from exc

    @staticmethod
    def name_of(tenant_id: int, task_id: int, attempt: int) -> str:
        """The file name of one attempt's result."""
        return f"{tenant_id}_{task_id}_{attempt}"

    @staticmethod
    def parts_of(name: str) -> tuple[int, int, int] | None:
        """Tenant, id and attempt of a file name; None if it is no result's."""
        match = _RESULT_NAME.fullmatch(name)
        if match is None:
            return None
        tenant_id, task_id, attempt = map(int, match.groups())
        if TmpDir.name_of(tenant_id, task_id, attempt) != name:  # 007_1_1 is a stranger's: the sweep must not take it
            return None
        known = -(2**63) <= tenant_id < 2**63 and task_id < 2**63 and attempt < 2**31  # else no row can have it
        return (tenant_id, task_id, attempt) if known else None

    def create(self, name: str) -> ResultFile:
        """A new file for a result; raises TmpUnavailable."""
        return ResultFile(self.path / name)

    def file(self, name: str) -> Path:
        """Where the file of this name is."""
        return self.path / name

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone is fine, and one that cannot be removed is the sweep's."""
        with suppress(OSError):
            (self.path / name).unlink(missing_ok=True)

    def scratch(self, name: str) -> Path:
        """A new empty directory for work on the result of this name; raises TmpUnavailable."""
        path = self.path / _SCRATCH / name
        try:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True, mode=0o700)
        except OSError as exc:
            raise TmpUnavailable(f"cannot create a directory in tmp_dir: {exc.strerror}") from exc
        return path

    def scratches(self) -> list[str]:
        """The names whose directories are there."""
        with suppress(FileNotFoundError):
            return [entry.name for entry in os.scandir(self.path / _SCRATCH)]
        return []

    def remove_scratch(self, name: str) -> None:
        """Remove such a directory; one that is gone is fine, and what cannot be removed is the sweep's."""
        shutil.rmtree(self.path / _SCRATCH / name, ignore_errors=True)

    def may_start(self, open_calls: int) -> bool:
        """Whether a call may start: under tmp_max, and not just found full or unwritable.

        Results that did not fit together would fill the directory together again: after that each comes alone.
        """
        return not self.trouble and not (self.careful and open_calls)

    def block(self, why: str) -> None:
        """Stop calls for a while that doubles each time, because a result could not be written."""
        self.trouble = why
        self.careful = True
        self._blocked_until = monotonic() + self._block_s
        self._block_s = min(self._block_s * 2, _BLOCK_MAX_S)

    def freed(self) -> None:
        """Files went: the next look finds out whether that was enough, however long the pause was to be."""
        self._blocked_until = 0.0

    def worked(self) -> None:
        """A result was written: calls go together again, and the next trouble starts with a short pause."""
        self._block_s = 0.5
        self.careful = False

    def look(self) -> None:
        """Measure the directory and decide whether calls may start."""
        try:
            self.used_bytes = sum(size for _, size, _ in self.listing())
            if monotonic() < self._blocked_until:
                return
            if self.used_bytes > self.max_bytes:
                self.trouble = f"{self.used_bytes} bytes in tmp_dir, tmp_max is {self.max_bytes}"
                return
            self._probe()
            self.trouble = ""
        except OSError as exc:
            self.block(f"tmp_dir: {exc.strerror}")

    def _probe(self) -> None:
        probe = self.path / ".probe"  # one name for all: a killed process leaves nothing that does not go
        try:
            probe.write_bytes(b"\0" * 4096)
        finally:
            probe.unlink(missing_ok=True)

    def listing(self) -> list[tuple[str, int, float]]:
        """Name, size in bytes and time of change of every result file."""
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                with suppress(FileNotFoundError):  # uploaded meanwhile
                    stat = entry.stat(follow_symlinks=False)
                    found.append((entry.name, stat.st_size, stat.st_mtime))
        return found
