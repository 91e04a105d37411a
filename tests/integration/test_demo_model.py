"""The demo's model service as a real process: what it says, what it refuses, how it ends."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import wave
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import espeakng_loader
import pytest
import requests

from asynch.demo.model import KEY, KEY_HEADER, MAX_TEXT_CHARS
from asynch.demo.texts import TENANTS
from tests.waiting import until

COMMAND = [sys.executable, "-m", "asynch.demo.model", "--port", "0"]
SHORT = "One boat."
LONG = "One boat passes the narrow gate, and the keeper writes down its name in the book."


@contextmanager
def running(env: Mapping[str, str] = os.environ) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address; killed at the end if it is still there."""
    pipe = subprocess.PIPE
    with subprocess.Popen(COMMAND, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        try:
            yield process, address(process)
        finally:
            process.kill()


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    ready, _, url = process.stdout.readline().strip().partition(" ")
    assert ready == "ready"
    return url


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    with running() as (_, url):
        yield url


def speak(url: str, body: Any, headers: dict[str, str] | None = None) -> requests.Response:
    return requests.post(f"{url}/speak", json=body, headers={KEY_HEADER: KEY, **(headers or {})}, timeout=20)


def seconds(answer: requests.Response) -> float:
    """The length of a WAV answer, of which every frame the header promises is there."""
    assert answer.status_code == 200, answer.text
    with wave.open(io.BytesIO(answer.content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        frames = file.readframes(file.getnframes())
        assert len(frames) == file.getnframes() * 2
        assert max(frames) > 0
        return float(file.getnframes() / file.getframerate())


def refuses_connections(url: str) -> bool:
    target = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((target.hostname, target.port)) != 0


def test_a_longer_text_is_a_longer_wav(model: str) -> None:
    assert 2 * seconds(speak(model, {"text": SHORT})) < seconds(speak(model, {"text": LONG}))


def test_a_higher_speed_is_a_shorter_wav(model: str) -> None:
    slow, fast = (seconds(speak(model, {"text": LONG, "speed": speed})) for speed in (80, 320))
    assert fast < slow / 2


def test_each_voice_sounds_different(model: str) -> None:
    bodies = [{"text": LONG, "voice": voice} for voice in ("en", "de", "fr", "la")]
    with ThreadPoolExecutor(len(bodies)) as pool:
        assert len({seconds(answer) for answer in pool.map(lambda body: speak(model, body), bodies)}) == 4


def test_every_sentence_of_the_demo_is_spoken(model: str) -> None:
    bodies = [{"text": line.text, "voice": line.voice} for tenant in TENANTS for line in tenant.lines]
    with ThreadPoolExecutor(8) as pool:
        assert all(seconds(answer) > 1 for answer in pool.map(lambda body: speak(model, body), bodies))


def test_simultaneous_requests_do_not_mix(model: str) -> None:
    texts = [SHORT, LONG] * 8
    alone = {text: seconds(speak(model, {"text": text})) for text in (SHORT, LONG)}

    with ThreadPoolExecutor(len(texts)) as pool:
        together = list(pool.map(lambda text: seconds(speak(model, {"text": text})), texts))

    assert together == pytest.approx([alone[text] for text in texts], rel=0.05)


def test_service_time_grows_with_the_text(model: str) -> None:
    short, long = (speak(model, {"text": text}).elapsed.total_seconds() for text in (SHORT, LONG))
    assert 0.3 <= short < long


@pytest.mark.parametrize("headers", [{}, {KEY_HEADER: "wrong"}, {KEY_HEADER: KEY + "x"}])
def test_a_caller_without_the_bound_header_is_401(model: str, headers: dict[str, str]) -> None:
    answer = requests.post(f"{model}/speak", json={"text": SHORT}, headers=headers, timeout=20)
    assert answer.status_code == 401
    assert KEY_HEADER in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ([SHORT], "object"),
        ({}, "text"),
        ({"text": 7}, "text"),
        ({"text": " ...!"}, "text"),
        ({"text": "a" * (MAX_TEXT_CHARS + 1)}, "text"),
        ({"text": "cut\0here"}, "text"),
        ({"text": "half \ud83d"}, "text"),
        ({"text": SHORT, "voice": "../../passwd"}, "voice"),
        ({"text": SHORT, "voice": ["en"]}, "voice"),
        ({"text": SHORT, "speed": 79}, "speed"),
        ({"text": SHORT, "speed": True}, "speed"),
        ({"text": SHORT, "fail_times": -1}, "fail_times"),
        ({"text": SHORT, "pitch": 1}, "pitch"),
    ],
)
def test_a_bad_field_is_422_and_named(model: str, body: Any, named: str) -> None:
    answer = speak(model, body)
    assert answer.status_code == 422
    assert named in answer.json()["error"]


def test_broken_json_is_400(model: str) -> None:
    answer = requests.post(f"{model}/speak", data=b'{"text"', headers={KEY_HEADER: KEY}, timeout=20)
    assert answer.status_code == 400


def test_a_marked_request_fails_its_first_attempts_only(model: str) -> None:
    body = {"text": SHORT, "fail_times": 2}
    statuses = [speak(model, body, {"X-Asynch-Attempt": str(n)}).status_code for n in (1, 2, 3, 4)]
    assert statuses == [503, 503, 200, 200]


def test_a_purposeful_failure_names_task_and_attempt(model: str) -> None:
    headers = {"X-Asynch-Task-Id": "4711", "X-Asynch-Attempt": "2"}
    error = speak(model, {"text": SHORT, "fail_times": 2}, headers).json()["error"]
    assert "4711" in error
    assert "attempt 2" in error


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_a_call_ends_it_cleanly(signum: signal.Signals) -> None:
    with running() as (process, url), closing(HTTPConnection(urlsplit(url).netloc)) as call:
        call.request("POST", "/speak", json.dumps({"text": LONG}), {KEY_HEADER: KEY})
        assert speak(url, {}).status_code == 422  # accepted after the call, answered while it runs

        process.send_signal(signum)

        _, stderr = process.communicate(timeout=5)
        assert (process.returncode, stderr) == (0, "")


def test_it_dies_with_a_parent_that_was_killed() -> None:
    parent_code = f"import subprocess, sys; subprocess.run({COMMAND!r})"
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True) as parent:
        url = address(parent)
        assert not refuses_connections(url)
        parent.kill()

    until(lambda: refuses_connections(url))


def test_it_ends_when_the_named_parent_was_gone_before_it_looked() -> None:
    stranger = subprocess.Popen([sys.executable, "-c", ""])
    stranger.wait()
    done = subprocess.run([*COMMAND, "--parent", str(stranger.pid)], timeout=10, capture_output=True)
    assert done.returncode == 0


def test_a_taken_port_is_one_clear_line(model: str) -> None:
    port = urlsplit(model).port
    done = subprocess.run([*COMMAND[:-1], str(port)], timeout=10, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert str(port) in done.stderr


def test_it_speaks_from_an_installation_with_a_long_path(tmp_path: Path) -> None:
    site = tmp_path / ("long-name-" * 20)
    package = Path(espeakng_loader.__file__).parent
    shutil.copytree(package, site / package.name)
    path = os.pathsep.join([str(site), os.getcwd()])

    with running({**os.environ, "PYTHONPATH": path}) as (_, url):
        assert seconds(speak(url, {"text": SHORT, "voice": "fi"})) > 0.2


def test_it_listens_on_its_own_loopback_address_only(model: str) -> None:
    elsewhere = model.replace("127.0.0.1", "127.0.0.2")
    assert not refuses_connections(model)
    assert refuses_connections(elsewhere)
