"""What one process owns: children that die with it, and a directory that no second process may use."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from asynch import cores
from asynch.errors import UserError

PR_SET_PDEATHSIG = 1  # linux/prctl.h
FORK_S = 2.0

# Loaded before any fork: a child of a process with threads must not import or open anything.
_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a child runs as, by number: neither needs a name in the user database."""

    uid: int
    gid: int


def spawn(
    argv: Sequence[str | Path],
    *,
    death_signal: signal.Signals,
    user: Account | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own that gets `death_signal` when this process ends, even by kill -9.

    The kernel watches the thread that calls this, not the process (prctl(2), PR_SET_PDEATHSIG): call it from
    one that lives as long as the child should. Only the child itself gets the signal; what it started in turn
    is its own business. `stdout` takes stderr too, unless that has a place of its own. Other systems than Linux
    let it outlive a killed parent.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        # A signal that this process blocks, ignores, or until the exec handles, would be lost on the child.
        if death_signal is not signal.SIGKILL:
            signal.signal(death_signal, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # Runs after the change of user, which would have cleared the setting.
        if sys.platform == "linux":
            _libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel knew: no signal will come
            os._exit(1)

    with cores.all_of_them():
        return subprocess.Popen(  # noqa: S603 - argv is the caller's own
            [str(arg) for arg in argv],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT if stderr is None and stdout is not None else stderr,
            env=env,
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
            preexec_fn=die_with_parent,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )


@contextmanager
def sole_user(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process alone; UserError when another process has it.

    A flock on `directory`/lock, so the kernel gives it back however the holder ends. The file stays: deleting
    it would let two processes hold two files of the same name.
    """
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(fd, "r+") as file:
        if not _locked(file.fileno()):
            holder = file.read().strip() or "unknown"
            raise UserError(f"{directory} is in use: asynch is already running there (pid {holder})")
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _locked(fd: int) -> bool:
    """Whether the flock was free, now or soon: a child of a killed holder has it too from its fork to its exec."""
    deadline = time.monotonic() + FORK_S
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(FORK_S / 100)
    return False
