"""The job under celery on Redis: `fill N`, then `work`. Acknowledged when done, so that a death loses nothing."""

from __future__ import annotations

import os
import sys

from celery import Celery

from tests.bench.peers import job

app = Celery("bench", broker=os.environ.get(job.REDIS))
app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="call")
def call(number: int) -> None:
    job.do(number)


def fill(count: int) -> None:
    with app.producer_pool.acquire() as producer:
        for number in range(count):
            call.apply_async((number,), producer=producer)


def work() -> None:
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    app.worker_main(["worker", "--pool=threads", f"--concurrency={job.THREADS}", "--loglevel=WARNING", *quiet])


if __name__ == "__main__":
    fill(int(sys.argv[2])) if sys.argv[1] == "fill" else work()
