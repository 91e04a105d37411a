"""A process that keeps to a core, and the programs that it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.programs import REPOSITORY, environ
from tests.served import Served
from tests.waiting import until

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="there are no cores to choose from"
)

#: until there is a core that no other test's worker keeps to
FREE_S = 120

#: as `asynch worker` does, with threads begun before and after; then what each line asks
PROGRAM = """
    import json, os, sys, threading, time
    from pathlib import Path
    from asynch import cores
    from asynch.domain.filetype import UNKNOWN
    from asynch.media import Piece, Shop
    from asynch.media.caged import run_caged
    from asynch.processes import spawn
    import signal, subprocess

    TELL = "import json, os; print(json.dumps(sorted(os.sched_getaffinity(0))))"

    def begin():
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

    def spawned():
        child = spawn([sys.executable, "-c", TELL], death_signal=signal.SIGKILL, stdout=subprocess.PIPE)
        return json.loads(child.communicate()[0])

    def caged():
        shop = Shop(Path(sys.argv[1]), lambda: None, lambda *_: None)
        piece = Piece(Path(__file__), UNKNOWN, shop, time.monotonic() + 60)
        return json.loads(run_caged([sys.executable, "-c", TELL], piece).out)

    def bulk():
        with open("/dev/null", "wb", buffering=0) as sink:
            end = time.monotonic() + 3
            while time.monotonic() < end:
                sink.write(bytes(1 << 20))

    begin()
    cores.keep_to_one(threading.Event())
    begin()
    for line in sys.stdin:
        print(json.dumps(globals()[line.strip()]()), flush=True)
"""


class Kept:
    """The program, seen from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, what: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def cores(self) -> set[int]:
        return cores_of(psutil.Process(self.process.pid))


def cores_of(process: psutil.Process) -> set[int]:
    """Where any of its threads may run."""
    found: set[int] = set()
    for thread in process.threads():
        with suppress(ProcessLookupError):  # it has just ended
            found |= os.sched_getaffinity(thread.id)
    return found


@contextmanager
def keeping(directory: Path) -> Iterator[Kept]:
    program = directory / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    argv = [sys.executable, str(program), str(directory)]
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            kept = Kept(process)
            until(lambda: len(kept.cores()) == 1, FREE_S)
            yield kept
        finally:
            process.kill()


def test_all_threads_keep_to_one_core_and_programs_that_are_started_do_not(tmp_path: Path) -> None:
    with keeping(tmp_path) as kept:
        kept.ask("begin")
        kept.ask("begin")

        everywhere = sorted(os.sched_getaffinity(0))
        assert kept.ask("spawned") == everywhere
        assert kept.ask("caged") == everywhere
        assert len(kept.cores()) == 1


def test_who_writes_much_runs_everywhere_and_then_on_one_core_again(tmp_path: Path) -> None:
    with keeping(tmp_path) as kept:
        assert kept.process.stdin is not None
        kept.process.stdin.write("bulk\n")
        kept.process.stdin.flush()

        until(lambda: kept.cores() == os.sched_getaffinity(0))
        until(lambda: len(kept.cores()) == 1, FREE_S)


def test_each_process_of_the_api_keeps_to_one_core(served: Served) -> None:
    arbiter, workers = psutil.Process(served.process.pid), served.workers()

    assert cores_of(arbiter) == os.sched_getaffinity(0)
    # each of its two, not both at once: there may be another test's for each core but one
    for worker in workers:
        until(lambda worker=worker: len(cores_of(worker)) == 1, FREE_S)  # type: ignore[misc]


def test_a_worker_keeps_to_one_core(tmp_path: Path, dsn: str) -> None:
    argv = [sys.executable, "-m", "asynch", "worker"]
    with subprocess.Popen(argv, env=environ(tmp_path, dsn, ASYNCH_WORKER__THREADS="8"), cwd=REPOSITORY) as process:
        try:
            worker = psutil.Process(process.pid)
            until(lambda: worker.num_threads() > 8)
            until(lambda: len(cores_of(worker)) == 1, FREE_S)
        finally:
            process.terminate()
