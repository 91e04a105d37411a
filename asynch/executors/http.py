"""One attempt at an HTTP model service: sends the order, streams the answer; refuses to follow or decode."""

from __future__ import annotations

import json
import os
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from errno import ENOSPC
from http.client import HTTPException, RemoteDisconnected
from time import monotonic
from typing import BinaryIO
from urllib.parse import urlencode

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from asynch.domain import redact
from asynch.errors import ErrorCode, ExecutorError
from asynch.executors import Call, Order
from asynch.executors.egress import Policy
from asynch.executors.session import Connections

_CHUNK = 1 << 17
_ERROR_BODY = 1024
_MAX_RETRY_AFTER_S = 3600.0
_TRANSIENT = frozenset({408, 425, 429})
_WAITS = frozenset({429, 503})
_BROKEN = frozenset({ErrorCode.MODEL_CONNECTION, ErrorCode.BAD_RESPONSE})
#: so much longer than the call may a silence last: what it ends is late then by any clock
_TICK_S = 0.05
_JSON_GAP = re.compile(r"[\s,:]*")


class HttpExecutor:
    """Calls model services over http and https, each thread on connections of its own; `trust` is for tests."""

    def __init__(self, policy: Policy, trust: ssl.SSLContext | None = None) -> None:
        self._policy = policy
        self._trust = trust
        self._local = threading.local()

    def run(self, order: Order, out: BinaryIO, call: Call) -> None:
        """Write the body of a 2xx answer into `out`, as it comes off the wire.

        The wall clock is the caller's: `call.cut(TIMEOUT)` at the deadline ends the call in any stage.
        """
        with self._answer(order, call) as answer:
            if not 200 <= answer.status < 300:
                raise _refusal(answer, order)
            _receive(answer, order, out)

    def probe(self, order: Order, out: BinaryIO, call: Call, heard: Callable[[int, str], None]) -> None:
        """As `run` for an answer of any status; `heard` is told the status and the type it claims before its body."""
        with self._answer(order, call) as answer:
            heard(answer.status, answer.headers.get("Content-Type", ""))
            _receive(answer, order, out)

    @contextmanager
    def _answer(self, order: Order, call: Call) -> Iterator[BaseHTTPResponse]:
        call.check()
        connections = self._connections()
        try:
            with connections.serving(call), closing(_send(connections, order, call)) as answer:
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


def _send(connections: Connections, order: Order, call: Call) -> BaseHTTPResponse:
    text = order.payload
    if text is None:
        text = "{}" if order.input_ref is None else json.dumps({"inputRef": order.input_ref})
    headers = _headers(order)
    query, body = "", None
    try:
        if order.method == "GET":
            query = urlencode(list(_members(text)), errors="replace")
        else:
            headers.setdefault("content-type", ("Content-Type", "application/json"))
            body = text.encode()
        silence_s = call.deadline - monotonic() + _TICK_S
        named = dict(headers.values())
        return connections.send(order.method, order.url, query, headers=named, body=body, silence_s=silence_s)
    except (OSError, HTTPException) as exc:
        raise _no_answer(exc) from exc
    except ValueError as exc:
        raise ExecutorError(ErrorCode.INTERNAL, f"cannot be made a request: {exc}", transient=False) from exc
    except HTTPError as exc:
        raise _bad_answer(exc) from exc


def _check_time(call: Call) -> None:
    """Raise MODEL_TIMEOUT past the deadline: a connection that was given up for its silence looks broken."""
    if monotonic() >= call.deadline:
        raise ExecutorError(ErrorCode.MODEL_TIMEOUT, "the model did not answer in time", transient=True)


def _headers(order: Order) -> dict[str, tuple[str, str]]:
    """By name in small letters: of the same name the later wins, however it is written."""
    own = {
        "Accept-Encoding": "identity",  # the bytes are the result, whatever their coding
        "X-Asynch-Task-Id": order.task_id,
        "X-Asynch-Attempt": str(order.attempt),
        "Idempotency-Key": order.task_id,
    }
    first = {"User-Agent": "asynch", "Accept": "*/*"}
    return {name.lower(): (name, value) for each in (first, order.headers, own) for name, value in each.items()}


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


def _receive(answer: BaseHTTPResponse, order: Order, out: BinaryIO) -> None:
    left = order.max_bytes
    if (answer.length_remaining or 0) > left:
        raise _too_large(order)
    while data := _read(answer, min(_CHUNK, left + 1)):
        left -= len(data)
        if left < 0:
            raise _too_large(order)
        if out.write(data) != len(data):  # an unbuffered file on a full disk takes what fits
            raise OSError(ENOSPC, os.strerror(ENOSPC))


def _read(answer: BaseHTTPResponse, size: int) -> bytes:
    """Some bytes as they came, b"" at the proper end of the body."""
    try:
        return answer.read1(size, decode_content=False)
    except HTTPError as exc:
        raise _broken_body(exc) from exc


def _refusal(answer: BaseHTTPResponse, order: Order) -> ExecutorError:
    """What a status other than 2xx says; a service that repeats the bound headers does not tell them to its users."""
    status, secrets = answer.status, order.headers.values()
    most = _ERROR_BODY + max(map(len, secrets), default=0)  # so that none is cut in two
    head = b""
    with suppress(ExecutorError):  # what is left of a broken error page changes nothing
        while len(head) < most and (data := _read(answer, most - len(head))):
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


def _retry_after_s(answer: BaseHTTPResponse) -> float | None:
    """Seconds or an HTTP date (RFC 9110, 10.2.3), at most an hour; None when absent or unreadable.

    A date counts from the answer's own Date, so that the two hosts' clocks need not agree.
    """
    wish = answer.headers.get("Retry-After", "").strip()
    if wish.isascii() and wish.isdigit():
        return min(float(wish), _MAX_RETRY_AFTER_S)
    until = _http_date(wish)
    if until is None:
        return None
    now = _http_date(answer.headers.get("Date", "")) or datetime.now(UTC)
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


def _no_answer(exc: OSError | HTTPException) -> ExecutorError:
    if isinstance(exc, HTTPException) and not isinstance(exc, RemoteDisconnected):
        return _bad_answer(exc)
    return ExecutorError(ErrorCode.MODEL_CONNECTION, f"connection failed: {exc}", transient=True)


def _bad_answer(exc: Exception) -> ExecutorError:
    return ExecutorError(ErrorCode.BAD_RESPONSE, f"not an HTTP answer: {exc!r}", transient=True)


def _broken_body(exc: HTTPError) -> ExecutorError:
    return ExecutorError(ErrorCode.BAD_RESPONSE, f"the body broke off: {_first_cause(exc)}", transient=True)


def _first_cause(exc: BaseException) -> BaseException:
    """What urllib3 wrapped, with a text that repeats the whole URL."""
    for inner in (getattr(exc, "reason", None), *exc.args):
        if isinstance(inner, BaseException):
            return _first_cause(inner)
    return exc
