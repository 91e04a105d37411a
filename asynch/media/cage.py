"""Shuts this process in, then becomes a media program. A script (`python -I -S`), standard library alone.

A script instead of a preexec_fn, which would run Python between fork and exec of a process with threads.
Arguments: pid of the parent, address space, CPU seconds, file size, the program and its own arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

# linux/prctl.h, linux/sched.h
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

MAX_FILES = 64
NICE = 10
CANNOT_RUN = 127


def limit(memory_bytes: int, cpu_s: int, output_bytes: int) -> None:
    """Bound what the program may use; at `cpu_s` it is asked to end, two seconds of CPU later it is killed."""
    lower(resource.RLIMIT_CPU, cpu_s, cpu_s + 2)
    lower(resource.RLIMIT_FSIZE, output_bytes, output_bytes)
    lower(resource.RLIMIT_CORE, 0, 0)
    lower(resource.RLIMIT_NOFILE, MAX_FILES, MAX_FILES)
    lower(resource.RLIMIT_AS, memory_bytes, memory_bytes)


def lower(what: int, soft: int, hard: int) -> None:
    """Set a limit, or leave the one that stands where it is lower: nobody but root may raise it."""
    _, most = resource.getrlimit(what)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(what, (soft, hard))


def cut_off(libc: ctypes.CDLL) -> None:
    """Leave all networks, where the kernel lets us: a user namespace of its own takes root's rights away too."""
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        libc.unshare(CLONE_NEWNET)  # root in a container without user namespaces


def main() -> None:
    """Never returns: the program, or an exit with CANNOT_RUN."""
    parent, memory_bytes, cpu_s, output_bytes = map(int, sys.argv[1:5])
    program = sys.argv[5:]
    with contextlib.suppress(OSError):
        os.nice(NICE)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        cut_off(libc)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)  # last: new credentials clear it
    if os.getppid() != parent:  # it died before the kernel knew: no signal will come
        os._exit(CANNOT_RUN)
    # Python ignores it, and an ignored signal stays ignored over exec
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    limit(memory_bytes, cpu_s, output_bytes)
    try:
        os.execv(program[0], program)  # noqa: S606 - the caller's own choice
    except OSError as exc:
        os.write(2, f"cannot run {program[0]}: {exc.strerror}\n".encode())
        os._exit(CANNOT_RUN)


if __name__ == "__main__":
    main()
