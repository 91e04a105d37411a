"""Files on their way through nginx, in each way they may come, and what becomes of them; knows no step."""

from __future__ import annotations

import json
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPSConnection
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ground import CERT, NAME, call, http, kept, until

MIB = 1 << 20
_LINE = b"the line between the parts"
_TUS = {"Tus-Resumable": "1.0.0"}


@dataclass(frozen=True)
class File:
    """Something to send: its bytes in pieces of 1 MiB, which may be read again."""

    name: str
    size: int
    pieces: Callable[[], Iterator[bytes]]

    @classmethod
    def of(cls, path: Path) -> File:
        """A file of the disk."""
        return cls(path.name, path.stat().st_size, lambda: _read(path))


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(MIB):
            yield piece


def _send(method: str, path: str, body: Iterable[bytes], size: int, **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body of the answer; what the body raises passes through, with the line cut."""
    line = HTTPSConnection(NAME, timeout=120, context=ssl.create_default_context(cafile=CERT))
    told = {"Authorization": f"Bearer {kept['token']}", "Content-Length": str(size), **headers}
    try:
        line.request(method, path, body, told)
        answer = line.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        line.close()


def by_form(file: File) -> str:
    """The id of the upload."""
    head = b'--%b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n' % (_LINE, file.name.encode())
    end = b"\r\n--%b--\r\n" % _LINE

    def body() -> Iterator[bytes]:
        yield head
        yield from file.pieces()
        yield end

    kind = f'multipart/form-data; boundary="{_LINE.decode()}"'
    size = len(head) + file.size + len(end)
    status, _, said = _send("POST", "/api/file/upload", body(), size, **{"Content-Type": kind})
    assert status == 200, (status, said)
    return str(json.loads(said)["task_id"])


class Tus:
    """An upload that comes in pieces."""

    def __init__(self, file: File) -> None:
        self._file = file
        told = {
            "Upload-Length": str(file.size),
            "Upload-Metadata": f"filename {b64encode(file.name.encode()).decode()}",
        }
        status, headers, said = _send("POST", "/api/file/tus", (), 0, **_TUS, **told)
        assert status == 201, (status, said)
        assert headers["Location"].startswith(f"https://{NAME}/")
        self._place = urlsplit(headers["Location"]).path
        self.task = self._place.rpartition("/")[2]

    def send(self, offset: int = 0, *, cut_after: int = 0) -> None:
        """All bytes from the offset on; with `cut_after` the line is cut after so many pieces."""

        def body() -> Iterator[bytes]:
            yield from islice(_after(self._file.pieces(), offset), cut_after or None)
            if cut_after:
                raise ConnectionAbortedError

        told = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset), **_TUS}
        with suppress(ConnectionAbortedError):
            status, _, said = _send("PATCH", self._place, body(), self._file.size - offset, **told)
            assert status == 204, (status, said)

    def go_on(self) -> int:
        """Send what is missing; how many bytes were there.

        A request that was cut at once may come to the API after the question where it ended: so that is asked until
        some of it is there.
        """
        until(lambda: self._there() > 0, 10, "the first bytes are there")
        there = self._there()
        self.send(there)
        return there

    def _there(self) -> int:
        status, headers, _ = _send("HEAD", self._place, (), 0, **_TUS)
        assert status == 200, status
        return int(headers["Upload-Offset"])


def _after(pieces: Iterator[bytes], offset: int) -> Iterator[bytes]:
    for piece in pieces:
        if offset < len(piece):
            yield piece[offset:]
        offset = max(0, offset - len(piece))


def by_tus(file: File) -> str:
    """In one request; the id of the upload."""
    upload = Tus(file)
    upload.send()
    return upload.task


def by_put(file: File) -> str:
    """By a signed link into storage `local`; the id of the upload."""
    kind = "application/pdf"
    given = call("/api/file/presign", {"name": file.name, "size": file.size, "content_type": kind})
    where = urlsplit(given["url"])
    assert (where.hostname, where.path[:7]) == (NAME, "/files/")
    status, _, said = _send("PUT", f"{where.path}?{where.query}", file.pieces(), file.size, **given["headers"])
    assert status in (200, 201, 204), (status, said)
    return str(call("/api/file/confirm", {"file_name": given["file_name"]})["task_id"])


def by_buffer(size: int) -> None:
    """A call of the usual kind, whose body nginx takes whole before the API hears of it, and then refuses."""
    status, _, said = _send("POST", "/task/createTask", [b" " * size], size, **{"Content-Type": "application/json"})
    assert status in (400, 413), (status, said)


def stage(task: str) -> Any:
    """Where an upload stands."""
    return call(f"/api/file/upload/progress/{task}")


def stored(task: str, seconds: float = 120, *, cover: bool = False) -> Any:
    """The document of the file that an upload became, in time, and with its cover."""
    until(lambda: stage(task)["status"] in ("completed", "failed"), seconds, "the upload is stored")
    told = stage(task)
    assert told["status"] == "completed", told
    place = f"/api/file/{told['repository_id']}"
    if cover:
        until(lambda: call(place)["cover_url"], seconds, "the cover")
    return call(place)


def fetched(url: str) -> bytes:
    """What lies behind a link."""
    status, content = http(url)
    assert (status, url.startswith(f"https://{NAME}/")) == (200, True), (status, url)
    return content
