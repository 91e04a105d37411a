"""An upload service as results meet it: keeps files on disk, answers JSON with a URL, and is moody on request."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask, Response, request, send_from_directory
from flask.typing import ResponseReturnValue
from werkzeug.serving import make_server

from asynch.storage.http import HttpStorage
from tests.live import Quiet


@dataclass(frozen=True)
class Seen:
    """One upload as the service saw it."""

    filename: str
    content_type: str
    headers: Mapping[str, str]  #: names in small letters

    @property
    def identity(self) -> tuple[str | None, str | None]:
        """On whose behalf it came."""
        return self.headers.get("authorization"), self.headers.get("x-user-info")


@dataclass(frozen=True)
class Mood:
    """How one upload is answered."""

    status: int = 200
    body: bytes | None = None  #: None: JSON with the file's URL
    keeps: bool = True
    loses_answer: bool = False
    reads_nothing: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    held: threading.Event | None = None  #: waits for it before the answer


class UploadService:
    """The running server; the same file name replaces the file and keeps its URL."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.seen: list[Seen] = []
        self.moods: deque[Mood] = deque()  #: of the next uploads; then it is in the best
        self.allows: Callable[[Seen], bool] = lambda seen: True  #: else 401
        self.asked: list[str] = []  #: methods of the other requests
        self._server = make_server("127.0.0.1", 0, self._app(), threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.005})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def kept(self) -> dict[str, bytes]:
        """Every file by its name."""
        return {path.name: path.read_bytes() for path in self.home.iterdir()}

    def storage(self, **options: Any) -> HttpStorage:
        """The backend that uploads here."""
        given = {
            "upload_url": f"{self.url}/upload",
            "url_field": "fileUrl",
            "headers": {},
            "delete_url": f"{self.url}/files",
        }
        return HttpStorage(**{**given, **options})

    def _app(self) -> Flask:
        app = Flask("uploads")
        app.route("/upload", methods=["POST", "OPTIONS"])(self._upload)
        app.get("/files/<name>")(self._get)
        app.delete("/files")(self._delete)
        return app

    def _upload(self) -> ResponseReturnValue:
        if request.method == "OPTIONS":
            return self._options()
        mood = self.moods.popleft() if self.moods else Mood()
        headers = {name.lower(): value for name, value in request.headers.items()}
        if mood.reads_nothing:
            self.seen.append(Seen("", "", headers))
            return self._said(mood, "")
        file = request.files["file"]
        seen = Seen(file.filename or "", file.content_type or "", headers)
        self.seen.append(seen)
        if not self.allows(seen):
            return {"msg": f"not {seen.identity}"}, 401
        if mood.held is not None:
            mood.held.wait(20)
        if mood.keeps and mood.status < 300:
            part = self.home.parent / f"{uuid4().hex}.part"
            file.save(part)
            os.replace(part, self.home / seen.filename)
        if mood.loses_answer:
            request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return self._said(mood, seen.filename)

    def _said(self, mood: Mood, name: str) -> ResponseReturnValue:
        if mood.body is not None:
            return Response(mood.body, mood.status, mood.headers)
        return {"fileUrl": f"{self.url}/files/{name}"}, mood.status, dict(mood.headers)

    def _options(self) -> ResponseReturnValue:
        self.asked.append("OPTIONS")
        return "", 503 if self.moods else 204

    def _get(self, name: str) -> ResponseReturnValue:
        self.asked.append("GET")
        return send_from_directory(self.home, name, conditional=True)

    def _delete(self) -> ResponseReturnValue:
        self.asked.append("DELETE")
        path = self.home / request.args["url"].removeprefix(f"{self.url}/files/")
        if not path.is_file():
            return {"msg": "there is no such file"}, 404
        path.unlink()
        return {}


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[UploadService]:
    """A service that keeps its files below `tmp_path`."""
    home = tmp_path / "uploads" / "kept"
    home.mkdir(parents=True)
    service = UploadService(home)
    yield service
    service.close()
