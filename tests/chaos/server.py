"""The API as a process of its own, which a test may kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import requests
import yaml

from tests.chaos.farm import Farm
from tests.programs import clean_environ, free_port
from tests.waiting import until


class Server:
    """`asynch api` on one port, which can be killed and started again."""

    def __init__(self, farm: Farm) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = farm.home / "api.yml"
        sections = {**farm.sections, "data_dir": str(farm.home), "database": {"dsn": farm.dsn}}
        self._config.write_text(yaml.safe_dump({**sections, "server": {"port": self.port}}))
        self._log = (farm.home / "api.log").open("ab")
        self.start()

    def start(self) -> None:
        argv = [sys.executable, "-m", "asynch", "api", "--config", str(self._config)]
        self.process = subprocess.Popen(
            argv, env=clean_environ(), stdout=self._log, stderr=self._log, start_new_session=True
        )
        until(self._is_up, 30, what="the API's start")

    def _is_up(self) -> bool:
        with suppress(requests.RequestException):
            return requests.get(f"{self.url}/healthz", timeout=1).ok
        return False

    def kill(self) -> None:
        """kill -9 of all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def restart(self) -> None:
        """Kill it, and start it again."""
        self.kill()
        self.start()

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self._log.close()
