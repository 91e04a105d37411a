"""`asynch` as a program: its environment, a command run to its end, and where one may listen."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import requests

from tests.live import KEY

REPOSITORY = Path(__file__).parents[1]
Answer = subprocess.CompletedProcess[str]


def clean_environ(**more: str) -> dict[str, str]:
    """This environment without any setting of the product's but these."""
    return {**{k: v for k, v in os.environ.items() if not k.startswith("ASYNCH_")}, **more}


def environ(data_dir: Path, dsn: str = "", **more: str) -> dict[str, str]:
    """The environment of a role on a directory and, where there is one, a database."""
    given = {"ASYNCH_DATABASE__DSN": dsn} if dsn else {}
    return clean_environ(ASYNCH_DATA_DIR=str(data_dir), ASYNCH_SECRETS__KEYS=f'["{KEY}"]', **given, **more)


def run(*argv: str | Path, env: dict[str, str], cwd: Path = REPOSITORY) -> Answer:
    """A command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "asynch", *argv],
        capture_output=True, text=True, env=env, cwd=cwd, timeout=60, check=False,
    )  # fmt: skip


def refused(answer: Answer, said: str) -> None:
    """It ended as an operator's mistake does."""
    assert (answer.returncode, answer.stdout) == (2, ""), answer
    (line,) = answer.stderr.splitlines()
    assert re.fullmatch(rf"asynch: .*{said}.*", line), line


def answers(url: str) -> bool:
    """Whether something serves there, and well."""
    try:
        return requests.get(url, timeout=5).ok
    except requests.ConnectionError:
        return False


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many of them, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
