"""What systemd is told, on a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynch.systemd import NOBODY, Manager


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        yield ear


def heard(ear: socket.socket) -> list[bytes]:
    """All that was said so far."""
    ear.setblocking(False)
    said = []
    try:
        while True:
            said.append(ear.recv(1000))
    except BlockingIOError:
        return said


def test_says_ready_and_how_long_the_end_takes(ear: socket.socket) -> None:
    manager = Manager({"NOTIFY_SOCKET": ear.getsockname()})

    manager.ready()
    manager.ending(90.5)

    assert heard(ear) == [b"READY=1", b"STOPPING=1\nEXTEND_TIMEOUT_USEC=90500000"]


def test_an_abstract_address_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("")  # the kernel picks an abstract one
        Manager({"NOTIFY_SOCKET": "@" + ear.getsockname()[1:].decode()}).ready()

        assert heard(ear) == [b"READY=1"]


def test_a_sign_of_life_is_sparing(ear: socket.socket) -> None:
    manager = Manager({"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "60000000"})

    for _ in range(100):
        manager.alive()

    assert heard(ear) == [b"WATCHDOG=1"]


def test_without_a_watchdog_there_is_no_sign_of_life(ear: socket.socket) -> None:
    Manager({"NOTIFY_SOCKET": ear.getsockname()}).alive()

    assert heard(ear) == []


def test_no_child_inherits_the_right_to_speak(ear: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "1", "PATH": "/bin"}

    assert Manager(environ).is_there
    assert environ == {"PATH": "/bin"}


def test_a_manager_that_is_gone_harms_nobody(tmp_path: Path) -> None:
    Manager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    NOBODY.ready()

    assert not NOBODY.is_there
