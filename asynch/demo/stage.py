"""Joins the sample model service, the scenario and an `asynch up` of their own into `asynch demo`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import yaml
from rich.console import Console

from asynch import log
from asynch.demo import films, scenario
from asynch.errors import UserError
from asynch.processes import spawn
from asynch.settings import load
from asynch.supervisor import Supervisor

OUT_DIR = Path("asynch-demo")
#: Exit code of a demo that somebody stopped: what shells say of ctrl-C.
STOPPED = 130
#: How long a story may take to notice that it is over: what it makes lies in the directory that goes.
_STORY_S = 2.0


def run(*, keep: bool, with_files: bool = False) -> int:
    """The whole demo, on a data directory of its own; 0 when every task gave its sound. Nothing is left running.

    With `with_files` a film and pictures are uploaded too. No configuration and no environment is read. With `keep` the
    data directory stays, and its place is told.
    """
    console = Console(highlight=False)
    home = Path(tempfile.mkdtemp(prefix="asynch-demo-"))
    try:
        with (home / "asynch.log").open("wb") as output:
            code = _play(home, output, console, with_files=with_files)
        if code not in (0, STOPPED):
            console.print((home / "asynch.log").read_text(errors="replace")[-3000:], style="dim")
        return code
    finally:
        if keep:
            console.quiet = False
            console.print(f"data directory kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)


def _play(home: Path, output: IO[bytes], console: Console, *, with_files: bool) -> int:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ASYNCH_")}
    config = home / "config.yml"
    config.write_text(yaml.safe_dump({"data_dir": str(home / "data"), "server": {"port": 0}}))
    log.configure("WARNING", "console")
    supervisor = Supervisor(load(config, {}), config=config, environ=environ, output=output)
    codes: list[int] = []
    stopping = threading.Event()
    story: list[threading.Thread] = []

    def tell(url: str) -> None:
        try:
            code = scenario.run(url, model_url, OUT_DIR, console)
            codes.append(code or (films.run(url, home, OUT_DIR, console, stopping) if with_files else 0))
        except Exception:
            console.print_exception()
        finally:
            supervisor.stop()

    def stop() -> None:
        codes.insert(0, STOPPED)
        stopping.set()
        console.print("demo stopped")
        console.quiet = True  # a story that loses its API now has nothing to tell
        supervisor.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        # In a thread: the handler may have interrupted who holds the lock that a stop needs.
        signal.signal(number, lambda *_: threading.Thread(target=stop).start())
    with _sample_model(environ, output) as model_url, console.status("starting Postgres, API and worker") as status:

        def on_ready(url: str) -> None:
            status.stop()
            # A thread of its own: the children belong to the one that started them, which looks after them.
            story.append(threading.Thread(target=tell, args=(url,), name="scenario", daemon=True))
            story[0].start()

        supervisor.run(on_ready)
    for thread in story:
        thread.join(_STORY_S)
    return codes[0] if codes else 1


@contextmanager
def _sample_model(environ: dict[str, str], output: IO[bytes]) -> Iterator[str]:
    """The sample model service as a process of its own; its URL."""
    argv = [sys.executable, "-P", "-m", "asynch.demo.model", "--parent", str(os.getpid())]
    child = spawn(argv, death_signal=signal.SIGTERM, env=environ, stdout=subprocess.PIPE, stderr=output)
    try:
        assert child.stdout is not None
        word, _, url = child.stdout.readline().decode().strip().partition(" ")
        if word != "ready":
            raise UserError("the sample model service did not start")
        yield url
    finally:
        child.terminate()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
