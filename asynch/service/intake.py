"""What files this installation takes, and one of them as it comes in."""

from __future__ import annotations

from collections.abc import Sequence

from asynch.domain.filetype import HEAD_BYTES, FileType, sniff
from asynch.domain.uploads import is_among
from asynch.errors import TooLarge, Unsupported
from asynch.incoming import Reception


def expect_size(size: int, most: int) -> None:
    """TooLarge for more bytes than a file may have."""
    if size > most:
        raise TooLarge(f"A file may have at most {most} bytes.", limitBytes=most)


def expect_type(content_type: str, types: Sequence[str]) -> None:
    """Unsupported for a type of file that is not taken."""
    if not is_among(content_type, types):
        raise Unsupported(f"Files of this type are not taken: {content_type}.")


class Intake:
    """A file as it comes in, held to the limits of this installation while it does."""

    def __init__(self, file: Reception, types: Sequence[str], max_size: int) -> None:
        self.file = file
        self._types = types
        self._max_size = max_size

    def write(self, data: bytes) -> int:
        """Write all of `data`. TooLarge, Unsupported, TmpUnavailable."""
        expect_size(self.file.size_bytes + len(data), self._max_size)
        before = len(self.file.head)
        written = self.file.write(data)
        if before < HEAD_BYTES <= len(self.file.head):
            expect_type(sniff(self.file.head, whole=False).content_type, self._types)
        return written

    def end(self) -> FileType:
        """What it is, now that it is whole. Unsupported."""
        kind = sniff(self.file.head, whole=self.file.size_bytes == len(self.file.head))
        expect_type(kind.content_type, self._types)
        return kind
