"""The jobs of the tests' model service: calls answered by 202, whose Location says later what became of them.

The payload's `later` steers a job; each answer to a look at its status URL is one of:

    bodies: [...]      what the looks are answered, one after the other, the last one again and again: an object is a
                       status document, a number that status without a body, text a body as it is; "$" in a text is the
                       job's own URL
    looks: n           n looks are answered by `working`, then the result comes
    seconds: s         the result comes s seconds after the call
    working: body      what a look is answered meanwhile, default {"status": "running"}
    retry_after: v     Retry-After of the 202 and of each look
    then: how          "body" (default) the result itself, "303" a redirect to it
    location: url      another Location than the job's own

A body of 0 is never answered.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import Any

#: The status of an answer that never comes.
HANG = 0


@dataclass
class Job:
    """One accepted call, and each look at it: when, at which path, with which headers."""

    steer: Mapping[str, Any]
    task_id: str
    headers: dict[str, str]  #: of the call
    created: float = field(default_factory=monotonic)
    looks: list[tuple[float, str, dict[str, str]]] = field(default_factory=list)


@dataclass(frozen=True)
class Told:
    """One answer of the service."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Jobs:
    """Every job since the start; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = count(1)
        self.all: dict[str, Job] = {}

    def accept(self, steer: Mapping[str, Any], task_id: str, headers: dict[str, str]) -> Told:
        """Begin one; the 202."""
        path = f"/jobs/{next(self._number)}"
        with self._lock:
            self.all[path] = Job(steer, task_id, headers)
        return Told(202, b"{}", {"Location": steer.get("location", path), **_again(steer)})

    def look(self, path: str, headers: dict[str, str], own: str) -> Told | None:
        """What a look at a job is answered; None for a path that is no job's."""
        at, _, below = path.removeprefix("/jobs/").partition("/")
        job = self.all.get(f"/jobs/{at}")
        if job is None:
            return None
        with self._lock:
            job.looks.append((monotonic(), path, headers))
            seen = sum(looked == path for _, looked, _ in job.looks)
        if below:
            return Told(200, b"the result", {"Content-Type": "text/plain"})
        return _told(job, seen, own)

    def of(self, task_id: int | str) -> list[Job]:
        """The jobs of one task."""
        with self._lock:
            return [job for job in self.all.values() if job.task_id == str(task_id)]


def _told(job: Job, seen: int, own: str) -> Told:
    steer = job.steer
    if bodies := steer.get("bodies"):
        return _as_told(bodies[min(seen, len(bodies)) - 1], steer, own)
    if seen <= steer.get("looks", 0) or monotonic() < job.created + steer.get("seconds", 0):
        return _as_told(steer.get("working", {"status": "running"}), steer, own)
    if steer.get("then") == "303":
        return Told(303, b"", {"Location": f"{own}/result"})
    return Told(200, b"the result", {"Content-Type": "text/plain"})


def _as_told(wanted: Any, steer: Mapping[str, Any], own: str) -> Told:
    if isinstance(wanted, int):
        return Told(wanted, b"", _again(steer))
    text = wanted if isinstance(wanted, str) else json.dumps(wanted)
    return Told(200, text.replace("$", own).encode(), {"Content-Type": "application/json", **_again(steer)})


def _again(steer: Mapping[str, Any]) -> dict[str, str]:
    return {"Retry-After": str(steer["retry_after"])} if "retry_after" in steer else {}
