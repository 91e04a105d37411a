"""Where results live: one protocol, its backends, and the literal table of them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Storage(Protocol):
    """An object store. Keys are '/'-separated ASCII; every method raises StorageError when the store fails."""

    def put(self, key: str, path: Path, content_type: str) -> None:
        """Store the file at `path` under `key`, whole or not at all; the same key again replaces it.

        The file at `path` is left as it is. On return the object survives a crash of this machine (local) or is
        acknowledged by the store (S3).
        """

    def url(self, key: str, *, filename: str, content_type: str) -> str:
        """A URL that answers GET with the object now: absolute, freshly signed unless a public base is set.

        `filename` is the download name offered to browsers.
        """

    def delete(self, key: str) -> None:
        """Remove the object; one that is not there is fine."""

    def exists(self, key: str) -> bool:
        """Whether the object is there."""

    def sweep(self, older_than_s: float) -> int:
        """Remove what interrupted puts of this long ago left behind; returns how much."""

    def check(self) -> None:
        """Write, read and delete a small object, as `asynch check` and /readyz do."""
