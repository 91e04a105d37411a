"""/task/{id}/events and /ws: every change of a task as it comes, on connections that hold none of the server's threads.

The web server answers such a request into a dummy, and its connection goes on in one event loop for all.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any, cast

import orjson
from flask import Blueprint, Response, current_app, request
from flask.typing import ResponseReturnValue
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws
from wsproto.utilities import ProtocolError

from asynch.db import Row
from asynch.domain.ids import number_of
from asynch.errors import InvalidInput, Mistake, Overloaded
from asynch.service.documents import as_json
from asynch.service.feed import Feed, Key
from asynch.web import parts, problem
from asynch.web.auth import principal

bp = Blueprint("streams", __name__, url_prefix="/task")

_PING_S = 15.0
#: a peer that takes nothing for so long is given up
_STUCK_S = 60.0
_GOING_AWAY = 1012  # service restart: come again

Render = Callable[[Row], bytes]
#: what is told of a row that was heard of, in the feed's thread
Read = Callable[[Row | None], Row | None]


@bp.get("/<id:task_id>/events")
def events(task_id: str) -> ResponseReturnValue:
    """Server-Sent Events: the status document at each change, from the first or from Last-Event-ID, until the final."""
    row = parts().tasks.get(principal().tenant_id, number_of(task_id))
    seen = _last_seen()
    if row["final"] and row["version"] <= seen:
        return "", 204  # to a browser: do not come again
    return _Handover(_EventStream(row, seen, _render(), parts().feed), "text/event-stream; charset=utf-8")


@bp.get("/<id:task_id>/ws", endpoint="socket")
@bp.get("/<id:task_id>/ws", endpoint="socket", websocket=True)  # Flask keeps the two apart
def socket_(task_id: str) -> ResponseReturnValue:
    """The same over WebSocket: the status document as a text message a change, closed with 1000 after the final one."""
    return over_socket(lambda: parts().tasks.get(principal().tenant_id, number_of(task_id)), _render())


def over_socket(begin: Callable[[], Row], render: Render, read: Read | None = None) -> ResponseReturnValue:
    """A WebSocket that tells of the row that `begin` finds, and of each that `read` makes of what is heard of it.

    A row says `tenant_id`, `id`, `version` and `final`, and whatever `render` needs.
    """
    if request.headers.get("Upgrade", "").lower() != "websocket":
        told = problem.document(426, "Upgrade required", "This is a WebSocket.", "upgrade_required")
        return problem.answer(told, {"Upgrade": "websocket"})
    row = begin()
    try:
        shaken = _handshake()
    except ProtocolError as exc:
        return problem.answer(problem.document(400, "Not a WebSocket handshake", str(exc), "bad_handshake"))
    return _Handover(_SocketStream(row, shaken, render, parts().feed, read), "")


def _handshake() -> WSConnection:
    """The connection that this request asks for, to be accepted. ProtocolError."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in request.headers]
    made = WSConnection(ConnectionType.SERVER)
    made.initiate_upgrade_connection(headers, request.full_path)
    list(made.events())
    return made


def _last_seen() -> int:
    given = request.headers.get("Last-Event-ID", "")
    if given and not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise InvalidInput([Mistake("#", "Last-Event-ID: expected the id of an event")])
    return int(given or -1)


def _render() -> Render:
    documents = parts().documents
    return lambda row: as_json(documents.status(row))


class Streams:
    """The loop of one process, begun with the first stream, and how many there are."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._open: set[_Stream] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, stream: _Stream, sock: socket.socket) -> None:
        """Go on with this connection."""
        with self._lock:
            self._open.add(stream)
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="streams", daemon=True).start()
                atexit.register(self.close)
            loop = self._loop
        asyncio.run_coroutine_threadsafe(self._connect(loop, stream, sock), loop)

    def expect_room(self) -> None:
        """Overloaded when there are as many as may be."""
        with self._lock:
            if len(self._open) >= self._most:
                raise Overloaded(f"{self._most} streams are open here already.")

    def end(self, stream: _Stream) -> None:
        """It is closed."""
        with self._lock:
            self._open.discard(stream)

    def close(self) -> None:
        """Tell all to come again later, as this process ends."""
        with self._lock:
            loop, still = self._loop, list(self._open)
        if loop is not None:
            over = threading.Event()
            for stream in still:
                loop.call_soon_threadsafe(stream.go_away)
            loop.call_soon_threadsafe(loop.call_later, 0.1, over.set)
            over.wait(1.0)

    async def _connect(self, loop: asyncio.AbstractEventLoop, stream: _Stream, sock: socket.socket) -> None:
        try:
            stream.streams, stream.loop = self, loop
            await loop.connect_accepted_socket(lambda: stream, sock)
        except OSError:  # it is gone already
            self.end(stream)
            sock.close()


class _Handover(Response):
    """A response whose connection goes on as a stream, once all its headers are known."""

    def __init__(self, stream: _Stream, content_type: str) -> None:
        super().__init__(content_type=content_type or None)
        self._stream, self._streams = stream, cast(Streams, current_app.extensions["asynch.streams"])
        self._streams.expect_room()
        self.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        theirs: socket.socket = environ.get("gunicorn.socket") or environ["werkzeug.socket"]
        ours = socket.socket(fileno=os.dup(theirs.fileno()))
        dummy, other_end = socket.socketpair()
        os.dup2(dummy.fileno(), theirs.fileno())  # what the server does with its connection now, it does to this one
        dummy.close()
        self._stream.headers = [
            (name.encode(), value.encode("latin-1"))
            for name, value in self.headers
            if name.lower() not in ("content-length", "connection")
        ]
        self._streams.begin(self._stream, ours)
        start_response("200 OK", [("Content-Length", "0"), ("Connection", "close")])
        return _Nothing(other_end)


class _Nothing:
    """An empty body that holds the dummy's other end until the server has written it."""

    def __init__(self, other_end: socket.socket) -> None:
        self._other_end = other_end

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    def close(self) -> None:
        self._other_end.close()


class _Stream(asyncio.Protocol):
    """One reader of one task. All in the loop's thread, but `_heard`."""

    streams: Streams
    loop: asyncio.AbstractEventLoop
    headers: list[tuple[bytes, bytes]]

    def __init__(self, row: Row, seen: int, render: Render, feed: Feed, read: Read | None = None) -> None:
        self._first, self._seen = row, seen
        self._render, self._feed, self._read = render, feed, read
        self._keys = [(row["tenant_id"], row["id"])]
        self._held_back: Row | None = None
        self._stuck_since: float | None = None
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._number = self._feed.watch(self._keys, self._heard)
        self._pinging = self.loop.call_later(_PING_S, self._ping)
        self._begin()
        self._take(self._first)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._ended = True
        self._pinging.cancel()
        self._feed.forget(self._keys, self._number)
        self.streams.end(self)

    def pause_writing(self) -> None:
        self._stuck_since = monotonic()

    def resume_writing(self) -> None:
        self._stuck_since = None
        if (row := self._held_back) is not None:
            self._held_back = None
            self._take(row)

    def go_away(self) -> None:
        """Close, for the reader to come again."""
        if not self._ended:
            self._say_goodbye(_GOING_AWAY)

    def _heard(self, _key: Key, row: Row | None) -> None:
        row = self._read(row) if self._read else row
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._take, row)

    def _take(self, row: Row | None) -> None:
        if self._ended or (row is not None and row["version"] <= self._seen):
            return
        if row is None:  # purged: what there was to say of it has been said, or never will be
            self._end()
        elif self._stuck_since is not None:  # quick changes merge
            self._held_back = row
        else:
            self._seen = row["version"]
            self._tell(self._render(row))
            if row["final"]:
                self._end()

    def _end(self) -> None:
        self._ended = True
        self._say_goodbye(1000)

    def _ping(self) -> None:
        if self._stuck_since is not None and monotonic() - self._stuck_since > _STUCK_S:
            self._transport.abort()
            return
        self._pinging = self.loop.call_later(_PING_S, self._ping)
        if self._stuck_since is None and not self._ended:
            self._tell_alive()

    def _begin(self) -> None:
        """Open the stream."""
        raise NotImplementedError

    def _tell(self, document: bytes) -> None:
        raise NotImplementedError

    def _tell_alive(self) -> None:
        raise NotImplementedError

    def _say_goodbye(self, code: int) -> None:
        raise NotImplementedError


class _EventStream(_Stream):
    """Server-Sent Events as HTML has them; the id is the version of the row."""

    def _begin(self) -> None:
        head = b"".join(b"%b: %b\r\n" % header for header in self.headers)
        self._transport.write(b"HTTP/1.1 200 OK\r\n%bConnection: close\r\n\r\nretry: 1000\n\n" % head)

    def _tell(self, document: bytes) -> None:
        name = b"done" if orjson.loads(document)["final"] else b"status"
        self._transport.write(b"id: %d\nevent: %b\ndata: %b\n\n" % (self._seen, name, document))

    def _tell_alive(self) -> None:
        self._transport.write(b": ping\n\n")

    def _say_goodbye(self, code: int) -> None:  # noqa: ARG002 - there is no such thing
        self._transport.close()


class _SocketStream(_Stream):
    """WebSocket, RFC 6455."""

    def __init__(self, row: Row, shaken: WSConnection, render: Render, feed: Feed, read: Read | None) -> None:
        super().__init__(row, -1, render, feed, read)
        self._socket = shaken

    def _begin(self) -> None:
        self._transport.write(self._socket.send(ws.AcceptConnection(extra_headers=self.headers)))

    def data_received(self, data: bytes) -> None:
        try:
            self._socket.receive_data(data)
            for event in self._socket.events():
                if isinstance(event, ws.Ping):
                    self._transport.write(self._socket.send(event.response()))
                elif isinstance(event, ws.CloseConnection):
                    if not self._ended:
                        self._transport.write(self._socket.send(event.response()))
                    self._transport.close()
        except ProtocolError:
            self._transport.abort()

    def _tell(self, document: bytes) -> None:
        self._transport.write(self._socket.send(ws.TextMessage(document.decode())))

    def _tell_alive(self) -> None:
        self._transport.write(self._socket.send(ws.Ping()))

    def _say_goodbye(self, code: int) -> None:
        with suppress(ProtocolError):
            self._transport.write(self._socket.send(ws.CloseConnection(code)))
        self.loop.call_later(1.0, self._transport.close)  # the peer says goodbye too, or it does not
