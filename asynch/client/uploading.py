"""A file on its way to the server: in pieces, by tus 1.0.0, taken up again wherever it was cut.

Source: https://tus.io/protocols/resumable-upload, version 1.0.0.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any, BinaryIO

from asynch.client.errors import ClientError, RefusedError, UploadError
from asynch.client.transport import Repeat, Transport, decoded
from asynch.client.waiting import PAUSES_S

#: Sent as one request. What came of a cut one stays, so this bounds memory alone.
PIECE_BYTES = 4 << 20
SENDING = "sending"
_PATH = "/api/file/tus"
_TUS = {"Tus-Resumable": "1.0.0"}

OnProgress = Callable[[str, float], None]  #: what is done with the file, and per cent


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file that the server has stored."""

    task_id: str  #: of the upload
    identity: str  #: of the file; the same content has the same in its tenant
    url: str  #: where it is; works now
    filename: str
    size_bytes: int  #: as it was sent


class Upload:
    """One file and one upload of it: `send`, then `wait`."""

    def __init__(self, transport: Transport, path: Path, on_progress: OnProgress | None, timeout_s: float) -> None:
        self._transport = transport
        self._path = path
        self._tell = on_progress or _tell_nobody
        self._deadline = monotonic() + timeout_s
        self._offset = 0
        self._is_sure = True  #: that the server has all bytes before the offset, and no more
        self._task_id = ""

    def send(self, scene: str, tags: Iterable[str]) -> None:
        """Bring all bytes to the server. OSError, and as `Client.upload`."""
        with self._path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            self._begin(size_bytes, {"filename": self._path.name, "scene": scene, "tags": _joined(tags)})
            while self._offset < size_bytes:
                self._check_time()
                self._transport.repeated(lambda: self._send_piece(file, size_bytes), Repeat.SAFE)
                self._tell(SENDING, 100 * self._offset / size_bytes)

    def _begin(self, size_bytes: int, metadata: Mapping[str, str]) -> None:
        """A second one, whose first answer was lost, leaves an empty upload that expires."""
        told = ",".join(f"{name} {_coded(text)}" for name, text in metadata.items() if text)
        headers = {**_TUS, "Upload-Length": str(size_bytes), "Upload-Metadata": told}
        answer = self._transport.call("POST", _PATH, headers=headers, repeat=Repeat.SAFE)
        # of the URL the id alone: the way to the server that this client knows may be another than the public one
        self._task_id = answer.headers.get("Location", "").rpartition("/")[2]
        if not self._task_id.isdigit():
            raise RefusedError(answer.status_code, "bad_response", "the server names no upload")

    def _send_piece(self, file: BinaryIO, size_bytes: int) -> None:
        place = f"{_PATH}/{self._task_id}"
        if not self._is_sure:
            self._offset = self._standing(place)
        file.seek(self._offset)
        piece = file.read(min(PIECE_BYTES, size_bytes - self._offset))
        if not piece and self._offset < size_bytes:
            raise UploadError(self._task_id, "the file became shorter while it was sent", code="changed")
        headers = {**_TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": str(self._offset)}
        self._is_sure = False
        # as a stream: one long text would have to be gone within the time that one answer may take
        answer = self._transport.call("PATCH", place, body=io.BytesIO(piece), headers=headers, repeat=Repeat.NEVER)
        self._offset = _offset_of(answer.headers)
        self._is_sure = True

    def _standing(self, place: str) -> int:
        """How many bytes are there; whoever else still writes, such as a cut request of ours, is over."""
        try:
            return _offset_of(self._transport.call("HEAD", place, headers=_TUS, repeat=Repeat.NEVER).headers)
        except RefusedError as exc:
            if exc.status != 410:
                raise
            raise UploadError(self._task_id, self._progress().get("error") or "it is gone") from exc

    def wait(self) -> UploadedFile:
        """What it became, once it is stored. UploadError."""
        looks, seen = 0, None
        while True:
            told = self._progress()
            status = told["status"]
            if seen != (seen := (status, told["progress"])):
                self._tell(*seen)
            if status == "completed":
                url, size_bytes = str(told["oss_path"]), int(told["file_size"])
                return UploadedFile(self._task_id, str(told["repository_id"]), url, str(told["filename"]), size_bytes)
            if status == "failed":
                raise UploadError(self._task_id, str(told.get("error") or "no reason given"))
            self._check_time()
            sleep(min(PAUSES_S[min(looks, len(PAUSES_S) - 1)], max(0.0, self._deadline - monotonic())))
            looks += 1

    def _progress(self) -> Mapping[str, Any]:
        path = f"/api/file/upload/progress/{self._task_id}"
        told: Mapping[str, Any] = decoded(self._transport.call("GET", path, repeat=Repeat.SAFE))
        return told

    def _check_time(self) -> None:
        if monotonic() >= self._deadline:
            raise UploadError(self._task_id, "not stored in time", code="time_out")


def _tell_nobody(_what: str, _per_cent: float) -> None:
    pass


def _joined(tags: Iterable[str]) -> str:
    words = list(tags)
    if any("," in word for word in words):
        raise ValueError("tags: expected words without commas")
    return ",".join(words)


def _coded(text: str) -> str:
    return base64.b64encode(text.encode(errors="replace")).decode()


def _offset_of(headers: Mapping[str, str]) -> int:
    text = headers.get("Upload-Offset", "")
    if not (text.isascii() and text.isdigit()):
        raise ClientError("the server does not say how many bytes it has", code="bad_response")
    return int(text)
