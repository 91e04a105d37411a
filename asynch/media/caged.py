"""One media program at work: started in its cage, followed, and ended with all it started when the run must end."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from asynch import cores
from asynch.errors import AsynchError, ProcessorError, TmpUnavailable
from asynch.media import Limits, Piece
from asynch.media.cage import CANNOT_RUN

TICK_S = 0.05
KEPT_BYTES = 1 << 18  #: of what a program says, the end is kept
FULL_BELOW = 1 << 20  #: a disk with less free space counts as full

_CAGE = Path(__file__).with_name("cage.py")
_MIB = 1 << 20

_CPU_SIGNAL = re.compile(rf"^\[info\] Exiting normally, received signal {signal.SIGXCPU:d}\.$", re.M)
_TOLD_TO_END = (255, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)  # 255 is ffmpeg's after any signal

#: what the C library, the loader of programs, threads that get no stack, and Python say
_NO_MEMORY = re.compile(
    "Cannot allocate memory|failed to map segment|Resource temporarily unavailable"
    "|frame_thread_encoder_init failed|malloc of size|MemoryError"
)


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended: its exit code (a signal's number negative) and the end of what it said."""

    code: int
    out: str
    err: str


def run_caged(argv: Sequence[str | Path], piece: Piece, on_output: Callable[[bytes], None] | None = None) -> Ran:
    """Run a program to its end; whatever raises meanwhile kills its whole process group first.

    The kernel kills it too when the calling thread ends (prctl(2), PR_SET_PDEATHSIG), even by kill -9.
    """
    program = _start(argv, piece)
    said, erred = bytearray(), bytearray()

    def hear(data: bytes) -> None:
        _keep(said, data)
        if on_output:
            on_output(data)

    try:
        _follow(program, piece, hear, lambda data: _keep(erred, data))
    finally:
        _end(program)
    return Ran(program.returncode, said.decode(errors="replace"), erred.decode(errors="replace"))


def _start(argv: Sequence[str | Path], piece: Piece) -> subprocess.Popen[bytes]:
    limits, scratch = piece.shop.limits, str(piece.shop.scratch)
    bounds = (os.getpid(), limits.memory_bytes, limits.cpu_s, limits.output_bytes)
    try:
        with cores.all_of_them():
            return subprocess.Popen(  # noqa: S603 - a program of the installation
                [sys.executable, "-I", "-S", _CAGE, *map(str, bounds), *map(str, argv)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # one arena for each thread would be address space that nobody uses
                env={"PATH": os.defpath, "LC_ALL": "C", "HOME": scratch, "TMPDIR": scratch, "MALLOC_ARENA_MAX": "2"},
                cwd=scratch,
                start_new_session=True,
                bufsize=0,
            )
    except OSError as exc:
        raise ProcessorError(f"no program can be started: {exc.strerror}", transient=True) from exc


def _keep(kept: bytearray, data: bytes) -> None:
    kept += data
    del kept[:-KEPT_BYTES]


def _follow(
    program: subprocess.Popen[bytes], piece: Piece, hear: Callable[[bytes], None], err: Callable[[bytes], None]
) -> None:
    with selectors.DefaultSelector() as ready:
        ready.register(program.stdout, selectors.EVENT_READ, hear)  # type: ignore[arg-type]
        ready.register(program.stderr, selectors.EVENT_READ, err)  # type: ignore[arg-type]
        while ready.get_map():
            piece.check()
            for key, _ in ready.select(TICK_S):
                if data := os.read(key.fd, 1 << 16):
                    key.data(data)
                else:
                    ready.unregister(key.fileobj)
    while program.poll() is None:
        piece.check()
        with suppress(subprocess.TimeoutExpired):
            program.wait(TICK_S)


def _end(program: subprocess.Popen[bytes]) -> None:
    """Kill and reap what still runs. The group is asked for by its leader, so only while that is not reaped."""
    if program.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    for pipe in (program.stdout, program.stderr):
        if pipe:
            pipe.close()


def failure(ran: Ran, piece: Piece, said: str, words: str) -> AsynchError:
    """Why a program failed, as the error to raise.

    `said` is what it complains of, and must hold nothing that a file can choose: no titles, no names. `words` is for
    the file's owner, where nothing else is known.
    """
    if "No space left on device" in said or shutil.disk_usage(piece.shop.scratch).free < FULL_BELOW:
        return TmpUnavailable("the disk of tmp_dir is full")
    if over := _over(ran, piece.shop.limits, said):
        return ProcessorError(over)
    if ran.code == CANNOT_RUN:
        return ProcessorError("the program cannot be run on this host", transient=True)
    if ran.code == -signal.SIGKILL:
        return ProcessorError("the program was killed, as the kernel does when memory runs out", transient=True)
    if ran.code in _TOLD_TO_END:
        return ProcessorError("the program was told to end, as at a stop of the service", transient=True)
    if ran.code < 0:
        return ProcessorError(f"the program broke down on this file (signal {-ran.code})")
    return ProcessorError(words)


def _over(ran: Ran, limits: Limits, said: str) -> str | None:
    """Which limit ended the program; ffmpeg catches SIGXCPU, and only says so."""
    if ran.code == -signal.SIGXFSZ or "File too large" in said:
        return f"the result is over {limits.output_bytes} bytes"
    if ran.code == -signal.SIGXCPU or _CPU_SIGNAL.search(ran.err):
        return f"it takes more than {limits.cpu_s} s of CPU time"
    if _NO_MEMORY.search(said):
        return f"it takes more than {limits.memory_bytes // _MIB} MiB of memory"
    return None
