"""The job under pgqueuer: `fill N`, then `work`."""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from tests.bench.peers import job

_BATCH = job.THREADS // 2  # it refuses more than half of what may run at once


async def fill(count: int) -> None:
    async with asyncpg.create_pool(os.environ[job.DSN]) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        await queries.install()
        payloads: list[bytes | None] = [str(number).encode() for number in range(count)]
        await queries.enqueue(["call"] * count, payloads, [0] * count)


async def work() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(job.THREADS))  # else cores + 4
    async with asyncpg.create_pool(os.environ[job.DSN]) as pool:
        app = PgQueuer(AsyncpgPoolDriver(pool))

        @app.entrypoint("call")
        async def call(task: Job) -> None:
            await asyncio.to_thread(job.do, int(task.payload or b""))

        await app.run(batch_size=_BATCH, max_concurrent_tasks=job.THREADS)


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[2])) if sys.argv[1] == "fill" else work())
