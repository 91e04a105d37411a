"""The private Postgres of a data directory: its cluster, password and life; no SQL but its first lines."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from asynch.binaries import binaries
from asynch.durable import sync
from asynch.errors import UserError
from asynch.postmaster import PostgresError, Site, end_orphans, run, serve, stop, trim_log, wait_unused
from asynch.processes import Account, sole_user

NAME = "asynch"  #: of the superuser and of the database
UNFINISHED = "postgres.new-"  #: a cluster that is still being made
PORT_TRIES = 5
PASSWORD_ONLY = "host all all 127.0.0.1/32 scram-sha-256\n"  # noqa: S105 - a rule of pg_hba.conf


class EmbeddedPostgres:
    """A private Postgres under `data_dir`, alive from start() to stop() or to the end of the starting thread.

    As root the server runs as an unprivileged user; `data_dir` may lie below directories closed to that user.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        #: the server while it should run, for whoever must notice that it ended
        self.process: subprocess.Popen[bytes] | None = None
        self._held = ExitStack()

    def start(self) -> str:
        """Start the server, after making its cluster if there is none; the DSN once it takes connections.

        UserError, and nothing left running, when another process uses `data_dir` or Postgres fails.
        """
        with ExitStack() as held:
            try:
                self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                held.enter_context(sole_user(self.data_dir))
                site = held.enter_context(_site(self.data_dir))
                self.process, access = held.enter_context(_server(site, self.data_dir / "dsn"))
            except OSError as exc:
                raise UserError(f"cannot run Postgres in {self.data_dir}: {exc}") from exc
            self._held = held.pop_all()
        return access.dsn

    def stop(self) -> None:
        """Stop the server and wait for its end; fine when it does not run."""
        self._held.close()
        self.process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True, slots=True)
class _Access:
    """What a client needs; the dsn file is the only place that keeps the password."""

    password: str
    port: int

    @property
    def dsn(self) -> str:
        return f"postgresql://{NAME}:{self.password}@127.0.0.1:{self.port}/{NAME}"

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None when there is no DSN, or one that was not written here."""
        try:
            parts = urlsplit(path.read_text().strip())
            return cls(parts.password, parts.port or 0) if parts.password else None
        except (FileNotFoundError, ValueError):
            return None

    def write(self, path: Path) -> None:
        fresh = path.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(self.dsn)  # no newline: it would be part of the database's name for who reads it as it is
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync(path.parent)


@contextmanager
def _site(data_dir: Path) -> Iterator[Site]:
    cluster = data_dir / "postgres"
    account = _account(cluster)
    with binaries(_made_by(cluster), account) as programs:
        yield Site(cluster, data_dir / "postgres.log", programs, account)


def _account(cluster: Path) -> Account | None:
    """Postgres refuses to be root: then the cluster's owner, for a new one `postgres`, else `nobody`."""
    if os.geteuid() != 0:
        return None
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    return Account(65534, 65534)


def _made_by(cluster: Path) -> int | None:
    """The major version that made the cluster, None when there is no cluster yet."""
    try:
        return int((cluster / "PG_VERSION").read_text())
    except FileNotFoundError:
        if cluster.exists() and any(cluster.iterdir()):
            raise UserError(f"{cluster} is not empty, but no Postgres cluster either") from None
        return None


@contextmanager
def _server(site: Site, dsn_file: Path) -> Iterator[tuple[subprocess.Popen[bytes], _Access]]:
    """The running server, and a dsn file that tells the truth about it."""
    trim_log(site)
    _remove_unfinished(dsn_file.parent)
    if _made_by(site.cluster) is None:
        _create(site, dsn_file)
    end_orphans(site)
    process, access = _serve(site, _Access.read(dsn_file) or _renew(site))
    try:
        access.write(dsn_file)
        yield process, access
    finally:
        stop(process)


def _remove_unfinished(data_dir: Path) -> None:
    """Remove what a killed process began; under a running initdb that would leave its shared memory behind."""
    for directory in data_dir.glob(f"{UNFINISHED}*"):
        wait_unused(directory)
        shutil.rmtree(directory)


def _create(site: Site, dsn_file: Path) -> None:
    """Make the cluster aside and rename it: the one that is there is complete, and its password is known."""
    parent = dsn_file.parent
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=parent, ignore_cleanup_errors=True) as name:
        fresh = Path(name)
        if site.account:
            os.chown(fresh, site.account.uid, site.account.gid)
        _initdb(site, fresh)
        access = _Access(secrets.token_urlsafe(24), 0)
        _run_sql(site, fresh, _set_password(access), f"CREATE DATABASE {NAME}")
        access.write(dsn_file)
        fresh.rename(site.cluster)
        sync(parent)


def _initdb(site: Site, fresh: Path) -> None:
    options = [f"--username={NAME}", "--auth=reject", "--encoding=UTF8", "--no-instructions"]
    try:
        run(site, fresh, "initdb", *options, "--locale=C.UTF-8")
    except PostgresError as exc:
        if "invalid locale" not in str(exc):
            raise
        run(site, fresh, "initdb", *options, "--locale=C")
    with (fresh / "pg_hba.conf").open("w") as file:
        file.write(PASSWORD_ONLY)
        file.flush()
        os.fsync(file.fileno())


def _renew(site: Site) -> _Access:
    """A lost dsn file is no lost database: the superuser gets another password."""
    access = _Access(secrets.token_urlsafe(24), 0)
    _run_sql(site, site.cluster, _set_password(access))
    return access


def _set_password(access: _Access) -> str:
    return f"ALTER ROLE {NAME} PASSWORD '{access.password}'"


def _run_sql(site: Site, directory: Path, *lines: str) -> None:
    """Run one statement a line with no server: nobody else can connect, and no password is needed."""
    sql = "".join(f"{line}\n" for line in lines)
    run(site, directory, "postgres", "--single", "-c", "exit_on_error=on", "postgres", stdin=sql)


def _serve(site: Site, access: _Access) -> tuple[subprocess.Popen[bytes], _Access]:
    """Serve on the port that clients know already, else on another one."""
    for tries_left in reversed(range(PORT_TRIES)):
        access = _Access(access.password, _free_port(access.port))
        try:
            return serve(site, access.port), access
        except PostgresError as exc:
            if not (exc.port_was_taken and tries_left):
                raise
    raise AssertionError("the last try returns or raises")


def _free_port(wanted: int) -> int:
    """`wanted` if it is free (0: none is), else any; someone may be faster than the server."""
    for port in (wanted, 0):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as probe:
            return int(probe.getsockname()[1])
    raise UserError("no free port on 127.0.0.1")
