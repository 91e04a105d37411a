"""The connections an executor calls through; they refuse unchecked addresses, and any thread can end their call."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from errno import EINPROGRESS
from functools import cache, lru_cache, partial
from math import ceil
from time import monotonic
from typing import Any, TypeAlias
from weakref import finalize

import certifi
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import parse_url
from urllib3.util.wait import wait_for_write

from asynch.errors import ErrorCode, ExecutorError
from asynch.executors import Call
from asynch.executors.answer import Answer, request
from asynch.executors.egress import AddrInfo, Policy, addresses, literal

CONNECT_TIMEOUT_S = 10.0
_CUT_POLL_S = 0.05
_MOST_KEPT = 10
_PORTS = {"http": 80, "https": 443}

#: scheme, host, port
_Origin: TypeAlias = tuple[str, str, int | None]


class Line:
    """A descriptor of its own for a connection, open as long as anyone holds it.

    TLS detaches the first one, and the number of a closed one may already belong to another file.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._fd = os.dup(sock.fileno())
        # not __del__, here and below: of what is garbage together, a socket's own end may come before its owner's
        finalize(self, os.close, self._fd).atexit = False

    def shut(self) -> None:
        """End the connection under whatever waits on it."""
        with suppress(OSError), socket.socket(fileno=os.dup(self._fd)) as twin:
            twin.shutdown(socket.SHUT_RDWR)


class Wire:
    """The connection one call is on, and the way to end it from any thread in any stage."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.line: Line | None = None
        call.on_cut(self.shut)

    def attach(self, line: Line) -> None:
        """Go on with `line`; shuts it if the call was cut meanwhile."""
        self.line = line
        if self.call.reason is not None:
            self.shut()

    def shut(self) -> None:
        """End the connection under whatever waits on it; harmless when there is none any more."""
        if (line := self.line) is not None:
            line.shut()

    def close(self) -> None:
        """Let go of the connection without ending it."""
        self.line = None


class Dialer:
    """Makes the connections of one thread, for the call on `wire`, to checked addresses only."""

    wire: Wire

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def dial(self, host: str, port: int, timeout_s: float, options: Sequence[Any]) -> socket.socket:
        """Look up, check every answer, connect to one. Raises ExecutorError: blocked, cut, unreachable."""
        deadline = monotonic() + timeout_s
        infos = literal(host, port) or self._look_up(host, port, deadline)
        for ip in addresses(infos):
            self._policy.check(host, ip)
        failure = "no address"
        for tries_left, info in zip(range(len(infos), 0, -1), infos, strict=True):
            try:
                sock = self._connect(info, (deadline - monotonic()) / tries_left, options)
            except OSError as exc:
                failure = exc.strerror or str(exc)
                continue
            sock.settimeout(timeout_s)
            return sock
        raise _unreachable(host, failure)

    def _look_up(self, host: str, port: int, deadline: float) -> Sequence[AddrInfo]:
        # getaddrinfo cannot be interrupted: a thread waits for it, the call only as long as it lives
        answer: Future[Sequence[AddrInfo]] = Future()
        threading.Thread(target=_ask, args=(answer, host, port), name="asynch-dns", daemon=True).start()
        while True:
            self.wire.call.check()
            try:
                return answer.result(_CUT_POLL_S)
            except TimeoutError:
                if monotonic() >= deadline:
                    raise _unreachable(host, "the name look-up took too long") from None
            except (OSError, UnicodeError) as exc:
                raise _unreachable(host, f"the name look-up failed: {exc}") from exc

    def _connect(self, info: AddrInfo, timeout_s: float, options: Sequence[Any]) -> socket.socket:
        family, kind, proto, _, address = info
        sock = socket.socket(family, kind, proto)
        try:
            for option in options:
                sock.setsockopt(*option)
            sock.setblocking(False)
            code = sock.connect_ex(address)
            self.wire.attach(Line(sock))  # after connect_ex: a socket that is not connecting yet cannot be shut
            if code == EINPROGRESS:
                if not wait_for_write(sock, timeout=max(timeout_s, 0.0)):
                    raise TimeoutError("timed out")
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
        except BaseException:
            sock.close()
            raise
        return sock


def _ask(answer: Future[Sequence[AddrInfo]], host: str, port: int) -> None:
    try:
        answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as exc:
        answer.set_exception(exc)


def _unreachable(host: str, why: str) -> ExecutorError:
    return ExecutorError(ErrorCode.MODEL_CONNECTION, f"no connection to {host}: {why}", transient=True)


class _GuardedHttp(HTTPConnection):
    """urllib3's connection with our way to the socket; SNI and certificate checks stay urllib3's.

    Once it is made it blocks without a time-out of Python's, which would ask the socket before every step whether it is
    ready: in a process with many threads each system call is a turn of the interpreter lost. The kernel's time-out ends
    a silence, and a cut ends everything.
    """

    def __init__(self, *args: Any, dialer: Dialer, origin: _Origin, **kwargs: Any) -> None:
        super().__init__(*args, timeout=None, **kwargs)
        self.origin = origin
        self._dialer = dialer
        self._line: Line | None = None
        self._silence_s = 0  # what the kernel was told

    def _new_conn(self) -> socket.socket:
        sock = self._dialer.dial(self._dns_host, self.port, CONNECT_TIMEOUT_S, self.socket_options or ())
        self._line = self._dialer.wire.line
        return sock

    def begin(self, silence_s: float) -> None:
        """Be connected, for the call on the dialer's wire; the silence is rounded up, by two seconds at most."""
        if self.is_connected and self._line is not None:  # kept alive from an earlier call
            self._dialer.wire.attach(self._line)
        else:
            self.close()
            self.connect()
            self.sock.settimeout(None)
            self._silence_s = 0
        seconds = max(1, ceil(silence_s))
        if not seconds <= self._silence_s <= seconds + 1:  # the same time-out is a second more or less at each call
            self._silence_s = seconds
            for side in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self.sock.setsockopt(socket.SOL_SOCKET, side, struct.pack("ll", seconds, 0))

    def exchange(self, request: bytes, ended: Callable[[bool], None]) -> Answer:
        """Send it and read the answer's head."""
        heard = True
        try:
            self.sock.sendall(request)
        except (BrokenPipeError, ConnectionResetError):  # it may have answered before it heard all
            heard = False
        except (BlockingIOError, ssl.SSLWantWriteError) as exc:
            raise TimeoutError("timed out") from exc
        answer = Answer(self.sock, lambda keep: ended(keep and heard))
        try:
            return answer.begin()
        except BaseException:
            answer.close()
            raise

    def close(self) -> None:
        self._line = None
        super().close()


class _GuardedHttps(_GuardedHttp, HTTPSConnection):
    pass


_trusting = threading.Lock()


def _public_trust() -> ssl.SSLContext:
    """The public authorities, and those this machine knows besides: read once, however many threads begin at once."""
    with _trusting:
        return _read_trust()


@cache
def _read_trust() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()
    return context


#: A lane's URL is the same in every call.
_parsed = lru_cache(1024)(parse_url)


def _close(kept: Mapping[_Origin, _GuardedHttp]) -> None:
    for connection in kept.values():
        connection.close()


class Connections:
    """The kept connections of one thread: checked addresses, no proxy, netrc or cookie, no redirect, no second try."""

    def __init__(self, policy: Policy, trust: ssl.SSLContext | None = None) -> None:
        self._dialer = Dialer(policy)
        self._trust = trust
        self._kept: dict[_Origin, _GuardedHttp] = {}  # the one used last stands last
        finalize(self, _close, self._kept).atexit = False

    @contextmanager
    def serving(self, call: Call) -> Iterator[None]:
        """Let `call.cut` end whatever is sent inside this block."""
        wire = self._dialer.wire = Wire(call)
        try:
            yield
        finally:
            wire.close()

    def send(
        self, method: str, url: str, query: str, *, headers: Mapping[str, str], body: bytes | None, silence_s: float
    ) -> Answer:
        """The answer, its body not read yet; who closes it before its end ends the connection too.

        `query` is added to the URL's own. Raises ExecutorError where nobody may or can be reached, OSError, BadAnswer,
        and ValueError where this cannot be made a request.
        """
        parts = _parsed(url)
        target = parts.request_uri
        if query:
            target += f"{'&' if '?' in target else '?'}{query}"
        scheme, host, port = parts.scheme or "", parts.host or "", parts.port
        name = host.rstrip(".")  # as in the certificate
        at = name if port in (None, _PORTS.get(scheme)) else f"{name}:{port}"
        text = request(method, target, {"Host": at, **headers}, body)
        connection = self._connection((scheme, host, port))
        try:
            connection.begin(silence_s)
            return connection.exchange(text, partial(self._end, connection))
        except BaseException:
            connection.close()
            raise

    def _connection(self, origin: _Origin) -> _GuardedHttp:
        if kept := self._kept.pop(origin, None):
            return kept
        scheme, host, port = origin
        host = host.strip("[]")  # the part after the last colon of a bare IPv6 address would pass for a port
        port = port or _PORTS.get(scheme)
        if scheme == "http":
            return _GuardedHttp(host, port, dialer=self._dialer, origin=origin)
        if scheme == "https":
            return _GuardedHttps(
                host, port, dialer=self._dialer, origin=origin, ssl_context=self._trust or _public_trust()
            )
        raise ValueError("neither http nor https")

    def _end(self, connection: _GuardedHttp, keep: bool) -> None:
        if not keep:
            connection.close()
            return
        self._kept[connection.origin] = connection
        if len(self._kept) > _MOST_KEPT:
            self._kept.pop(next(iter(self._kept))).close()
