"""Tells the database how calls went, so that all workers stop calling a service that is down, and begin again."""

from __future__ import annotations

import logging
import threading

from asynch import db
from asynch.domain.states import Event, Phase
from asynch.errors import DatabaseDown, ErrorCode
from asynch.store.limits import BreakerRule, tell_breakers
from asynch.store.queue import Outcome

logger = logging.getLogger(__name__)

_TELL_S = 0.25
_ANSWERED = frozenset({Event.SAVE, Event.DELIVER})
_FAILED = frozenset({Event.FAIL, Event.GIVE_UP})
_OF_THE_SERVICE = frozenset(
    {ErrorCode.MODEL_CONNECTION, ErrorCode.MODEL_TIMEOUT, ErrorCode.MODEL_HTTP_ERROR, ErrorCode.BAD_RESPONSE}
)


def verdict(outcome: Outcome) -> bool | None:
    """Whether the service answered as one that works; None when the outcome says nothing of it.

    A refusal that the same call would meet again, such as 404, is the caller's fault: the service works.
    """
    if outcome.claim.phase is not Phase.CALL:
        return None
    if outcome.event in _ANSWERED:
        return True
    failure = outcome.failure
    if outcome.event not in _FAILED or failure is None or failure.code not in _OF_THE_SERVICE:
        return None
    return not failure.retryable


class Breakers:
    """Counts by tenant and service; any thread may note, one tells."""

    def __init__(self, rule: BreakerRule = BreakerRule()) -> None:  # noqa: B008 - a constant
        self._rule = rule
        self._lock = threading.Lock()
        self._counts: dict[tuple[int, str], tuple[int, int]] = {}  # calls, failures

    def note(self, outcome: Outcome) -> None:
        """Count a committed outcome."""
        good = verdict(outcome)
        if good is None:
            return
        key = (outcome.claim.owner_id, outcome.claim.target.base_url)
        with self._lock:
            calls, failures = self._counts.get(key, (0, 0))
            self._counts[key] = calls + 1, failures + (not good)

    def run(self, pool: db.Pool, stop: threading.Event) -> None:
        """Tell until `stop`; what cannot be told is forgotten: it would be old news."""
        while not stop.wait(_TELL_S):
            with self._lock:
                told, self._counts = self._counts, {}
            try:
                if told:
                    with db.connection(pool) as conn:
                        tell_breakers(conn, told, self._rule)
            except (DatabaseDown, db.Error) as exc:
                logger.warning("breakers not told", extra={"services": len(told), "error": str(exc)})
