"""Postgres programs on one cluster, run to their end or serving until stopped; knows no password, no DSN."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from asynch.errors import UserError
from asynch.processes import Account, spawn

START_S = 300.0  #: recovery after a crash replays what max_wal_size allows
STOP_STEPS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))  #: fast, immediate, now
ORPHAN_S = 30.0  #: for the server of a killed process to end
ORPHAN_KILL_S = 10.0  #: after which it is not asked any more
POLL_S = 0.02
LOG_LIMIT_BYTES = 10 << 20
TAIL_LINES = 6

# On the command line, not in postgresql.conf: an old cluster gets the settings of the program that runs it.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "max_locks_per_transaction": "256",
    "shared_buffers": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",  # PostgresError.port_was_taken reads them
    "log_checkpoints": "off",
    "log_error_verbosity": "terse",  # DETAIL and CONTEXT would show the values of rows
    **({"client_connection_check_interval": "1s"} if sys.platform == "linux" else {}),
}


class PostgresError(UserError):
    """A Postgres program ended when it should not have; the text has the tail of its log."""

    @property
    def port_was_taken(self) -> bool:
        """Whether another port would help."""
        return "could not create any TCP/IP sockets" in str(self)


@dataclass(frozen=True, slots=True)
class Site:
    """Where the programs run: what one cluster needs to know of its machine."""

    cluster: Path
    log: Path
    bin: Path
    account: Account | None  #: None: whoever runs this process

    @property
    def token(self) -> str:
        """Stands in the command line of each process of the cluster, where root can read it in any container.

        Their working directory would tell as well, but to look there needs CAP_SYS_PTRACE.
        """
        place = self.cluster.stat()
        return f"asynch-{place.st_dev:016x}-{place.st_ino:016x}"


def run(site: Site, directory: Path, *argv: str, stdin: str = "") -> None:
    """Run a program on the cluster in `directory`, which no server uses; PostgresError when it fails."""
    logged = _size(site.log)
    # Not SIGKILL, which would leave shared memory behind that no cluster knows of.
    process = _launch(site, directory, *argv, death_signal=signal.SIGTERM, stdin=subprocess.PIPE)
    try:
        process.communicate(stdin.encode(), timeout=START_S)
    except subprocess.TimeoutExpired as exc:
        raise UserError(f"{argv[0]} took more than {START_S:.0f} s in {directory}") from exc
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            stop(process)
    if process.returncode:
        raise PostgresError(f"{argv[0]} failed: {_tail(site.log, logged)}")


def serve(site: Site, port: int) -> subprocess.Popen[bytes]:
    """The server, once it takes connections on `port`; PostgresError when it does not come that far."""
    settings = [f"--{name}={value}" for name, value in {**SETTINGS, "cluster_name": site.token}.items()]
    logged = _size(site.log)
    argv = ("postgres", *settings, f"--port={port}")
    process = _launch(site, site.cluster, *argv, death_signal=signal.SIGQUIT)
    try:
        _wait_ready(site, process, logged)
    except BaseException:
        stop(process)
        raise
    return process


def _launch(
    site: Site, directory: Path, *argv: str, death_signal: signal.Signals, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    log = os.open(site.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(opened, fcntl.LOCK_SH)  # inherited with the descriptor, also by children's children: wait_unused
    # Another user may not be let through the parents of the directory; a descriptor needs no way to it.
    pgdata = f"/proc/self/fd/{opened}" if site.account else str(directory)
    try:
        return spawn(
            [site.bin / argv[0], *argv[1:]],
            death_signal=death_signal,
            user=site.account,
            # Nothing inherited: PGOPTIONS, PGPORT, LD_LIBRARY_PATH and the like are meant for other servers.
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "PGDATA": pgdata},
            cwd="/",
            stdin=stdin,
            stdout=log,
            pass_fds=(opened,),
        )
    finally:
        os.close(opened)
        os.close(log)


def _wait_ready(site: Site, process: subprocess.Popen[bytes], logged: int) -> None:
    """Wait for the eighth line of postmaster.pid, as pg_ctl does: that needs no client and no password."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        lines = _lines(site.cluster / "postmaster.pid")
        if lines[:1] == [str(process.pid)] and lines[7:] == ["ready"]:
            return
        if process.poll() is not None:
            raise PostgresError(f"Postgres did not start in {site.cluster}: {_tail(site.log, logged)}")
        time.sleep(POLL_S)
    raise UserError(f"Postgres was not ready after {START_S:.0f} s: {_tail(site.log, logged)}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and wait for it: open connections are cut, what they committed is kept."""
    for step, patience_s in STOP_STEPS:
        process.send_signal(step)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
            return


def wait_unused(directory: Path) -> None:
    """Wait for the last program on `directory`, which ends by itself when its parent was killed; else UserError."""
    deadline = time.monotonic() + ORPHAN_S
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            with suppress(BlockingIOError):
                return fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.monotonic() > deadline:
                raise UserError(f"a program still runs in {directory}, which was never finished")
            time.sleep(POLL_S)
    finally:
        os.close(opened)


def end_orphans(site: Site) -> None:
    """End what a killed process left on the cluster; for who holds the directory, so that it has no owner.

    UserError when it takes longer than ORPHAN_S. Afterwards the number in postmaster.pid can be any program's
    (in a container it often is), or a zombie's that nobody waits for; Postgres would take both for a server.
    """
    began = time.monotonic()
    while pids := _processes_of(site):
        waited_s = time.monotonic() - began
        if waited_s > ORPHAN_S:
            raise UserError(f"the previous Postgres in {site.cluster} does not end (pid {pids[0]})")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT if waited_s < ORPHAN_KILL_S else signal.SIGKILL)
        time.sleep(POLL_S)
    lock = site.cluster / "postmaster.pid"
    if b"postgres" not in _command_line(Path("/proc", *_lines(lock)[:1])):
        lock.unlink(missing_ok=True)


def trim_log(site: Site) -> None:
    """Empty a log that has grown large; for the time when no server writes it."""
    if _size(site.log) > LOG_LIMIT_BYTES:
        os.truncate(site.log, 0)


def _processes_of(site: Site) -> list[int]:
    token, uid = site.token.encode(), site.cluster.stat().st_uid
    entries = [entry for entry in Path("/proc").glob("[0-9]*") if token in _command_line(entry)]
    return [int(entry.name) for entry in entries if _owner(entry) == uid]


def _command_line(process: Path) -> bytes:
    """Empty for a zombie and for one that is gone."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _owner(process: Path) -> int | None:
    try:
        return process.stat().st_uid
    except OSError:
        return None


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tail(log: Path, offset: int) -> str:
    """The last lines since `offset`, as one."""
    with log.open("rb") as file:
        file.seek(offset)
        lines = file.read().decode(errors="replace").split("\n")
    return " | ".join([line.strip() for line in lines if line.strip()][-TAIL_LINES:]) + f" (in {log})"
