"""What makes one attempt: one protocol, its executors. No retry, no database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from time import monotonic
from typing import BinaryIO, Protocol

from asynch.errors import CallCut, CutReason


@dataclass(frozen=True, slots=True)
class Order:
    """All that one attempt needs to know; what the lane said when the task was claimed."""

    task_id: str
    attempt: int
    url: str  #: target with its route joined
    method: str  #: GET or POST
    payload: str | None  #: JSON text exactly as the creator sent it
    input_ref: str | None
    headers: Mapping[str, str] = field(repr=False)  #: bound headers, decrypted; never logged
    timeout_s: float = 60.0  #: the whole call, wall clock
    max_bytes: int = 1 << 30  #: of the result
    progress_url: str = field(default="", repr=False)  #: where the model may tell of its progress; whoever has it may
    trace: Mapping[str, str] = field(default_factory=dict)  #: headers of the trace that the call belongs to
    owner_id: int = 0  #: the tenant for whom it is done
    idempotency_key: str = ""  #: what a repetition is known by; empty: the task's id


@dataclass(frozen=True, slots=True)
class Working:
    """The model works on by itself: no result yet, and what it says meanwhile."""

    poll_url: str = ""  #: where to ask for it, absolute; empty: where it was asked before
    retry_after_s: float | None = None  #: the model's wish for when to ask again
    progress: float | None = None  #: 0-100
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """The work is done, and there is no result to keep."""

    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """The whole result is a file on the disk of tmp_dir; it stays where it is."""

    path: Path
    scratch: Path | None = None  #: a directory that nobody needs once the result is taken over


class Call:
    """One open call, which another thread may end at any moment.

    The executor tells how to end it with `on_cut`; after a cut every step of the executor raises `CallCut`.
    """

    def __init__(self, timeout_s: float) -> None:
        self.deadline = monotonic() + timeout_s
        self.http_status: int | None = None  #: of the latest answer
        #: takes what the work says of its progress: 0-100, and a word
        self.tell: Callable[[float, str], None] = lambda _progress, _word: None
        self._lock = threading.Lock()
        self._reason: CutReason | None = None
        self._end: Callable[[], None] | None = None

    @property
    def reason(self) -> CutReason | None:
        """Why the call was cut, None while it was not."""
        return self._reason

    def on_cut(self, end: Callable[[], None]) -> None:
        """Remember how to end the call now (e.g. shut its socket); runs at once if it is cut already."""
        with self._lock:
            self._end = end
            if self._reason is None:
                return
        end()

    def cut(self, reason: CutReason) -> None:
        """End the call from any thread; the first reason stays. An answered call has all the time."""
        with self._lock:
            if self._reason is not None or (reason is CutReason.TIMEOUT and self.deadline == inf):
                return
            self._reason = reason
            end = self._end
        if end is not None:
            end()

    def answered(self) -> None:
        """The whole answer is there: the model's time cannot run out any more. Raises CallCut if it did before."""
        with self._lock:
            self.deadline = inf
        self.check()

    def check(self) -> None:
        """Raise CallCut if the call was cut."""
        if self._reason is not None:
            # users read the first in errorMsg, whatever was done: a call, a delivery, work on a file
            detail = "not done in time" if self._reason is CutReason.TIMEOUT else f"call cut: {self._reason.value}"
            raise CallCut(self._reason, detail)


class Executor(Protocol):
    """Makes one attempt and writes the result's bytes into `out` as they come."""

    def run(self, order: Order, out: BinaryIO, call: Call) -> Working | Done | Made | None:
        """Return None when the whole result is in `out`, where it is or will be, or that there is none; raise
        ExecutorError (CallCut when ended by this side).

        An OSError of `out.write` passes through untouched: it is the disk's, not the model's.
        """


class Follower(Protocol):
    """Asks once for the result of a call whose model works on."""

    def follow(self, order: Order, poll_url: str, out: BinaryIO, call: Call) -> Working | None:
        """As `Executor.run` for an order that was accepted: None when the whole result is in `out`.

        A transient ExecutorError says nothing of the model's work; any other is its end.
        """
