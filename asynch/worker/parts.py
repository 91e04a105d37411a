"""What the threads of a worker make attempts with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from asynch.executors import Follower, Working
from asynch.secretbox import SecretBox
from asynch.spans import Tracer
from asynch.storage import Storage
from asynch.store.queue import Along, Claim, Outcome
from asynch.worker import outcomes
from asynch.worker.completer import Completer
from asynch.worker.tmpdir import TmpDir
from asynch.worker.trades import Trade


@dataclass(frozen=True, slots=True)
class Parts:
    """What an attempt works with."""

    #: what does the work of a claim, by the scheme of its target
    trades: Mapping[str, Trade]
    follower: Follower
    storage: Storage
    #: whether this file is the object of this key now; see storage.Linking
    link: Callable[[str, Path], bool]
    tmp: TmpDir
    box: SecretBox
    completer: Completer
    terms: outcomes.Terms
    #: what an outcome leaves elsewhere than in its row
    mark: Callable[[Outcome], Along | None]
    #: whether the row of this claim still names the object at this address; asked before an object is removed
    names_object: Callable[[Claim, str], bool]
    #: has something done for a claim by a thread that may wait, for one that may not; what it raises fails the attempt
    aside: Callable[[Claim, Callable[[], None]], None]
    #: notes what the model said of its progress
    tell: Callable[[Claim, Working], None]
    tracer: Tracer
