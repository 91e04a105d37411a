"""What the demo's second story says over HTTP: plain requests, as any program would make them."""

from __future__ import annotations

import http.client
import json
import mimetypes
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT_S = 60.0
_TUS = {"Tus-Resumable": "1.0.0"}
_PIECE = {**_TUS, "Content-Type": "application/offset+octet-stream"}


class Refused(Exception):
    """The API did not do it; the text is its reason."""

    def __init__(self, detail: str, status: int = 0) -> None:
        """A status of 0: there was no answer."""
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True, slots=True)
class Door:
    """The API at one address."""

    base_url: str

    def get(self, path: str) -> Any:
        """The JSON document at a path. Refused."""
        return json.loads(self._call("GET", path).body)

    def download(self, url: str, path: Path) -> None:
        """Write what a link gives to a file. Refused."""
        path.write_bytes(self._call("GET", url).body)

    def send_form(self, path: Path) -> dict[str, Any]:
        """Upload a file as a form would; what was answered. Refused."""
        mark, kind = uuid.uuid4().hex, mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\nContent-Type: {kind}'
        )
        body = f"{head}\r\n\r\n".encode() + path.read_bytes() + f"\r\n--{mark}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        answer: dict[str, Any] = json.loads(self._call("POST", "/api/file/upload", body, headers).body)
        return answer

    def begin_pieces(self, size: int) -> str:
        """Begin an upload in pieces; where they go. Refused."""
        headers = {**_TUS, "Upload-Length": str(size), "Upload-Metadata": "filename ZmlsbS5tcDQ="}
        return self._call("POST", "/api/file/tus", b"", headers).headers["location"]

    def offset(self, where: str) -> int:
        """How much of it is there. Refused."""
        return int(self._call("HEAD", where, None, _TUS).headers["upload-offset"])

    def send_piece(self, where: str, at: int, piece: bytes, *, cut: bool = False) -> None:
        """Send a piece; with `cut` only the first half of it comes, as when a connection breaks. Refused."""
        if not cut:
            self._call("PATCH", where, piece, {**_PIECE, "Upload-Offset": str(at)})
            return
        line = self._line(where)
        with closing(line):
            line.putrequest("PATCH", urlsplit(where).path)
            for name, value in {**_PIECE, "Upload-Offset": str(at), "Content-Length": str(len(piece))}.items():
                line.putheader(name, value)
            line.endheaders(piece[: len(piece) // 2])

    def send_direct(self, path: Path) -> dict[str, Any]:
        """Put a file straight into the storage and confirm it; what was answered. Refused."""
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        invited = self._post("/api/file/presign", name=path.name, size=path.stat().st_size, content_type=kind)
        self._call("PUT", invited["url"], path.read_bytes(), invited["headers"])
        return self._post("/api/file/confirm", file_name=invited["file_name"])

    def make_rule(self, **fields: Any) -> str:
        """Have something done with files as they come; the rule's id. Refused."""
        made: str = self._post("/preAction/createPreAction", **fields)["id"]
        return made

    def new_secret(self) -> str:
        """What the messages to receivers are signed with from now on. Refused."""
        secret: str = self._post("/webhook/rotateSecret")["secret"]
        return secret

    def _post(self, path: str, **fields: Any) -> dict[str, Any]:
        body = json.dumps(fields).encode()
        answer: dict[str, Any] = json.loads(self._call("POST", path, body, {"Content-Type": "application/json"}).body)
        return answer

    def _line(self, target: str) -> http.client.HTTPConnection:
        host = urlsplit(target if "://" in target else self.base_url).netloc
        return http.client.HTTPConnection(host, timeout=_TIMEOUT_S)

    def _call(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> _Answer:
        parts = urlsplit(target)
        with closing(self._line(target)) as line:
            try:
                line.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, dict(headers or {}))
                got = line.getresponse()
                answer = _Answer({name.lower(): value for name, value in got.getheaders()}, got.read())
            except (OSError, http.client.HTTPException) as exc:
                raise Refused(f"{method} {parts.path}: {exc or type(exc).__name__}") from exc
        if got.status >= http.client.BAD_REQUEST:
            detail = answer.body[:200].decode(errors="replace")
            raise Refused(f"{method} {parts.path}: {got.status} {detail}", got.status)
        return answer


@dataclass(frozen=True, slots=True)
class _Answer:
    headers: Mapping[str, str]
    body: bytes
