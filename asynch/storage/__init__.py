"""Where results live: one protocol, its backends, and the literal table of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable


class Storage(Protocol):
    """An object store. Keys are '/'-separated ASCII; every method raises StorageError when the store fails.

    An address is what `put` returned: the key itself, or the name that the store gave the object.
    """

    def put(self, key: str, path: Path, content_type: str, *, sender: Mapping[str, str] | None = None) -> str:
        """Store the file at `path`, which is on disk, under `key`, whole or not at all, and return its address.

        The same key again replaces the object, or, where the store gives the names, tells it that this is a
        repetition. The file at `path` is left as it is. `sender` are headers that say on whose behalf, for stores
        that ask. On return the object survives a crash of this machine (local) or is acknowledged by the store.
        """

    def url(self, address: str, *, filename: str, content_type: str) -> str:
        """A URL that answers GET with the object now: absolute, freshly signed unless it is permanent.

        `filename` is the download name offered to browsers.
        """

    def fetch(self, address: str, path: Path) -> None:
        """Bring the object to `path`, which is not there yet; what is at `path` may only be read, and removed.

        After a StorageError, such as for an object that is not there, nothing is at `path`, or some of it. An OSError
        is the disk's.
        """

    def delete(self, address: str) -> None:
        """Remove the object; one that is not there, or a key that no put has returned an address for, is fine."""

    def exists(self, address: str) -> bool:
        """Whether the object is there."""

    def sweep(self, older_than_s: float) -> int:
        """Remove what interrupted puts of this long ago left behind; returns how much."""

    def check(self) -> str:
        """Write, read and delete a small object, as `asynch check` and /readyz do; returns what was done, in words."""


@runtime_checkable
class Linking(Storage, Protocol):
    """A store on a disk of this host, where a file may be an object by a second name."""

    def link(self, key: str, path: Path) -> bool:
        """Whether the file at `path` is the object now, as after `put`, and that took no longer than to name it.

        What keeps it from that is no error: `put` knows a way, or says why there is none.
        """

    def holds(self, key: str, path: Path) -> bool:
        """Whether the object is that very file."""


@runtime_checkable
class Inviting(Protocol):
    """A store into which others may put an object, past this service."""

    def invite(self, key: str, *, size: int, ttl_s: float) -> str:
        """A URL that takes the object by PUT for so long, and, where the store can tell, no more than `size` bytes."""

    def size(self, key: str) -> int | None:
        """How many bytes the object has; None where there is none."""
