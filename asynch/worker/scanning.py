"""The operator's own program that looks at each received file before anything else does."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from asynch.errors import ProcessorError
from asynch.processes import spawn

_LOOK_S = 0.05
#: The exit code that refuses a file, as virus scanners have it; any other but 0 is the program's own failure.
_REFUSED = 1


def scan(command: str, path: Path, check: Callable[[], None]) -> None:
    """Run the program with the file's path as its last argument; without a command nothing is asked.

    ProcessorError where it refuses the file, a transient one where it fails. What `check` raises passes through, after
    the program and all it started have ended.
    """
    if not command:
        return
    try:
        program = spawn([*shlex.split(command), path], death_signal=signal.SIGKILL, stdout=subprocess.DEVNULL)
    except OSError as exc:
        raise ProcessorError(f"uploads.scan_command does not run: {exc.strerror}", transient=True) from exc
    try:
        while program.poll() is None:
            check()
            with suppress(subprocess.TimeoutExpired):
                program.wait(_LOOK_S)
    finally:
        if program.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
    if program.returncode == _REFUSED:
        raise ProcessorError("the file was refused by the scan of this installation")
    if program.returncode != 0:
        raise ProcessorError(f"uploads.scan_command ended with {program.returncode}", transient=True)
