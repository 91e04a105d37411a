"""Moves of tasks as workers and their rescuers make them, for tests of what comes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from asynch import db
from asynch.errors import ErrorCode, ExecutorError
from asynch.store import queue, workers
from asynch.store.queue import Claim, Outcome, Saved
from asynch.worker import outcomes
from tests.rows import HOST, QUEUE_TIMEOUT_S

Run = Callable[[db.Connection, list[int], list[Claim]], object]

TERMS = outcomes.Terms("tests", failed_retention_s=60.0, unfetched_retention_s=0.0)
RESULT = Saved("f", HOST, "k", "json", "application/json", 2, "aa")
BROKEN = ExecutorError(ErrorCode.MODEL_HTTP_ERROR, "500", transient=True, http_status=500)
KEEP = workers.Retention(failed_s=60.0, queue_timeout_s=QUEUE_TIMEOUT_S)
OWNER = 7


def rescue(charged: bool, max_crashes: int) -> Run:
    """The rescue of what the worker OWNER held."""

    def run(conn: db.Connection, ids: list[int], claims: list[Claim]) -> None:
        workers.rescue(
            conn, workers=[OWNER], host="h", charged=charged, max_crashes=max_crashes, keep=KEEP, most=100
        )  # fmt: skip

    return run


def failed(claim: Claim, *, times: int) -> Outcome:
    """A failed call of a model that allows so many retries."""
    rule = replace(claim.target.retry, times=times)
    return outcomes.call_failed(TERMS, claim._replace(target=replace(claim.target, retry=rule)), BROKEN)


def settled(pool: db.Pool, *written: Outcome) -> set[tuple[int, int]]:
    """Which of these outcomes were believed, and written."""
    with db.transaction(pool) as conn:
        return set(queue.settle(conn, written, queue_timeout_s=QUEUE_TIMEOUT_S))
