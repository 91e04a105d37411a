"""The system's own work on files: what `local:` lanes do, on this host, with files that are here or in storage."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

from pydantic import ValidationError

from asynch.domain.filetype import sniff_file
from asynch.domain.uploads import Status, is_among, staged_keys
from asynch.errors import ErrorCode, ExecutorError, ProcessorError, StorageError, TmpUnavailable
from asynch.executors import Call, Made, Order
from asynch.incoming import Incoming
from asynch.media import Limits, Options, Processor, Shop
from asynch.media.processors import PROCESSORS
from asynch.service import lanes
from asynch.storage import Storage
from asynch.worker.scanning import scan
from asynch.worker.tmpdir import TmpDir

_PIECE_BYTES = 1 << 20
#: Progress is told no more often, seconds.
_TELL_S = 0.5
#: What compressing is of an upload's whole progress.
_COMPRESSING = (30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What work on files needs of this host."""

    incoming: Incoming
    storage: Storage
    tmp: TmpDir
    limits: Limits
    film: Options  #: how received films are made smaller
    types: Sequence[str]  #: what is taken, by content
    scan_command: str


@dataclass(frozen=True, slots=True)
class LocalExecutor:
    """Runs what the order's target names, on this host."""

    shop: Workshop
    #: notes what the received bytes of an upload (tenant, id) hash to; whether no file has this content yet
    note_hash: Callable[[int, int, str], bool]

    def run(self, order: Order, out: BinaryIO, call: Call) -> Made:  # noqa: ARG002 - the result is a file of its own
        """Do it. ExecutorError, TmpUnavailable."""
        name = order.url.removeprefix(f"{lanes.SCHEME}:")
        if name == lanes.UPLOAD:
            return Made(self._received(order, call))
        scratch = self.shop.tmp.scratch(self.shop.tmp.name_of(~order.owner_id, int(order.task_id), order.attempt))
        try:
            made = self._made(name, order, call, scratch)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return Made(made, scratch)

    def _made(self, name: str, order: Order, call: Call, scratch: Path) -> Path:
        match name:
            case lanes.UPLOAD_FILM:
                return self._smaller(self._received(order, call), order, call, scratch)
            case lanes.UPLOAD_STAGED:
                return self._staged(order, call, scratch)
            case _:
                return self._processed(name, order, call, scratch)

    def _received(self, order: Order, call: Call) -> Path:
        """The received file."""
        call.tell(20, Status.PROCESSING)
        path = self.shop.incoming.path(order.input_ref or "")
        if not path.exists():
            raise ProcessorError("the received file is gone")
        scan(self.shop.scan_command, path, call.check)
        return path

    def _staged(self, order: Order, call: Call, scratch: Path) -> Path:
        """A file that its sender has put into storage, smaller if it is a film."""
        call.tell(20, Status.PROCESSING)
        parts = int(json.loads(order.payload or "{}").get("parts", 1))
        source = scratch / "source"
        for key in staged_keys(order.owner_id, int(order.task_id), parts):
            call.check()
            self._fetch(key, part := scratch / "part")
            if parts == 1:
                part.rename(source)
            else:
                _append(part, source, call)
        kind = sniff_file(source)
        if not is_among(kind.content_type, self.shop.types):
            raise ProcessorError(f"files of this type are not taken: {kind.content_type}")
        scan(self.shop.scan_command, source, call.check)
        if kind.content_type.startswith("video/"):
            return self._smaller(source, order, call, scratch)
        self.note_hash(order.owner_id, int(order.task_id), _hash(source, call))
        return source

    def _smaller(self, source: Path, order: Order, call: Call, scratch: Path) -> Path:
        """A film, smaller, unless there is one already that was made of the same."""
        is_new = self.note_hash(order.owner_id, int(order.task_id), _hash(source, call))
        if not is_new:
            return source
        telling = _Telling(call, Status.COMPRESSING, *_COMPRESSING)
        return self._run(PROCESSORS["video.compress"], source, self.shop.film, scratch, call, telling)

    def _processed(self, name: str, order: Order, call: Call, scratch: Path) -> Path:
        """What a processor makes of a stored file."""
        processor = PROCESSORS.get(name)
        if processor is None:
            raise ProcessorError(f"this worker has no processor {name}", transient=True)
        options = _options(processor, json.loads(order.payload or "{}").get("options", {}))
        self._fetch((order.input_ref or "").removeprefix(lanes.STORED), source := scratch / "source")
        return self._run(processor, source, options, scratch, call, _Telling(call, Status.PROCESSING, 0.0, 100.0))

    def _fetch(self, address: str, path: Path) -> None:
        try:
            self.shop.storage.fetch(address, path)
        except StorageError as exc:
            raise ExecutorError(ErrorCode.STORAGE_ERROR, str(exc), transient=True) from exc
        except OSError as exc:
            raise TmpUnavailable(f"cannot write to tmp_dir: {exc.strerror}") from exc

    def _run(
        self, processor: Processor[Any], source: Path, options: Options, scratch: Path, call: Call, telling: _Telling
    ) -> Path:
        work = scratch / "work"
        work.mkdir(mode=0o700)
        shop = Shop(work, call.check, telling.hear, self.shop.limits)
        return processor.run(source, options, shop).path


class _Telling:
    """Passes on what a processor says of its progress, as a part of the whole, and not too often."""

    def __init__(self, call: Call, word: str, low: float, high: float) -> None:
        self._call, self._word = call, word
        self._low, self._high = low, high
        self._next = 0.0

    def hear(self, progress: float, _word: str) -> None:
        """Take 0-100."""
        if monotonic() >= self._next:
            self._next = monotonic() + _TELL_S
            self._call.tell(floor(self._low + (self._high - self._low) * progress / 100), self._word)


def _options(processor: Processor[Any], given: Mapping[str, Any]) -> Options:
    try:
        options: Options = processor.options.model_validate(given)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ProcessorError(f"options: {place}: {first['msg']}") from exc
    return options


def _append(part: Path, whole: Path, call: Call) -> None:
    """Move the content of one file to the end of another."""
    try:
        with part.open("rb") as source, whole.open("ab") as target:
            while piece := source.read(_PIECE_BYTES):
                call.check()
                target.write(piece)
        part.unlink()
    except OSError as exc:
        raise TmpUnavailable(f"cannot write to tmp_dir: {exc.strerror}") from exc


def _hash(path: Path, call: Call) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            call.check()
            digest.update(piece)
    return digest.hexdigest()
