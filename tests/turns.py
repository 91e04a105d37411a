"""Whose turn it is: tests share the machine, but one that measures time has it to itself.

So has one that failed while it shared it: what fails again alone fails the suite. The summary names those repeated.
"""

from __future__ import annotations

import fcntl
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let the repeats' plugin ask the controller without delay.

    It tells something after a question, which TCP holds back until the one before was acknowledged: 40 ms a test.
    """
    if hasattr(session.config, "workerinput") and (told := getattr(session.config, "failures_db", None)):
        told.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let files with slow tests begin, and those with tests that want to be alone end: then nobody waits for long."""
    marks: dict[Path, set[str]] = defaultdict(set)
    for item in items:
        marks[item.path].update(mark.name for mark in item.iter_markers())
    items.sort(key=lambda item: ("alone" in marks[item.path], "slow" not in marks[item.path]))


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, how)
        yield


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let nothing else run beside a test marked `alone`, nor beside one that failed and is repeated.

    Everyone passes the gate; who wants to be alone keeps it shut while the others leave, so that none can overtake.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    gate, room = shared / "gate", shared / "room"
    repeated = getattr(request.node, "execution_count", 1) > 1
    if repeated or request.node.get_closest_marker("alone"):
        with _locked(gate, fcntl.LOCK_EX), _locked(room, fcntl.LOCK_EX):
            yield
    else:
        with _locked(gate, fcntl.LOCK_EX):
            entered = _locked(room, fcntl.LOCK_SH)
            entered.__enter__()
        try:
            yield
        finally:
            entered.__exit__(None, None, None)
