"""How often a tenant may ask: a count a window and tenant, in this process alone."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import monotonic

_MOST_TENANTS = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """What is left of a window: requests, and whole seconds until the next one."""

    name: str
    quota: int
    left: int
    reset_s: int
    window_s: int


class Rates:
    """A window for each tenant, begun by its first request. Any thread."""

    def __init__(self, name: str, quota: int, window_s: int = 60) -> None:
        """A quota of 0 means no limit."""
        self._name = name
        self._quota = quota
        self._window_s = window_s
        self._lock = threading.Lock()
        self._windows: dict[int, tuple[float, int]] = {}  # its end, and what is left of it

    def take(self, tenant_id: int) -> Rate | None:
        """Count one request: what is left then, -1 when there was nothing left; None where there is no limit."""
        if self._quota <= 0:
            return None
        now = monotonic()
        with self._lock:
            end, left = self._windows.get(tenant_id, (0.0, 0))
            if end <= now:
                if len(self._windows) >= _MOST_TENANTS:
                    self._windows = {tenant: w for tenant, w in self._windows.items() if w[0] > now}
                end, left = now + self._window_s, self._quota
            self._windows[tenant_id] = end, max(0, left - 1)
        return Rate(self._name, self._quota, left - 1, max(1, int(end - now) + 1), self._window_s)
