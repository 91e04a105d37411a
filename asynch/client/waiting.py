"""Waiting for many tasks: asks on through restarts until all are final, and forgets no id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from time import monotonic, sleep

from asynch.client.errors import ClientError, RefusedError, WaitError, WaitTimeoutError
from asynch.client.shapes import Item

LONG_POLL_S = 20.0
#: Who is told of changes is told soon: the server answers when all are final, not when one changed.
WATCHED_POLL_S = 1.0
PAUSES_S = (0.2, 0.4, 0.8, 1.6, 3.2, 5.0)

OnChange = Callable[[Item], None]
Poll = Callable[[list[str], float, float], list[Item]]  #: ids, seconds to wait there, seconds left in all


class Waiting:
    """What is known so far: the ids still open, the final items, the last look of each."""

    def __init__(self, ids: Iterable[str | int], on_change: OnChange | None) -> None:
        self.pending = list(dict.fromkeys(str(task_id) for task_id in ids))
        self.final: dict[str, Item] = {}
        self._on_change = on_change
        self._looks: dict[str, tuple[object, ...]] = {}

    def run(self, poll: Poll, timeout_s: float) -> dict[str, Item]:
        """Ask until all are final; WaitTimeoutError when the time is over, after one look at the earliest.

        A server that is away, restarting or in trouble is asked again. WaitError for any other refusal.
        """
        deadline, failures = monotonic() + timeout_s, 0
        last: ClientError | None = None
        while True:
            try:
                self._see(poll(self.pending, self._poll_s(deadline), max(1.0, deadline - monotonic())))
                failures, last = 0, None
            except ClientError as exc:
                failures, last = failures + 1, exc
                if not _passes(exc):
                    raise WaitError(self.pending, self.final, exc) from exc
            if not self.pending:
                return self.final
            left_s = deadline - monotonic()
            if left_s <= 0:
                raise WaitTimeoutError(self.pending, self.final, last)
            sleep(min(left_s, _pause_s(failures, last)))

    def _poll_s(self, deadline: float) -> float:
        longest_s = WATCHED_POLL_S if self._on_change else LONG_POLL_S
        return max(0.0, min(longest_s, deadline - monotonic()))

    def _see(self, items: Sequence[Item]) -> None:
        for item in items:
            if item["final"]:
                # final items are asked once: a second fetch of a short-lived result may find it gone
                self.final[item["taskId"]] = item
        self.pending = [task_id for task_id in self.pending if task_id not in self.final]
        for item in items:  # after all are kept: what the caller's function raises loses nothing
            self._tell(item)

    def _tell(self, item: Item) -> None:
        look = tuple(item.get(name) for name in ("state", "phase", "retryCount", "progress", "message"))
        if self._on_change is not None and self._looks.get(item["taskId"]) != look:
            self._looks[item["taskId"]] = look
            self._on_change(item)


def _passes(exc: ClientError) -> bool:
    return exc.status in (0, 408, 425, 429) or exc.status >= 500


def _pause_s(failures: int, last: ClientError | None) -> float:
    wished_s = last.retry_after_s if isinstance(last, RefusedError) else 0.0
    return max(wished_s, PAUSES_S[min(failures, len(PAUSES_S) - 1)])
