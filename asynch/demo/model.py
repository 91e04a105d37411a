"""The demo's model service: speech synthesis over HTTP in its own process; knows nothing of the queue.

POST /speak {"text": "...", "voice": "en", "speed": 160} answers a WAV file (mono, 16 bit, 22050 Hz).
"""

from __future__ import annotations

import argparse
import ctypes
import hmac
import io
import json
import os
import signal
import socketserver
import sys
import threading
import wave
from contextlib import suppress
from dataclasses import dataclass, fields
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import espeakng_loader

#: What a caller must send, so that the demo shows a bound header. No secret: the service is on loopback.
KEY_HEADER = "X-Api-Key"
KEY = "demo-model-key"

MAX_BODY_BYTES = 64 * 1024
MAX_TEXT_CHARS = 2000
READ_TIMEOUT_S = 10.0


class SpeechError(Exception):
    """The request cannot be answered; `status` says whose fault it is."""

    def __init__(self, detail: str, status: HTTPStatus = HTTPStatus.UNPROCESSABLE_ENTITY) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True, slots=True)
class Speech:
    """One checked request."""

    text: str
    voice: str = "en"
    speed: int = 160  #: words a minute
    fail_times: int = 0  #: so many first attempts end in 503, to show retries


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SpeechError(f"{name}: a whole number from {low} to {high}")


def _sayable(text: object) -> None:
    if not isinstance(text, str) or len(text) > MAX_TEXT_CHARS or not any(map(str.isalnum, text)):
        raise SpeechError(f"text: words, at most {MAX_TEXT_CHARS} characters")
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise SpeechError("text: no NUL and no lone surrogates")


def parse(body: bytes, voices: frozenset[str]) -> Speech:
    """Read a request's body; raise SpeechError with what is wrong."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise SpeechError("the body is not JSON", HTTPStatus.BAD_REQUEST) from exc
    if not isinstance(given, dict) or "text" not in given:
        raise SpeechError("a JSON object with a text is needed")
    unknown = sorted(given.keys() - {field.name for field in fields(Speech)})
    if unknown:
        raise SpeechError(f"unknown field: {unknown[0]!r}")
    speech = Speech(**given)
    _sayable(speech.text)
    _whole("speed", speech.speed, 80, 450)
    _whole("fail_times", speech.fail_times, 0, 10)
    if not isinstance(speech.voice, str) or speech.voice not in voices:
        raise SpeechError("voice: a language such as en, de, fr, es, it, la")
    return speech


_OnSamples = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Speaker:
    """libespeak-ng in this process: one voice at a time, because the library is one global state."""

    _SYNCHRONOUS = 2  # espeak_AUDIO_OUTPUT: samples go to the callback, the call returns when all are there
    _DONT_EXIT = 0x8000  # else a missing data file calls exit()
    _UTF8 = 1
    _RATE = 1  # espeak_PARAMETER

    def __init__(self, library: Path, data: str) -> None:
        """Load the library; `data` must be short: it keeps 160 bytes for the path and cuts the rest."""
        self._lib = ctypes.CDLL(os.fspath(library))
        self._lock = threading.Lock()
        self._samples = bytearray()
        self._on_samples = _OnSamples(self._collect)  # kept: C holds only the pointer
        self.voices = frozenset(path.name for path in Path(data, "lang").rglob("*") if path.is_file())
        self.rate_hz: int = self._lib.espeak_Initialize(self._SYNCHRONOUS, 0, os.fsencode(data), self._DONT_EXIT)
        if self.rate_hz <= 0 or not self.voices:
            raise SystemExit("the speech library cannot read its data")
        self._lib.espeak_SetSynthCallback(self._on_samples)

    def _collect(self, samples: Any, count: int, _events: object) -> int:
        if samples and count > 0:
            self._samples += ctypes.string_at(samples, count * 2)
        return 0

    def say(self, speech: Speech) -> bytes:
        """The speech as a whole WAV file."""
        text = speech.text.encode() + b"\0"
        with self._lock:
            self._samples.clear()
            failed = (
                self._lib.espeak_SetVoiceByName(speech.voice.encode())
                or self._lib.espeak_SetParameter(self._RATE, speech.speed, 0)
                or self._lib.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 0, 0, self._UTF8, None, None)
            )
            samples = bytes(self._samples)
        if failed:
            raise SpeechError(f"the speech library failed with {failed}", HTTPStatus.INTERNAL_SERVER_ERROR)
        return self._wav(samples)

    def _wav(self, samples: bytes) -> bytes:
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.rate_hz)
            file.writeframes(samples)
        return out.getvalue()

    def close(self) -> None:
        """Let the running synthesis end and take no other: a thread in C must not meet the end of Python."""
        self._lock.acquire()


def service_time_s(text: str) -> float:
    """What a slow model would take: espeak-ng needs 10 ms, in which no queue could be seen."""
    return min(1.5, 0.3 + len(text) / 100)


class Service(ThreadingHTTPServer):
    """Listens on loopback; every request has a thread that may be left behind at the end."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, speaker: Speaker) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.speaker = speaker
        self.stopping = threading.Event()

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's name: a name server may be away."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


class Handler(BaseHTTPRequestHandler):
    """One request, one connection (HTTP/1.0)."""

    server: Service
    timeout = READ_TIMEOUT_S

    def do_POST(self) -> None:
        with suppress(ConnectionError, TimeoutError):  # the caller has gone
            try:
                self._answer(HTTPStatus.OK, "audio/wav", self._speak())
            except SpeechError as exc:
                body = json.dumps({"error": str(exc)}).encode()
                self._answer(exc.status, "application/json", body)

    def _speak(self) -> bytes:
        body = self._body()  # first: an answer to an unread body may reach the caller as a reset
        if self.path.partition("?")[0] != "/speak":
            raise SpeechError("only POST /speak is here", HTTPStatus.NOT_FOUND)
        if not hmac.compare_digest(self.headers.get(KEY_HEADER, "").encode(), KEY.encode()):
            raise SpeechError(f"header {KEY_HEADER} is missing or wrong", HTTPStatus.UNAUTHORIZED)
        speech = parse(body, self.server.speaker.voices)
        self._fail_on_purpose(speech)
        if self.server.stopping.wait(service_time_s(speech.text)):
            raise SpeechError("stopping", HTTPStatus.SERVICE_UNAVAILABLE)
        return self.server.speaker.say(speech)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise SpeechError("Content-Length is missing or wrong", HTTPStatus.LENGTH_REQUIRED)
        if int(length) > MAX_BODY_BYTES:
            raise SpeechError(f"at most {MAX_BODY_BYTES} bytes", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return self.rfile.read(int(length))

    def _fail_on_purpose(self, speech: Speech) -> None:
        attempt = self.headers.get("X-Asynch-Attempt", "1")
        if attempt.isascii() and attempt.isdigit() and int(attempt) <= speech.fail_times:
            task = self.headers.get("X-Asynch-Task-Id", "?")
            detail = f"task {task}, attempt {attempt} of {speech.fail_times} that fail on purpose"
            raise SpeechError(detail, HTTPStatus.SERVICE_UNAVAILABLE)

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the demo's screen belongs to its progress display."""


def _ask_for_parents_death() -> None:
    """Have Linux send SIGTERM at once when the parent dies; elsewhere `serve` sees it by itself."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0)


def serve(port: int, parent: int) -> None:
    """Answer requests until SIGTERM or SIGINT, or until `parent` is this process's parent no more."""
    library = Path(espeakng_loader.get_library_path()).resolve()
    data = Path(espeakng_loader.get_data_path()).resolve()
    os.chdir(data.parent)  # so that the path the library keeps is short wherever Python is installed
    service = Service(port, Speaker(library, data.name))
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: service.stopping.set())
    _ask_for_parents_death()
    threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    with suppress(BrokenPipeError):  # a parent that reads no more is gone or soon will be
        sys.stdout.write(f"ready http://127.0.0.1:{service.server_port}\n")
        sys.stdout.flush()
    while os.getppid() == parent and not service.stopping.wait(0.5):
        pass
    service.stopping.set()
    service.shutdown()
    service.server_close()
    service.speaker.close()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="asynch.demo.model", description="speech synthesis over HTTP")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="end when this process has ended")
    args = parser.parse_args()
    try:
        serve(args.port, args.parent)
    except OSError as exc:
        sys.exit(f"cannot serve on 127.0.0.1:{args.port}: {exc.strerror or exc}")


if __name__ == "__main__":
    main()
