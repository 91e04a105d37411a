"""HTTP/1.1 as its two sides put it on a connection: a request in one piece, an answer as it comes."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress

import httptools

#: A small answer fits; below the size from which each buffer would be a mapping of its own.
_PIECE_BYTES = 1 << 16
_MAX_HEAD_BYTES = 1 << 18
_MAX_HEADERS = 100
_OK = 200

_TARGET = re.compile(r"[!-~]+")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\0\r\n]*")


class BadAnswer(Exception):
    """What came is not an HTTP answer, or not the whole of one."""


def request(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Head and body together. ValueError for what would not arrive as it is meant."""
    if not _TARGET.fullmatch(target):
        raise ValueError("a URL with spaces or letters beyond ASCII in it")
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in headers.items():
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise ValueError(f"the header {name!r} or its value has a character that no header may have")
        lines.append(f"{name}: {value}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1") + (body or b"")


class Answer:
    """One answer: first its head, then its body, piece by piece as it comes off the wire.

    `ended` hears once, at the end of the body or at `close`, whether the connection can be kept.
    """

    def __init__(self, sock: socket.socket, ended: Callable[[bool], None]) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}  #: by name in small letters
        self.length_remaining: int | None = None  #: bytes not read yet, None where the head does not say
        self._sock = sock
        self._ended: Callable[[bool], None] | None = ended
        self._in_body = self._whole = self._keep = False
        self._headers = 0
        self._pieces: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        # what plain servers get wrong without leaving a doubt of what they mean
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)

    def begin(self) -> Answer:
        """Read the head. OSError, TimeoutError, BadAnswer; ConnectionResetError where nothing came at all."""
        read = 0
        while not self._in_body:
            data = self._receive()
            if not data:
                raise BadAnswer("it ends within its head") if read else ConnectionResetError("closed without an answer")
            read += len(data)
            self._feed(data)
            if not self._in_body and read > _MAX_HEAD_BYTES:
                raise BadAnswer(f"a head of more than {_MAX_HEAD_BYTES} bytes")
        return self

    def header(self, name: str) -> str:
        """The value of a header, its name in small letters; empty when it is absent."""
        return self.headers.get(name, "").strip()

    def read(self) -> bytes:
        """The next bytes of the body, b"" at its proper end. OSError, TimeoutError, BadAnswer."""
        while not self._pieces:
            if self._whole:
                self._end()
                return b""
            data = self._receive()
            if data:
                self._feed(data)
            elif self._ends_with_connection:
                self._whole = True
            else:
                raise BadAnswer("the connection ended before the body")
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self.length_remaining is not None:
            self.length_remaining -= len(data)
        if self._whole:
            self._end()
        return data

    def close(self) -> None:
        """Be done with it; a body that was not read to its end ends the connection with it."""
        self._keep = False
        self._end()

    def _end(self) -> None:
        if (ended := self._ended) is not None:
            self._ended = None
            del self._parser  # which knows this object
            ended(self._keep)

    @property
    def _ends_with_connection(self) -> bool:
        coding = self.headers.get("transfer-encoding", "").lower()
        return self.length_remaining is None and not coding.endswith("chunked")

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(_PIECE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError) as exc:  # the kernel's time-out
            raise TimeoutError("timed out") from exc

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            raise BadAnswer("it goes over to another protocol") from exc
        except httptools.HttpParserError as exc:
            if not self._whole:
                raise BadAnswer(str(exc.__context__ or exc)) from exc
            self._keep = False

    # The parser calls these.

    def on_message_begin(self) -> None:
        if self._whole:
            raise BadAnswer("what follows it was not asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:  # a trailer: what the head says stays
            return
        self._headers += 1
        if self._headers > _MAX_HEADERS:
            raise BadAnswer(f"more than {_MAX_HEADERS} headers")
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < _OK:
            return
        self._in_body = True
        with suppress(KeyError):
            self.length_remaining = int(self.headers["content-length"])

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        self._whole, self._keep = self._in_body, self._parser.should_keep_alive()
        if not self._in_body:  # a word in between, as 103: the answer follows
            self.headers.clear()
