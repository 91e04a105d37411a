"""Failed attempts to prove who one is, counted by where they come from; it keeps nothing of what was tried."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import ip_address
from math import ceil

from asynch.errors import TooOften

#: failures an address has at once, and how fast they are forgotten, a second: half a minute's worth of typing errors
MOST = 30
FORGOTTEN_PER_S = 0.5
#: addresses remembered; the one that failed longest ago is forgotten first
_REMEMBERED = 10_000


class Guesses:
    """The failures of one process, by client; threads may share it."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, address: str) -> None:
        """TooOften while this client has failed too often; others are not concerned."""
        with self._lock:
            excess = self._count(_client(address)) + 1 - MOST
        if excess > 0:
            wait_s = ceil(excess / FORGOTTEN_PER_S)
            raise TooOften("Too many failed attempts from here.", retry_after_s=wait_s, code="too_many_failures")

    def note(self, address: str) -> None:
        """One more failure."""
        client = _client(address)
        with self._lock:
            self._failures[client] = (self._count(client) + 1, self._clock())
            self._failures.move_to_end(client)
            if len(self._failures) > _REMEMBERED:
                self._failures.popitem(last=False)

    def _count(self, client: str) -> float:
        count, at = self._failures.get(client, (0.0, 0.0))
        return max(0.0, count - (self._clock() - at) * FORGOTTEN_PER_S)


def _client(address: str) -> str:
    """Who an address is: of IPv6 the network of 64 bits, all of which one client may have."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    return str(ip) if ip.version == 4 else f"{int(ip) >> 64:x}"
