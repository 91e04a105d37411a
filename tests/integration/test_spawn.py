"""Children of ours: they die with their parent, and no signal for it is one for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asynch import embedded
from asynch.processes import Account, spawn
from tests.waiting import until

REPOSITORY = Path(embedded.__file__).parents[1]
NOBODY = Account(65534, 65534)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.mark.parametrize("user", [None, pytest.param(NOBODY, marks=as_root)])
@pytest.mark.parametrize(
    "own_way", ["pass", "signal.signal(15, signal.SIG_IGN)", "signal.pthread_sigmask(signal.SIG_BLOCK, [15])"]
)
def test_a_spawned_child_dies_with_its_parent_whatever_that_does_with_the_signal(
    user: Account | None, own_way: str
) -> None:
    script = (
        "import signal, sys; from asynch.processes import Account, spawn\n"
        f"{own_way}\n"
        f"child = spawn(['sleep', '600'], death_signal=signal.SIGTERM, user={user!r})\n"
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip() / "cmdline"
        alive = child.read_bytes()
        parent.kill()

    assert alive.startswith(b"sleep")
    until(lambda: not child.exists() or child.read_bytes() != alive, 10)


def test_a_spawned_child_has_a_session_of_its_own() -> None:
    child = spawn(["sleep", "600"], death_signal=signal.SIGKILL)
    try:
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
    finally:
        child.kill()
        child.wait()
