"""The job under dramatiq on Redis: `fill N`, then `work`."""

from __future__ import annotations

import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.bench.peers import job

dramatiq.set_broker(RedisBroker(url=os.environ.get(job.REDIS)))


@dramatiq.actor(actor_name="call")
def call(number: int) -> None:
    job.do(number)


def fill(count: int) -> None:
    for number in range(count):
        call.send(number)


def work() -> None:
    """Its own command, which imports this module."""
    argv = ["-m", "dramatiq", "tests.bench.peers.on_dramatiq", "--processes", "1", "--threads", str(job.THREADS)]
    os.execv(sys.executable, [sys.executable, *argv])


if __name__ == "__main__":
    fill(int(sys.argv[2])) if sys.argv[1] == "fill" else work()
