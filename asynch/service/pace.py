"""What a call of a model takes lately, remembered for a while: it is told with every task that is created."""

from __future__ import annotations

import threading
from time import monotonic

from asynch import db
from asynch.db import Pool
from asynch.store import tasks as store

_REMEMBER_S = 10.0
_MOST = 10_000


class Paces:
    """By tenant and model name. Any thread."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._known: dict[tuple[int, str], tuple[float, float | None]] = {}

    def call_s(self, tenant_id: int, model_name: str) -> float | None:
        """Seconds, None while no call of it has ended. DatabaseDown."""
        now, key = monotonic(), (tenant_id, model_name)
        with self._lock:
            asked_at, seconds = self._known.get(key, (float("-inf"), None))
        if now - asked_at < _REMEMBER_S:
            return seconds
        with db.connection(self._pool) as conn:
            seconds = store.pace_of(conn, tenant_id=tenant_id, model_name=model_name)
        with self._lock:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = now, seconds
        return seconds
