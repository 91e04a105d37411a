"""How long the calls of each lane take, for those who ask when their task will be done."""

from __future__ import annotations

import logging
import threading
from datetime import datetime

from asynch import db
from asynch.domain.states import Event, Phase
from asynch.errors import DatabaseDown
from asynch.store.queue import Outcome
from asynch.store.tasks import tell_pace

logger = logging.getLogger(__name__)

_TELL_S = 2.0


class Pace:
    """Calls and their seconds by lane; any thread may note, one tells."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[int, list[float]] = {}  # calls, seconds

    def note(self, outcome: Outcome, at: datetime) -> None:
        """Count a call that gave a result, committed at this time."""
        claim = outcome.claim
        if outcome.event is Event.SAVE and claim.phase is Phase.CALL:
            seconds = max(0.0, (at - claim.started_at).total_seconds())
            with self._lock:
                sums = self._sums.setdefault(claim.lane_id, [0, 0.0])
                sums[0] += 1
                sums[1] += seconds

    def run(self, pool: db.Pool, stop: threading.Event) -> None:
        """Tell until `stop`; what cannot be told is forgotten."""
        while not stop.wait(_TELL_S):
            with self._lock:
                sums, self._sums = self._sums, {}
            try:
                if sums:
                    with db.connection(pool) as conn:
                        tell_pace(conn, {lane: (int(n), seconds) for lane, (n, seconds) in sums.items()})
            except (DatabaseDown, db.Error) as exc:
                logger.warning("pace not told", extra={"lanes": len(sums), "error": str(exc)})
