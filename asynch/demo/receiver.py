"""The demo's CDN: takes signed webhooks in a thread of its own, and believes nothing that is not signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/purge"
MAX_BODY_BYTES = 1 << 20
#: How far a message's time may be from ours, seconds: what is older may be somebody's repetition.
TOLERANCE_S = 300
READ_TIMEOUT_S = 10.0


class Unproven(Exception):
    """A message was not signed with the secret; the text says how it fails."""


@dataclass(frozen=True, slots=True)
class Call:
    """A message that proved who sent it."""

    message_id: str
    told: Mapping[str, Any]


@contextmanager
def receiving(secret: str, heard: Callable[[Call], None]) -> Iterator[str]:
    """Listen on this machine while the block runs; the URL to call. `heard` is called in another thread."""

    class Handler(BaseHTTPRequestHandler):
        timeout = READ_TIMEOUT_S

        def do_POST(self) -> None:
            """204 for what is proven and understood, else 401, 404 or 413, and nothing happens."""
            length = int(self.headers.get("Content-Length") or 0)
            if self.path != PATH or length > MAX_BODY_BYTES:
                self._answer(HTTPStatus.NOT_FOUND if self.path != PATH else HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                return
            body = self.rfile.read(length)
            try:
                call = proven(secret, {name.lower(): value for name, value in self.headers.items()}, body)
            except Unproven as exc:
                self._answer(HTTPStatus.UNAUTHORIZED, str(exc))
                return
            heard(call)
            self._answer(HTTPStatus.NO_CONTENT)

        def _answer(self, status: HTTPStatus, text: str = "") -> None:
            self.send_response(status)
            if status is not HTTPStatus.NO_CONTENT:
                self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing: what was heard is told by the story."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="cdn", daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{PATH}"
        finally:
            server.shutdown()


def proven(secret: str, headers: Mapping[str, str], body: bytes) -> Call:
    """The message, if this secret signed it within the last minutes (Standard Webhooks 1.0.0). Unproven."""
    try:
        message_id, sent_at = headers["webhook-id"], headers["webhook-timestamp"]
        signatures = headers["webhook-signature"].split()
        age_s = abs(time.time() - int(sent_at))
    except (KeyError, ValueError) as exc:
        raise Unproven("a header of the signature is missing or wrong") from exc
    if age_s > TOLERANCE_S:
        raise Unproven("the message is too old, or from the future")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{sent_at}.".encode() + body, hashlib.sha256)
    wanted = f"v1,{base64.b64encode(digest).decode()}".encode()
    if not any(hmac.compare_digest(wanted, signature.encode()) for signature in signatures):
        raise Unproven("no signature of it is right")
    return Call(message_id, json.loads(body))
