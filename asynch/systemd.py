"""What systemd hears from the process it started: ready, alive, and how long its end may take."""

from __future__ import annotations

import socket
from collections.abc import MutableMapping
from contextlib import suppress
from time import monotonic

#: What a manager that does not read may cost, seconds.
_PATIENCE_S = 1.0


class Manager:
    """The service manager above this process (sd_notify(3)); where there is none, every call does nothing."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Take what is meant for this process out of `environ`, so that nothing it starts speaks in its name.

        gunicorn would: it says "ready" as soon as it listens, with no application behind it.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._every_s = int(environ.pop("WATCHDOG_USEC", "0")) / 3_000_000
        self._alive_at = 0.0  #: of monotonic()

    @property
    def is_there(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def ready(self) -> None:
        """The role does its work now; again is no harm."""
        self._tell("READY=1")

    def alive(self) -> None:
        """The caller's loop still turns; told three times in each WatchdogSec, however often this is called."""
        if self._every_s and monotonic() >= self._alive_at:
            self._alive_at = monotonic() + self._every_s
            self._tell("WATCHDOG=1")

    def ending(self, most_s: float) -> None:
        """The end has begun and takes `most_s` at most; a longer TimeoutStopSec stays as it is."""
        self._tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(most_s * 1_000_000)}")

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        # A manager that cannot be told acts on its own time-outs: nothing better could be done here.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.settimeout(_PATIENCE_S)
            line.sendto(message.encode(), self._address)


#: For a process that nobody manages.
NOBODY = Manager({})
