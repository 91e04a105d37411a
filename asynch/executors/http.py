"""One attempt at an HTTP model service: sends the order, streams the answer; refuses to follow or decode."""

from __future__ import annotations

import json
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from errno import ENOSPC
from functools import partial
from time import monotonic
from typing import BinaryIO
from urllib.parse import urlencode, urljoin, urlsplit, urlunsplit

from asynch.domain import redact
from asynch.errors import ErrorCode, ExecutorError
from asynch.executors import Call, Order, Working, status
from asynch.executors.answer import Answer, BadAnswer
from asynch.executors.egress import Policy
from asynch.executors.session import Connections

_ERROR_BODY = 1024
_MOST_IGNORED = 1 << 16
_MAX_RETRY_AFTER_S = 3600.0
_TRANSIENT = frozenset({408, 425, 429})
_WAITS = frozenset({429, 503})
_BROKEN = frozenset({ErrorCode.MODEL_CONNECTION, ErrorCode.BAD_RESPONSE})
#: so much longer than the call may a silence last: what it ends is late then by any clock
_TICK_S = 0.05
_ACCEPTED = 202
_SEE_OTHER = frozenset({302, 303})  #: a status URL that answers so has the result elsewhere
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_HOPS = 6
_MAX_URL = 2048
#: One look may take this long until it says something, and until it has said what it is.
_PATIENCE_S = 30.0
_PORTS = {"http": 80, "https": 443}
#: What a request to anybody bears.
_ANYBODY: Mapping[str, str] = {"User-Agent": "asynch", "Accept": "*/*", "Accept-Encoding": "identity"}
_JSON_GAP = re.compile(r"[\s,:]*")


@dataclass(frozen=True, slots=True)
class _Hop:
    """The next request on the way to a result; at a URL that is the result's nothing is a status document."""

    url: str
    is_result: bool = False


class HttpExecutor:
    """Calls model services over http and https, each thread on connections of its own; `trust` is for tests."""

    def __init__(self, policy: Policy, trust: ssl.SSLContext | None = None) -> None:
        self._policy = policy
        self._trust = trust
        self._local = threading.local()

    def run(self, order: Order, out: BinaryIO, call: Call) -> Working | None:
        """Write the body of a 2xx answer into `out`, as it comes off the wire; a 202 with Location has none yet.

        The wall clock is the caller's: `call.cut(TIMEOUT)` at the deadline ends the call in any stage.
        """
        with self._answer(partial(_send, order=order, call=call), call) as answer:
            if not 200 <= answer.status < 300:
                raise _refusal(answer, order)
            if answer.status == _ACCEPTED and (location := answer.header("location")):
                return _working(answer, _next_url(order.url, location))
            _receive(answer, order, out)
            return None

    def follow(self, order: Order, poll_url: str, out: BinaryIO, call: Call) -> Working | None:
        """Ask once where the model works on, and go where its answer leads: to a result, or to another look later.

        The bound headers go to the origin of the order alone.
        """
        hop: _Hop | Working | None = _Hop(poll_url)
        for _ in range(_MOST_HOPS):
            if not isinstance(hop, _Hop):
                return hop
            with self._answer(partial(_get, order=order, url=hop.url), call) as answer:
                hop = _look(answer, order, hop, out)
        if isinstance(hop, _Hop):
            raise ExecutorError(ErrorCode.BAD_RESPONSE, f"led on more than {_MOST_HOPS} times", transient=False)
        return hop

    def post(self, order: Order, call: Call) -> int:
        """The status of a 2xx answer whose body is of no interest; any other raises, as in `run`."""
        with self._answer(partial(_send, order=order, call=call), call) as answer:
            if not 200 <= answer.status < 300:
                raise _refusal(answer, order)
            left = _MOST_IGNORED  # read, so that the connection can be kept
            while left > 0 and (data := _read(answer)):
                left -= len(data)
            return answer.status

    def probe(self, order: Order, out: BinaryIO, call: Call, heard: Callable[[int, str], None]) -> None:
        """As `run` for an answer of any status; `heard` is told the status and the type it claims before its body."""
        with self._answer(partial(_send, order=order, call=call), call) as answer:
            heard(answer.status, answer.header("content-type"))
            _receive(answer, order, out)

    @contextmanager
    def _answer(self, send: Callable[[Connections], Answer], call: Call) -> Iterator[Answer]:
        call.check()
        connections = self._connections()
        try:
            with connections.serving(call), closing(send(connections)) as answer:
                call.http_status = answer.status
                yield answer
        except ExecutorError as error:
            call.check()
            if error.code in _BROKEN:
                _check_time(call)
            raise
        call.check()  # a body that ends with its connection looks whole when it was cut,
        _check_time(call)  # and when it fell silent

    def _connections(self) -> Connections:
        kept: Connections | None = getattr(self._local, "kept", None)
        if kept is None:
            kept = self._local.kept = Connections(self._policy, self._trust)
        return kept


def _send(connections: Connections, order: Order, call: Call) -> Answer:
    text = order.payload
    if text is None:
        text = "{}" if order.input_ref is None else json.dumps({"inputRef": order.input_ref})
    headers = _headers(order)
    query, body = "", None
    with _requesting():
        if order.method == "GET":
            query = urlencode(list(_members(text)), errors="replace")
        else:
            headers.setdefault("content-type", ("Content-Type", "application/json"))
            body = text.encode()
        silence_s = call.deadline - monotonic() + _TICK_S
        named = dict(headers.values())
        return connections.send(order.method, order.url, query, headers=named, body=body, silence_s=silence_s)


def _get(connections: Connections, order: Order, url: str) -> Answer:
    named = dict(_headers(order).values()) if _origin(url) == _origin(order.url) else _ANYBODY
    with _requesting():
        return connections.send("GET", url, "", headers=named, body=None, silence_s=min(order.timeout_s, _PATIENCE_S))


@contextmanager
def _requesting() -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise ExecutorError(ErrorCode.MODEL_TIMEOUT, "the model did not answer in time", transient=True) from exc
    except OSError as exc:
        raise ExecutorError(ErrorCode.MODEL_CONNECTION, f"connection failed: {exc}", transient=True) from exc
    except BadAnswer as exc:
        raise ExecutorError(ErrorCode.BAD_RESPONSE, f"not an HTTP answer: {exc}", transient=True) from exc
    except ValueError as exc:
        raise ExecutorError(ErrorCode.INTERNAL, f"cannot be made a request: {exc}", transient=False) from exc


def _check_time(call: Call) -> None:
    """Raise MODEL_TIMEOUT past the deadline: a connection that was given up for its silence looks broken."""
    if monotonic() >= call.deadline:
        raise ExecutorError(ErrorCode.MODEL_TIMEOUT, "the model did not answer in time", transient=True)


def _headers(order: Order) -> dict[str, tuple[str, str]]:
    """By name in small letters: of the same name the later wins, however it is written."""
    own = {
        "Accept-Encoding": "identity",  # the bytes are the result, whatever their coding; nothing bound changes that
        "X-Asynch-Task-Id": order.task_id,
        "X-Asynch-Attempt": str(order.attempt),
        "Idempotency-Key": order.idempotency_key or order.task_id,
    }
    own |= order.trace
    if order.progress_url:
        own["X-Asynch-Progress-Url"] = order.progress_url
    return {name.lower(): (name, value) for each in (_ANYBODY, order.headers, own) for name, value in each.items()}


def _members(payload: str) -> Iterator[tuple[str, str]]:
    """The members of a JSON object, strings decoded, every other value as the text that was sent.

    Slices instead of parsed values: 1e400, 1.10 and 30 digits stay what the creator wrote.
    """
    if not payload.lstrip().startswith("{"):
        raise ValueError("a GET needs a JSON object")
    json.loads(payload, parse_int=str)  # the walk below relies on its being well-formed
    decode = json.JSONDecoder(parse_int=str).raw_decode
    at = _after_gap(payload, payload.index("{") + 1)
    while payload[at] != "}":
        name, end = decode(payload, at)
        start = _after_gap(payload, end)
        value, end = decode(payload, start)
        # parse_int makes numbers strings too, so the quote tells
        yield name, value if payload[start] == '"' else payload[start:end]
        at = _after_gap(payload, end)


def _after_gap(text: str, at: int) -> int:
    gap = _JSON_GAP.match(text, at)
    return gap.end() if gap else at


def _receive(answer: Answer, order: Order, out: BinaryIO, head: bytes = b"") -> None:
    """All of the body that is still to come, after the part of it that was read."""
    left = order.max_bytes
    if (answer.length_remaining or 0) > left - len(head):
        raise _too_large(order)
    data = head
    while data or (data := _read(answer)):
        left -= len(data)
        if left < 0:
            raise _too_large(order)
        if out.write(data) != len(data):  # an unbuffered file on a full disk takes what fits
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        data = b""


def _look(answer: Answer, order: Order, hop: _Hop, out: BinaryIO) -> _Hop | Working | None:
    """What one answer on the way to a result means: go on there, look again later, or None when it was the result."""
    if answer.status in _REDIRECTS:
        url = _next_url(hop.url, answer.header("location"))
        return _Hop(url, is_result=hop.is_result or answer.status in _SEE_OTHER)
    if answer.status == _ACCEPTED:
        return _working(answer)
    if not 200 <= answer.status < 300:
        raise _refusal(answer, order)
    head = b"" if hop.is_result else _document(answer)
    if head and (told := status.read(head)):
        match told.kind:
            case status.Kind.WORKING:
                return Working("", _retry_after_s(answer), told.progress, told.message)
            case status.Kind.FAILED:
                said = redact.without(told.message or "it does not say which", order.headers.values())
                detail = f"the model reports a failure: {said}"
                raise ExecutorError(ErrorCode.MODEL_HTTP_ERROR, detail, transient=False, http_status=answer.status)
            case status.Kind.DONE if told.result_url:
                return _Hop(_next_url(hop.url, told.result_url), is_result=True)
    _receive(answer, order, out, head)
    return None


def _document(answer: Answer) -> bytes:
    """The beginning of a body: all of it when it may be a status document; a body that begins otherwise is a result."""
    head, end = b"", monotonic() + _PATIENCE_S
    while (answer.length_remaining or 0) + len(head) <= status.MAX_BYTES and monotonic() < end:
        data = _read(answer)
        head += data
        if not data or head.lstrip()[:1] not in (b"", b"{"):
            break
    return head


def _working(answer: Answer, poll_url: str = "") -> Working:
    """A 202: what its body tells is a gift, not a duty."""
    told = None
    with suppress(ExecutorError):
        told = status.read(_document(answer))
    progress, message = (told.progress, told.message) if told and told.kind is status.Kind.WORKING else (None, None)
    return Working(poll_url, _retry_after_s(answer), progress, message)


def _next_url(base: str, reference: str) -> str:
    """Where a Location or a link leads, absolute and without fragment; ExecutorError for what cannot be called."""
    try:
        parts = urlsplit(urljoin(base, reference.strip()))
        good = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and parts.port != 0
        url = urlunsplit(parts._replace(fragment=""))
    except ValueError:
        good, url = False, ""
    if not good or not reference.strip() or len(url) > _MAX_URL:
        raise ExecutorError(ErrorCode.BAD_RESPONSE, "the model's Location leads nowhere", transient=False)
    return url


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _read(answer: Answer) -> bytes:
    """Some bytes as they came, b"" at the proper end of the body."""
    try:
        return answer.read()
    except TimeoutError as exc:
        raise ExecutorError(ErrorCode.MODEL_TIMEOUT, "the model stopped sending", transient=True) from exc
    except (OSError, BadAnswer) as exc:
        raise ExecutorError(ErrorCode.BAD_RESPONSE, f"the body broke off: {exc}", transient=True) from exc


def _refusal(answer: Answer, order: Order) -> ExecutorError:
    """What a status other than 2xx says; a service that repeats the bound headers does not tell them to its users."""
    status, secrets = answer.status, order.headers.values()
    most = _ERROR_BODY + max(map(len, secrets), default=0)  # so that none is cut in two
    head = b""
    with suppress(ExecutorError):  # what is left of a broken error page changes nothing
        while len(head) < most and (data := _read(answer)):
            head += data
    whole = redact.without(head.decode(errors="replace"), secrets)
    text = whole.encode()[:_ERROR_BODY].decode(errors="ignore").replace("\0", "\ufffd")
    return ExecutorError(
        ErrorCode.MODEL_HTTP_ERROR,
        f"HTTP {status}: {text}" if text else f"HTTP {status}",
        transient=status in _TRANSIENT or status >= 500,
        http_status=status,
        retry_after_s=_retry_after_s(answer) if status in _WAITS else None,
    )


def _retry_after_s(answer: Answer) -> float | None:
    """Seconds or an HTTP date (RFC 9110, 10.2.3), at most an hour; None when absent or unreadable.

    A date counts from the answer's own Date, so that the two hosts' clocks need not agree.
    """
    wish = answer.header("retry-after")
    if wish.isascii() and wish.isdigit():
        return min(float(wish), _MAX_RETRY_AFTER_S)
    until = _http_date(wish)
    if until is None:
        return None
    now = _http_date(answer.header("date")) or datetime.now(UTC)
    return min(max((until - now).total_seconds(), 0.0), _MAX_RETRY_AFTER_S)


def _http_date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _too_large(order: Order) -> ExecutorError:
    detail = f"the result is larger than {order.max_bytes} bytes"
    return ExecutorError(ErrorCode.RESULT_TOO_LARGE, detail, transient=False)
