"""What the model service of the tests saw: every call, and how many were open at once."""

from __future__ import annotations

import select
import socket
import threading
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

_SHOWN = ("task_id", "attempt", "path", "start", "end", "outcome", "client_gone")


@dataclass(slots=True)
class Entry:
    """One call, until its answer leaves or its client does; times are monotonic, alike in all processes."""

    task_id: str
    attempt: int
    path: str
    start: float
    end: float | None = None
    outcome: str = "open"  #: open, then the status as text, "cut" or "gone"
    client_gone: bool = False
    sock: socket.socket | None = field(default=None, repr=False)


class Ledger:
    """Every call since the last reset, and how many were open at once, overall and per path."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything; calls still open are no longer counted."""
        with self._lock:
            self.calls: list[Entry] = []
            self._open: dict[int, Entry] = {}
            self._seen: Counter[str] = Counter()
            self.max_open = 0
            self.max_open_by_path: Counter[str] = Counter()

    def begin(self, entry: Entry) -> int:
        """Count a call in; which call of its task this is, from 1."""
        with self._lock:
            self.calls.append(entry)
            self._open[id(entry)] = entry
            self._seen[entry.task_id] += 1
            self._raise_marks(entry.path)
            return self._seen[entry.task_id]

    def end(self, entry: Entry, outcome: str) -> None:
        """Count a call out; the first outcome stays, but a client found gone afterwards is noted."""
        with self._lock:
            entry.client_gone = entry.client_gone or outcome == "gone"
            if entry.end is None:
                entry.end, entry.outcome, entry.sock = monotonic(), outcome, None
                self._open.pop(id(entry), None)

    def of(self, task_id: str) -> list[Entry]:
        """The calls of one task, in order."""
        with self._lock:
            return [entry for entry in self.calls if entry.task_id == task_id]

    @property
    def open(self) -> int:
        """How many calls are open now."""
        with self._lock:
            return len(self._open)

    @property
    def open_by_path(self) -> dict[str, int]:
        """How many calls are open now on each path."""
        with self._lock:
            return dict(Counter(entry.path for entry in self._open.values()))

    def as_json(self) -> dict[str, Any]:
        """What GET /__ledger answers."""
        with self._lock:
            tasks: dict[str, list[dict[str, Any]]] = {}
            for entry in self.calls:
                row = {name: getattr(entry, name) for name in _SHOWN}
                tasks.setdefault(entry.task_id, []).append(row)
            return {
                "open": len(self._open),
                "open_by_path": dict(Counter(entry.path for entry in self._open.values())),
                "max_open": self.max_open,
                "max_open_by_path": dict(self.max_open_by_path),
                "tasks": tasks,
            }

    def _raise_marks(self, path: str) -> None:
        here = [entry for entry in self._open.values() if entry.path == path]
        if len(self._open) <= self.max_open and len(here) <= self.max_open_by_path[path]:
            return
        # a client that is gone has closed its call, even if the thread that serves it has not woken up yet
        alive = [entry for entry in self._open.values() if entry.sock and not hung_up(entry.sock, 0)]
        self.max_open = max(self.max_open, len(alive))
        count = sum(entry.path == path for entry in alive)
        self.max_open_by_path[path] = max(self.max_open_by_path[path], count)


def hung_up(sock: socket.socket, timeout_s: float) -> bool:
    """Whether the other end closes within `timeout_s`."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock, getattr(select, "POLLRDHUP", select.POLLHUP))
    return bool(poll.poll(timeout_s * 1000))
