"""One HTTP call and its repetition: what may be sent again, when, and for how long; knows no route."""

from __future__ import annotations

import ipaddress
import json
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from http import HTTPStatus
from time import monotonic, sleep
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3

from asynch.client.errors import ClientError, RefusedError, UnreachableError

T = TypeVar("T")

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
#: What a restart of the server, of its database or of the proxy before it looks like.
PASSING = frozenset({429, 502, 503, 504})


class Repeat(Enum):
    """When a call that came to nothing is made again."""

    NEVER = "the caller repeats by itself"
    UNSENT = "when the server surely did nothing: no connection, or 429"
    SAFE = "always: the second call changes nothing more than the first"


class Transport:
    """The connection to one server: who calls, for how long a call is waited for and repeated."""

    def __init__(self, base_url: str, *, token: str | None, user: str | None, timeout_s: float, retry_s: float) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError("base_url: expected http://HOST or https://HOST, without a user in it")
        if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
            raise ValueError("token: expected printable ASCII characters without blanks around")
        self.base_url = base_url.rstrip("/")
        self.timeout_s = timeout_s
        self._retry_s = retry_s
        self._session = session(base_url)
        if token is not None:
            self._session.auth = _bearer(token)
        if user is not None:
            self._session.headers["X-User-Info"] = user

    def close(self) -> None:
        """Give the connection back."""
        self._session.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        repeat: Repeat,
        body: bytes | BinaryIO | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> requests.Response:
        """The answer below 400, repeated as `repeat` allows while its time lasts. Redirects are not followed.

        A body is JSON unless `headers` say otherwise; an open file can be sent once.
        Raises RefusedError or UnreachableError, the last one there was.
        """
        sent = {**({"Content-Type": "application/json"} if body is not None else {}), **(headers or {})}
        return self.repeated(
            lambda: self._once(method, path, data=body, params=params, headers=sent, timeout=timeout_s), repeat
        )

    def repeated(self, once: Callable[[], T], repeat: Repeat) -> T:
        """What `once` gives, with growing pauses between its tries; the server's Retry-After is heeded."""
        deadline, tries = monotonic() + self._retry_s, 0
        while True:
            try:
                return once()
            except (RefusedError, UnreachableError) as exc:
                pause_s = max(_pause_s(tries), getattr(exc, "retry_after_s", 0.0))
                if not _may_repeat(exc, repeat) or monotonic() + pause_s > deadline:
                    raise
            tries += 1
            sleep(pause_s)

    def _once(self, method: str, path: str, *, timeout: float | None, **options: Any) -> requests.Response:
        answer = send(
            self._session,
            method,
            self.base_url + path,
            timeout=timeout or self.timeout_s,
            allow_redirects=False,
            **options,
        )
        if answer.status_code >= 400:
            raise refusal(answer)
        return answer


def session(url: str) -> requests.Session:
    """A session for one host; no proxy of the environment can reach this machine's loopback."""
    made = requests.Session()
    made.trust_env = not _is_loopback(url)
    return made


def send(using: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
    """One request; UnreachableError, which names the host but no path: a signed URL is a secret."""
    try:
        return using.request(method, url, **options)
    except requests.RequestException as exc:
        raise unreachable(url, exc) from exc


def unreachable(url: str, exc: requests.RequestException) -> UnreachableError:
    """What a broken connection to `url` is called."""
    parts = urlsplit(url)
    host = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    return UnreachableError(f"no answer from {host}: {_reason(exc)}", unsent=_is_unsent(exc))


def _reason(exc: requests.RequestException) -> str:
    if isinstance(exc, requests.Timeout):
        return "it took too long"
    inner: BaseException | None = exc
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return "the connection broke" if isinstance(exc, requests.ConnectionError) else type(exc).__name__


def _is_unsent(exc: requests.RequestException) -> bool:
    if isinstance(exc, requests.ConnectTimeout):
        return True
    reason = getattr(exc.args[0], "reason", None) if exc.args else None
    return isinstance(reason, urllib3.exceptions.NewConnectionError)


def refusal(answer: requests.Response) -> RefusedError:
    """The error an answer stands for, be it a problem document or a proxy's page."""
    status, after_s = answer.status_code, _retry_after_s(answer.headers.get("Retry-After", ""))
    try:
        body = answer.json()
    except (ValueError, requests.RequestException):
        body = None
    if not isinstance(body, dict):
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "no reason given"
        return RefusedError(status, "http_error", phrase, after_s=after_s)
    detail = body.get("detail") or body.get("title") or answer.reason
    return RefusedError(status, str(body.get("code") or "http_error"), str(detail), body, after_s=after_s)


def encoded(value: Any) -> bytes:
    """`value` as JSON. ValueError or TypeError for what is none, NaN too."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: escaped, so that the server can say where it is
        return json.dumps(value, allow_nan=False).encode()


def decoded(answer: requests.Response) -> Any:
    """The JSON of an answer, None when it has no body. RefusedError for a redirect, and for what is none."""
    if answer.status_code >= 300:
        raise RefusedError(answer.status_code, "bad_response", "a redirect where an answer was expected")
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError as exc:
        raise RefusedError(answer.status_code, "bad_response", "the answer is not JSON") from exc


def _may_repeat(exc: ClientError, repeat: Repeat) -> bool:
    if repeat is Repeat.NEVER:
        return False
    if exc.status == 429 or (isinstance(exc, UnreachableError) and exc.unsent):
        return True
    # key_in_flight: the first try, whose answer was lost, is still at work
    return repeat is Repeat.SAFE and (exc.status in PASSING or exc.status == 0 or exc.code == "key_in_flight")


def _pause_s(tries: int) -> float:
    """Doubling, and spread: all the clients of a server that was away come back, but not at once."""
    longest: float = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(tries, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def _retry_after_s(text: str) -> float:
    """Seconds from now (RFC 9110: seconds, or a date); 0 for anything else."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bearer(token: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """As `auth`, not as a header: requests lets a line of ~/.netrc replace a header."""

    def sign(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        prepared.headers["Authorization"] = f"Bearer {token}"
        return prepared

    return sign
