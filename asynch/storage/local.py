"""The local backend: objects are files below one directory, their URLs are signed here and checked here.

It refuses every key that could name anything but an object of its own, and serves nothing itself.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import shutil
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from urllib.parse import quote
from uuid import UUID, uuid4

from asynch.durable import sync, write_once
from asynch.errors import Forbidden, NotFound, SettingsError, StorageError, TooLarge

#: no segment begins with a dot: neither `..` nor the store's own files can be named
_SEGMENT = r"[A-Za-z0-9_=+@~-][A-Za-z0-9._=+@~-]{0,254}"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")

#: how often a put makes its directory again after deletes have pruned it
_PLACE_TRIES = 1000
_MOST_KNOWN = 64
#: an open directory is believed so long: one may be mounted in its place
_KNOWN_S = 1.0


@dataclass(frozen=True, slots=True)
class Served:
    """What a checked URL stands for."""

    path: Path
    content_type: str
    filename: str  #: the download name


class _Directory:
    """An open directory: nothing can be linked into one that was deleted meanwhile, or fsynced in its place."""

    def __init__(self, path: Path) -> None:
        self.stale_at = monotonic() + _KNOWN_S
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class LocalStorage:
    """A directory as object store; `.store-id` says which one it is, `.parts` holds what is no object yet.

    A file given to `put` on the same file system becomes the object by a hard link: whoever handed it in may
    delete it afterwards, but not write into it.
    """

    def __init__(
        self,
        root: Path,
        *,
        base_url: str,
        signing_key: bytes,
        url_ttl_s: int,
        public_base_url: str = "",
        older_keys: Sequence[bytes] = (),
    ) -> None:
        """Make the directory if it is missing; SettingsError when it cannot be used. Links under older keys go on."""
        self._base_url = base_url.rstrip("/")
        self._public_base_url = public_base_url.rstrip("/")
        self._signing_keys = (signing_key, *older_keys)
        self._url_ttl_s = url_ttl_s
        self._known: dict[str, _Directory] = {}  # that puts have found to be below the root
        try:
            root.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._root = root.resolve()
            self._parts = self._root / ".parts"
            self._parts.mkdir(exist_ok=True)
            self._store_id = self._claim_id()
        except (OSError, ValueError) as exc:
            raise SettingsError(f"storage.local.dir: {root}: not a directory to write in: {exc}") from exc

    @property
    def store_id(self) -> str:
        """The directory's own id (UUID): another host with the same path has another one."""
        return self._store_id

    def put(
        self,
        key: str,
        path: Path,
        content_type: str,  # noqa: ARG002 -- the URL carries the type
        *,
        sender: Mapping[str, str] | None = None,  # noqa: ARG002 -- the directory asks nobody who he is
    ) -> str:
        """Store the file; FileNotFoundError passes through when `path` itself is gone."""
        if self.link(key, path):
            return key
        with path.open("rb") as source, _wrapped(f"put {key}"):
            target = self._path(key)
            part = self._parts / f"{uuid4().hex}.part"
            try:
                _stage(path, source.fileno(), part)
                changed = self._place(part, target)
            finally:
                # after success too: renaming one link of a file onto another does nothing
                part.unlink(missing_ok=True)
            with suppress(FileNotFoundError):  # deleted and pruned in this very moment
                for directory in changed:
                    sync(directory)
            self._remember(target.parent)
        return key

    def link(self, key: str, path: Path) -> bool:
        """Whether a link was all it took: a new object in a directory that a put of the last second has looked at.

        Each system call makes the threads of a worker wait for each other; the long way needs four times as many.
        """
        parent, _, name = key.rpartition("/")
        known = self._known.get(parent)
        if known is None or known.stale_at < monotonic() or not _KEY.fullmatch(key):
            return False
        try:
            os.link(path, name, dst_dir_fd=known.fd)
            os.fsync(known.fd)
        except OSError:  # the long way knows what is wrong, or has a way round it
            return False
        return True

    def holds(self, key: str, path: Path) -> bool:
        """Whether it is a link to the same file."""
        with suppress(OSError):
            return self._path(key).samefile(path)
        return False

    def _remember(self, directory: Path) -> None:
        with suppress(OSError):  # pruned in this very moment
            known = _Directory(directory)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[directory.relative_to(self._root).as_posix()] = known

    def url(self, key: str, *, filename: str, content_type: str) -> str:
        """Sign key, expiry, download name and type; touches no disk, so that a list of 1,000 costs little."""
        _check_key(key)
        if self._public_base_url:
            return f"{self._public_base_url}/{quote(key)}"
        expires = str(int(time()) + self._url_ttl_s)
        signature = _sign(self._signing_keys[0], key, expires, filename, content_type)
        # not urlencode: it takes twice the time of all the rest
        query = f"expires={expires}&name={quote(filename)}&type={quote(content_type)}&signature={signature}"
        return f"{self._base_url}/files/{quote(key)}?{query}"

    def verify(self, key: str, args: Mapping[str, str]) -> Served:
        """What a URL stands for; Forbidden if it was altered or is too old, NotFound if the file is gone."""
        expires, filename, content_type = (args.get(name, "") for name in ("expires", "name", "type"))
        self._check_link(args, key, expires, filename, content_type)
        if not self.exists(key):
            raise NotFound("The file is not there any more.")
        return Served(self._path(key), content_type, filename)

    def fetch(self, key: str, path: Path) -> None:
        """Link the object where that is possible, else copy it."""
        with _wrapped(f"fetch {key}"):
            source = self._path(key)
            if not source.is_file():
                raise StorageError(f"fetch {key}: it is not there")
        try:
            os.link(source, path)
        except OSError:
            shutil.copyfile(source, path)

    def delete(self, key: str) -> None:
        """Remove the object and the directories it leaves empty."""
        with _wrapped(f"delete {key}"):
            target = self._path(key)
            with suppress(FileNotFoundError, NotADirectoryError):
                target.unlink()
            self._prune(target)

    def invite(self, key: str, *, size: int, ttl_s: float) -> str:
        """A URL of this service, signed for this object and so many bytes."""
        _check_key(key)
        expires, most = str(int(time() + ttl_s)), str(size)
        signature = _sign(self._signing_keys[0], "PUT", key, expires, most)
        return f"{self._base_url}/files/{quote(key)}?expires={expires}&size={most}&signature={signature}"

    def accept(self, key: str, args: Mapping[str, str], pieces: Iterable[bytes]) -> None:
        """Store what comes by such a URL, whole or not at all.

        Forbidden if it was altered or is too old, TooLarge before more is written than it allows.
        """
        expires, most = args.get("expires", ""), args.get("size", "")
        self._check_link(args, "PUT", key, expires, most)
        part = self._parts / f"{uuid4().hex}.part"
        try:
            with _wrapped(f"accept {key}"):
                file = part.open("xb")
            with file:
                for piece in pieces:
                    if file.tell() + len(piece) > int(most):
                        raise TooLarge(f"At most {most} bytes are expected.", limitBytes=int(most))
                    with _wrapped(f"accept {key}"):
                        file.write(piece)
            with _wrapped(f"accept {key}"):
                sync(part)
                changed = self._place(part, self._path(key))
                for directory in changed:
                    sync(directory)
        finally:
            part.unlink(missing_ok=True)

    def _check_link(self, args: Mapping[str, str], *fields: str) -> None:
        """Forbidden unless a link was signed here, for these fields, and its time is not over."""
        given = args.get("signature", "").encode(errors="replace")
        if not any(hmac.compare_digest(_sign(key, *fields).encode(), given) for key in self._signing_keys):
            raise Forbidden("The link is unsigned or was altered.", code="link_invalid")
        if int(args["expires"]) <= time():
            raise Forbidden("The link has expired.", code="link_expired")

    def size(self, key: str) -> int | None:
        """How many bytes the object has."""
        with _wrapped(f"look for {key}"):
            path = self._path(key)
            return path.stat().st_size if path.is_file() else None

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        with _wrapped(f"look for {key}"):
            return self._path(key).is_file()

    def check(self) -> str:
        """Write, read and delete an object, and see that the directory is still the one of the start."""
        key, body = f"check/{uuid4().hex}", b"asynch"
        with _wrapped("check"):
            if self._read_id() != self._store_id:
                raise StorageError(f"{self._root} has another .store-id than at the start")
            probe = self._parts / f"{uuid4().hex}.part"
            try:
                probe.write_bytes(body)
                self.put(key, probe, "text/plain")
                if self._path(key).read_bytes() != body:
                    raise StorageError(f"{self._root} gives back other bytes than were written")
            finally:
                probe.unlink(missing_ok=True)
                self.delete(key)
        return "wrote, read and deleted an object"

    def sweep(self, older_than_s: float) -> int:
        """Remove what killed puts left behind and say how many; a put that goes on keeps its part young."""
        swept = 0
        with _wrapped("sweep"):
            for part in self._parts.iterdir():
                with suppress(FileNotFoundError):  # its put has just ended
                    # not mtime: a linked file brings the one of its source along
                    if time() - part.stat().st_ctime >= older_than_s:
                        part.unlink()
                        swept += 1
        return swept

    def _path(self, key: str) -> Path:
        """Where the object is; refuses keys that are not plain names and any symbolic link on the way."""
        _check_key(key)
        path = self._root / key
        if os.path.realpath(path) != str(path):
            raise StorageError(f"key {key!r} leads out of {self._root}")
        return path

    def _place(self, part: Path, target: Path) -> list[Path]:
        """Give the part its name, whole and at once; answers the directories that must reach the disk now.

        A delete may prune the directory between its making and its use: nothing slow stands between the two.
        """
        changed = [target.parent]
        for _ in range(_PLACE_TRIES):
            with suppress(FileNotFoundError):
                if not target.parent.is_dir():
                    changed = self._above(target)
                    target.parent.mkdir(parents=True, exist_ok=True)
                part.replace(target)
                return changed
        raise StorageError(f"{target.parent} vanishes as often as it is made")

    def _above(self, path: Path) -> list[Path]:
        """The directories from that of `path` up to the root."""
        return [directory for directory in path.parents if directory.is_relative_to(self._root)]

    def _prune(self, path: Path) -> None:
        """Remove the empty directories above; rmdir itself refuses one that a put has just used."""
        for directory in self._above(path)[:-1]:
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue  # another delete was first; it may have stopped here
            except OSError:
                return

    def _claim_id(self) -> str:
        """The id in the directory, a new one in a new directory; two first starts at once get the same."""
        file = self._root / ".store-id"
        if not file.exists():
            write_once(file, f"{uuid4()}\n")
        return self._read_id()

    def _read_id(self) -> str:
        return str(UUID((self._root / ".store-id").read_text(encoding="ascii").strip()))


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise StorageError(f"not a key: {key!r}")


@contextmanager
def _wrapped(action: str) -> Iterator[None]:
    """Turn the disk's errors, and a `.store-id` that holds none (ValueError), into StorageError."""
    try:
        yield
    except (OSError, ValueError) as exc:
        raise StorageError(f"{action}: {exc}") from exc


def _stage(source: Path, source_fd: int, part: Path) -> None:
    """Bring the bytes, durable, under the part's name: by a link where that is possible, else by a copy."""
    os.fsync(source_fd)  # nearly free if the worker did it; after the link it costs a journal commit (0.2 ms)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
        sync(part)


def _sign(signing_key: bytes, *fields: str) -> str:
    message = json.dumps(["asynch file", *fields]).encode()  # a list: no field can run into the next
    return urlsafe_b64encode(hmac.digest(signing_key, message, "sha256")).rstrip(b"=").decode()
