"""The connections an executor calls through; they refuse unchecked addresses, and any thread can end their call."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from errno import EINPROGRESS
from functools import cache, lru_cache
from time import monotonic
from typing import Any

import certifi
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import parse_url
from urllib3.util.wait import wait_for_write

from asynch.errors import ErrorCode, ExecutorError
from asynch.executors import Call
from asynch.executors.egress import AddrInfo, Policy, addresses, literal

CONNECT_TIMEOUT_S = 10.0
_CUT_POLL_S = 0.05


class Wire:
    """The connection one call is on, and the way to end it from any thread in any stage.

    It holds a descriptor of its own: TLS detaches the first one, urllib3 lets go of it when the body is the
    last thing on it, and the number of a closed one may already belong to another file.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self._lock = threading.Lock()
        self._handle: int | None = None
        call.on_cut(self.shut)

    def attach(self, sock: socket.socket) -> None:
        """Go on with `sock`; shuts it if the call was cut meanwhile."""
        handle = os.dup(sock.fileno())
        with self._lock:
            former, self._handle = self._handle, handle
        if former is not None:
            os.close(former)
        if self.call.reason is not None:
            self.shut()

    def shut(self) -> None:
        """End the connection under whatever waits on it; harmless when there is none any more."""
        with self._lock, suppress(OSError):
            if self._handle is not None:
                with socket.socket(fileno=os.dup(self._handle)) as sock:
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection without ending it."""
        with self._lock:
            handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


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
            self.wire.attach(sock)  # after connect_ex: a socket that is not connecting yet cannot be shut
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
    """urllib3's connection with our way to the socket; Host, SNI and certificate checks stay urllib3's."""

    def __init__(self, *args: Any, dialer: Dialer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dialer = dialer

    def _new_conn(self) -> socket.socket:
        timeout_s = float(self.timeout or CONNECT_TIMEOUT_S)
        return self._dialer.dial(self._dns_host, self.port, timeout_s, self.socket_options or ())

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # kept alive from an earlier call
            self._dialer.wire.attach(self.sock)
        super().request(*args, **kwargs)


class _GuardedHttps(_GuardedHttp, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _GuardedHttp


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _GuardedHttps


class _Pools(PoolManager):
    def __init__(self, dialer: Dialer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._dialer = dialer
        self.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def _new_pool(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool = super()._new_pool(*args, **kwargs)
        pool.conn_kw["dialer"] = self._dialer
        return pool


@cache
def _public_trust() -> ssl.SSLContext:
    """The public authorities, and those this machine knows besides."""
    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()
    return context


#: A lane's URL is the same in every call.
_parsed = lru_cache(1024)(parse_url)


class Connections:
    """The kept connections of one thread: checked addresses, no proxy, netrc or cookie, no redirect, no second try."""

    def __init__(self, policy: Policy, trust: ssl.SSLContext | None = None) -> None:
        self._dialer = Dialer(policy)
        self._pools = _Pools(self._dialer, maxsize=1, ssl_context=trust or _public_trust())

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
    ) -> BaseHTTPResponse:
        """The answer, its body not read yet; `query` is added to the URL's own.

        Raises urllib3's HTTPError, and ValueError where this cannot be made a request.
        """
        parts = _parsed(url)
        target = parts.request_uri
        if query:
            target += f"{'&' if '?' in target else '?'}{query}"
        pool = self._pools.connection_from_host(parts.host, parts.port, parts.scheme or "")
        return pool.urlopen(
            method,
            target,
            body=body,
            headers=headers,
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=Timeout(connect=min(CONNECT_TIMEOUT_S, silence_s), read=silence_s),
            preload_content=False,
            decode_content=False,
        )
