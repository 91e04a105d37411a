"""The job under procrastinate: `fill N`, then `work`."""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import procrastinate

from tests.bench.peers import job

_connector = procrastinate.PsycopgConnector(conninfo=os.environ.get(job.DSN, ""), max_size=10)
app = procrastinate.App(connector=_connector)


@app.task(name="call")
def call(number: int) -> None:
    """A plain function: procrastinate gives it a thread."""
    job.do(number)


async def fill(count: int) -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await call.batch_defer_async(*({"number": number} for number in range(count)))


async def work() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(job.THREADS))  # else cores + 4
    async with app.open_async():
        await app.run_worker_async(concurrency=job.THREADS)


if __name__ == "__main__":
    asyncio.run(fill(int(sys.argv[2])) if sys.argv[1] == "fill" else work())
