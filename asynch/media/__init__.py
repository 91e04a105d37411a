"""Pictures, films and sounds by ffmpeg and Pillow: what a processor is given and gives back. No database, no HTTP.

Neither program runs in this process, and neither is trusted: see `cage.py` for what they are shut off from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from errno import EDQUOT, ENOSPC
from pathlib import Path
from time import monotonic
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from asynch.domain.filetype import HEAD_BYTES, FileType, sniff
from asynch.errors import ProcessorError, TmpUnavailable


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. The memory is address space, the output any one file, both of each program alone."""

    deadline_s: float = 3600.0  #: wall clock of the whole run
    memory_bytes: int = 2 << 30
    cpu_s: int = 7200  #: of each program, over all its threads
    output_bytes: int = 10 << 30


@dataclass(frozen=True, slots=True)
class Shop:
    """Where one run works, and whom it answers to."""

    scratch: Path  #: an existing directory of this run alone; the caller removes it, the product too
    check: Callable[[], None]  #: raises when the run must end; asked at least every 100 ms while a program runs
    progress: Callable[[float, str], None]  #: 0-100, never falling, and what is done now
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Product:
    """What came of a run. Its file lies in the scratch directory, unless `facts["kept"]`: then it is the source."""

    path: Path
    content_type: str
    ext: str
    facts: Mapping[str, Any] = field(default_factory=dict)  #: JSON-able; what there is to say of the product


class Options(BaseModel):
    """The options of a processor, as JSON has them; every one has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class Piece:
    """One source that is being worked on."""

    source: Path
    type: FileType  #: by content
    shop: Shop
    deadline: float  #: monotonic

    def check(self) -> None:
        """Raise when the run must end; ProcessorError when its time is up."""
        self.shop.check()
        if monotonic() > self.deadline:
            limit = self.shop.limits.deadline_s
            raise ProcessorError(f"not done within {limit:g} s", transient=True)

    def product(self, ext: str) -> Path:
        """Where the product goes."""
        return self.shop.scratch / f"product.{ext}"

    def keep(self, **facts: Any) -> Product:
        """The source itself as the product."""
        return Product(self.source, self.type.content_type, self.type.ext, {**facts, "kept": True})


Asked = TypeVar("Asked", bound=Options)


@dataclass(frozen=True, slots=True)
class Processor(Generic[Asked]):
    """One way to make a file of a file."""

    options: type[Asked]
    work: Callable[[Piece, Asked], Product]

    def run(self, source: Path, options: Asked, shop: Shop) -> Product:
        """Make the product; the same source and options give the same again.

        ProcessorError says what is wrong with the file, TmpUnavailable that the disk is full. What `shop.check`
        raises passes through, after the program and all it started have ended.
        """
        found = _sniff(source)
        # the program has a working directory of its own
        here = replace(shop, scratch=shop.scratch.absolute())
        piece = Piece(source.absolute(), found, here, monotonic() + shop.limits.deadline_s)
        try:
            product = self.work(piece, options)
        except OSError as exc:
            if exc.errno in (ENOSPC, EDQUOT):
                raise TmpUnavailable(f"cannot write to tmp_dir: {exc.strerror}") from exc
            raise
        shop.progress(100.0, "done")
        return product


def _sniff(source: Path) -> FileType:
    try:
        with source.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as exc:
        raise ProcessorError(f"the file cannot be read: {exc.strerror}", transient=True) from exc
    if not head:
        raise ProcessorError("the file is empty")
    return sniff(head, whole=len(head) < HEAD_BYTES)
