"""One small document from an address that the operator named: bounded in time and size, no redirect, no proxy."""

from __future__ import annotations

import threading
from contextlib import closing
from urllib.parse import urlsplit

from asynch.errors import CutReason, ErrorCode, ExecutorError
from asynch.executors import Call
from asynch.executors.answer import BadAnswer
from asynch.executors.egress import Policy
from asynch.executors.session import Connections

_HEADERS = {"User-Agent": "asynch", "Accept": "application/json", "Accept-Encoding": "identity", "Connection": "close"}


def fetch(url: str, *, timeout_s: float, max_bytes: int) -> bytes:
    """The body of a 200; the host of `url` may be any, but link-local and metadata addresses are never called.

    ExecutorError when there is none within `timeout_s`, wall clock, and `max_bytes`.
    """
    call = Call(timeout_s)
    timer = threading.Timer(timeout_s, call.cut, [CutReason.TIMEOUT])
    timer.daemon = True
    timer.start()
    try:
        return _fetch(url, call, timeout_s, max_bytes)
    except (OSError, BadAnswer, ValueError) as exc:
        call.check()
        raise ExecutorError(ErrorCode.MODEL_CONNECTION, f"no answer: {type(exc).__name__}", transient=True) from exc
    finally:
        timer.cancel()


def _fetch(url: str, call: Call, timeout_s: float, max_bytes: int) -> bytes:
    connections = Connections(Policy((urlsplit(url).hostname or "",)))
    body = bytearray()
    with (
        connections.serving(call),
        closing(connections.send("GET", url, "", headers=_HEADERS, body=None, silence_s=timeout_s)) as answer,
    ):
        if answer.status != 200:
            raise ExecutorError(ErrorCode.MODEL_HTTP_ERROR, f"HTTP {answer.status}", transient=True)
        while data := answer.read():
            body += data
            if len(body) > max_bytes:
                raise ExecutorError(ErrorCode.RESULT_TOO_LARGE, f"more than {max_bytes} bytes", transient=False)
        call.check()  # a body that ends with its connection looks whole when it was cut
    return bytes(body)
