"""The keys an issuer publishes (JWKS, RFC 7517): fetched in the background, kept when the issuer is down."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Generic, TypeVar

from asynch.errors import ExecutorError, IssuerDown
from asynch.executors.fetch import fetch

logger = logging.getLogger(__name__)

Key = TypeVar("Key")

#: how old a set may be before it is fetched anew, and how soon after a fetch the next one may begin, seconds
FRESH_S = 300.0
LOOK_AGAIN_S = 30.0
#: the same while there is no set at all: nobody can call before there is one
LOOK_AGAIN_AT_FIRST_S = 2.0
FETCH_TIMEOUT_S = 5.0
#: how long a request waits for a fetch, and how many do: tokens with invented key ids must not hold all threads
PATIENCE_S = 3.0
_MOST_WAITING = 4
_MOST_BYTES = 1 << 20


class KeySet(Generic[Key]):
    """The keys of one issuer by their ids; threads may share it. `read` makes keys of the document, or ValueError."""

    def __init__(
        self, url: str, read: Callable[[bytes], Mapping[str | None, Key]], *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._url = url
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._seats = threading.BoundedSemaphore(_MOST_WAITING)
        self._keys: Mapping[str | None, Key] | None = None
        self._fetched_at = self._next_at = float("-inf")
        self._idle = threading.Event()
        self._idle.set()

    def find(self, kid: str | None) -> Key | None:
        """The key of this id, or the only one there is for a token that names none. IssuerDown before the first set."""
        found = self._look(kid)
        if self._is_due(known=found is not None):
            self._start()
        if found is None:
            self._wait()
            found = self._look(kid)  # also where the fetch was over before anybody could wait for it
        if self._keys is None:
            raise IssuerDown("the keys of auth.jwt.jwks_url were not had yet")
        return found

    def _wait(self) -> None:
        """Wait for a fetch that is under way, unless too many do."""
        if not self._idle.is_set() and self._seats.acquire(blocking=False):
            try:
                self._idle.wait(PATIENCE_S)
            finally:
                self._seats.release()

    def _look(self, kid: str | None) -> Key | None:
        keys = self._keys or {}
        if kid is None:
            return next(iter(keys.values())) if len(keys) == 1 else None
        return keys.get(kid)

    def _is_due(self, *, known: bool) -> bool:
        now = self._clock()
        return now >= self._next_at and (not known or now >= self._fetched_at + FRESH_S)

    def _start(self) -> None:
        with self._lock:
            now = self._clock()
            if not self._idle.is_set() or now < self._next_at:
                return
            self._next_at = now + (LOOK_AGAIN_AT_FIRST_S if self._keys is None else LOOK_AGAIN_S)
            self._idle.clear()
        threading.Thread(target=self._fetch, name="asynch-jwks", daemon=True).start()

    def _fetch(self) -> None:
        try:
            self._keys = self._read(fetch(self._url, timeout_s=FETCH_TIMEOUT_S, max_bytes=_MOST_BYTES))
            self._fetched_at = self._clock()
            self._next_at = self._fetched_at + LOOK_AGAIN_S
        except (ExecutorError, ValueError) as exc:
            logger.warning("the issuer's keys were not had", extra={"url": self._url, "error": str(exc)})
        except Exception:
            logger.exception("the issuer's keys were not had")
        finally:
            self._idle.set()
