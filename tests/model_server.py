"""A real model service for tests: each request's payload says how to answer; a ledger keeps every call.

Keys of the JSON payload (a query string sets them too; the payload wins):

    sleep: s          wait before answering             hang: true       never answer
    size: n           n bytes of body                   kind: json|wav|png|text
    echo: true        the request's raw body bytes      echo: "request"  its method, target, headers as JSON
    status: n         answer this status                fail_times: k    ... (or 500) to k calls of a task
    retry_after: v    Retry-After of a failing answer   redirect: url    302 to it
    headers: {...}    more headers                      content_type: v
    chunked: true     no Content-Length                 drip: s          seconds between single body bytes
    cut_after: n      close after n body bytes          lie_length: d    Content-Length is wrong by d
    later: {...}      202, see model_jobs.py

GET /__ledger answers the ledger, POST /__reset empties it.
"""

from __future__ import annotations

import argparse
import io
import json
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.model_bodies import KINDS, pieces
from tests.model_jobs import HANG, Jobs, Told
from tests.model_ledger import Entry, Ledger, hung_up

FOREVER_S = 3600.0


class ClientGoneError(Exception):
    """The client closed its connection during the call."""


class CutError(Exception):
    """This side closes the connection, as it was told to."""


class Handler(BaseHTTPRequestHandler):
    """One connection of one client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.clients.add(self.connection)

    def finish(self) -> None:
        self.server.clients.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the ledger is the log."""

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/__ledger":
            self._answer(200, json.dumps(self.server.ledger.as_json()).encode())
        elif (told := self._look()) is not None:
            self._tell(told)
        else:
            self._call()

    def _look(self) -> Told | None:
        path = urlsplit(self.path).path
        own = f"http://{self.headers.get('Host')}{path}"
        return self.server.jobs.look(path, dict(self.headers.items()), own) if path.startswith("/jobs/") else None

    def _tell(self, told: Told) -> None:
        if told.status == HANG:
            hung_up(self.connection, FOREVER_S)
            raise ClientGoneError
        self._answer(told.status, told.body, told.headers)

    def do_POST(self) -> None:
        if urlsplit(self.path).path == "/__reset":
            self.server.ledger.reset()
            self._answer(200, b"{}")
        else:
            self._call()

    def _call(self) -> None:
        entry = Entry(
            task_id=self.headers.get("X-Asynch-Task-Id", ""),
            attempt=int(self.headers.get("X-Asynch-Attempt", 0)),
            path=urlsplit(self.path).path,
            start=monotonic(),
            sock=self.connection,
        )
        number = self.server.ledger.begin(entry)
        try:
            self._serve(entry, number)
        except CutError:
            self.server.ledger.end(entry, "cut")
            self.close_connection = True
        except (ClientGoneError, OSError):
            self.server.ledger.end(entry, "gone")
            self.close_connection = True
        finally:
            self.server.ledger.end(entry, "error")  # no effect on a call that has ended

    def _serve(self, entry: Entry, number: int) -> None:
        length = int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(length)
        if len(raw) < length:
            raise ClientGoneError
        steer = self._steering(raw)
        if "later" in steer:
            self.server.ledger.end(entry, "202")
            self._tell(self.server.jobs.accept(steer["later"], entry.task_id, dict(self.headers.items())))
            return
        wait = FOREVER_S if steer.get("hang") else float(steer.get("sleep", 0))
        if wait and hung_up(self.connection, wait):
            raise ClientGoneError
        status = _status(steer, number)
        body, size, content_type = self._body(steer, raw, entry)
        self._send_head(steer, status, size, content_type)
        self._send_body(steer, body, size, lambda: self.server.ledger.end(entry, str(status)))

    def _steering(self, raw: bytes) -> dict[str, Any]:
        steer = {key: _value(value) for key, value in parse_qsl(urlsplit(self.path).query)}
        with suppress(ValueError):
            payload = json.loads(raw)
            if isinstance(payload, dict):
                steer.update(payload)
        return steer

    def _body(self, steer: dict[str, Any], raw: bytes, entry: Entry) -> tuple[Iterator[bytes], int, str]:
        if steer.get("echo") == "request":
            seen = {"method": self.command, "target": self.path, "headers": self.headers.items()}
            raw, content_type = json.dumps(seen).encode(), "application/json"
        elif steer.get("echo"):
            content_type = self.headers.get("Content-Type", "application/octet-stream")
        else:
            raw, content_type = KINDS[steer.get("kind", "json")]
            raw = raw or json.dumps({"taskId": entry.task_id, "attempt": entry.attempt}).encode()
        size = int(steer.get("size", len(raw)))
        return pieces(raw, size), size, str(steer.get("content_type", content_type))

    def _send_head(self, steer: dict[str, Any], status: int, size: int, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if steer.get("chunked"):
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(size + int(steer.get("lie_length", 0))))
        if "redirect" in steer:
            self.send_header("Location", steer["redirect"])
        if "retry_after" in steer and not 200 <= status < 300:
            self.send_header("Retry-After", str(steer["retry_after"]))
        for name, value in steer.get("headers", {}).items():
            self.send_header(name, value)
        if "lie_length" in steer:
            self.close_connection = True

    def _send_body(self, steer: dict[str, Any], body: Iterator[bytes], size: int, end: Any) -> None:
        left = min(size, int(steer.get("cut_after", size)))
        drip, chunked = float(steer.get("drip", 0)), bool(steer.get("chunked"))
        head = self._take_head()
        for piece in _single_bytes(body) if drip and size else body:
            piece, left = piece[:left], left - len(piece)
            out = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked and piece else piece
            if left <= 0 and "cut_after" not in steer:
                # before the last byte leaves: the next call of this slot may be here before we run again
                end()
                out += b"0\r\n\r\n" if chunked else b""
            self.connection.sendall(head + out)
            head = b""
            if left <= 0:
                break
            if drip and hung_up(self.connection, drip):
                raise ClientGoneError
        if "cut_after" in steer:
            raise CutError

    def _take_head(self) -> bytes:
        """The headers, to go out with the first piece in one packet."""
        head = io.BytesIO()
        self.wfile, wire = head, self.wfile
        self.end_headers()
        self.wfile = wire
        return head.getvalue()

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        with suppress(OSError):
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.connection.sendall(body)


def _status(steer: dict[str, Any], number: int) -> int:
    failing = number <= int(steer["fail_times"]) if "fail_times" in steer else True
    if "redirect" in steer:
        return 302
    return int(steer.get("status", 500 if "fail_times" in steer else 200)) if failing else 200


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _single_bytes(body: Iterator[bytes]) -> Iterator[bytes]:
    return (bytes([byte]) for piece in body for byte in piece)


class Server(ThreadingHTTPServer):
    """The listening socket, the ledger and the clients connected now."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        super().__init__((host, port), Handler)
        self.ledger = Ledger()
        self.jobs = Jobs()
        self.clients: set[socket.socket] = set()
        self.accepted = 0

    def get_request(self) -> Any:
        """Accept a connection, and count it."""
        accepted = super().get_request()
        self.accepted += 1
        return accepted

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a connection that the client dropped end quietly; anything else is this file's fault."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection; the client may have been faster."""
        with suppress(OSError):
            super().shutdown_request(request)


class ModelServer:
    """A model service in this process: `with ModelServer() as model: ... model.url`."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self._server = Server(port, host)
        self.ledger = self._server.ledger
        self.jobs = self._server.jobs
        self.port: int = self._server.server_address[1]
        self.url = f"http://{host}:{self.port}"

    def start(self) -> ModelServer:
        """Serve from a thread of its own."""
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse new connections and end the open ones."""
        self._server.shutdown()
        self._server.server_close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """End every connection, as a restarted service would; new ones are served."""
        for client in list(self._server.clients):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    @property
    def accepted(self) -> int:
        """How many connections were ever made."""
        return self._server.accepted

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return len(self._server.clients)

    def __enter__(self) -> ModelServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


def main() -> None:
    """Serve until interrupted; the port is the first line of stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    server = Server(parser.parse_args().port)
    print(server.server_address[1], flush=True)
    with suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
