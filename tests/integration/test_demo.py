"""`asynch demo --files` as a stranger runs it: in a directory of its own, with nothing configured and nothing left."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageStat

from tests.programs import clean_environ

DEMO = [sys.executable, "-m", "asynch", "demo", "--files"]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where a demo keeps its data, apart from those that others run; Postgres may have another user than we."""
    place = Path(tempfile.mkdtemp(prefix="demo-"))
    place.chmod(0o711)
    yield place
    shutil.rmtree(place, ignore_errors=True)


def running_in(directory: Path) -> list[int]:
    return [p.pid for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(directory)]


def test_the_demo_leaves_its_files_and_nothing_that_runs(tmp_path: Path, scratch: Path) -> None:
    ran = subprocess.run(
        DEMO,
        cwd=tmp_path,
        env=clean_environ(TMPDIR=str(scratch)),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    made = tmp_path / "asynch-demo"
    sounds = sorted(made.glob("*.wav"))
    assert len(sounds) == 24
    with wave.open(str(sounds[0])) as sound:
        assert sound.getnframes() > 0
    assert {p.name for p in made.iterdir() if p.suffix != ".wav"} == {
        "film.mp4", "film-cover.jpg", "film-web.webm", "film-poster.jpg",
        "picture.jpg", "card.png", "picture-thumbnail.jpg", "card-thumbnail.jpg",
    }  # fmt: skip
    for name, size in (
        ("film-cover.jpg", (854, 480)),
        ("film-poster.jpg", (480, 270)),
    ):  # the poster is film-web.webm's
        with Image.open(made / name) as frame:
            assert frame.size == size
            assert ImageStat.Stat(frame.convert("L")).stddev[0] > 20
    assert (made / "film-web.webm").read_bytes().startswith(b"\x1aE\xdf\xa3")
    said = " ".join(ran.stdout.split())
    assert re.search(
        r"CDN called by rule cdn: file\.completed of film\.mp4, input film\.cover\.jpg; signature verified", said
    )
    assert re.search(r"film\.mp4 web [\d.]+ film-web\.webm.* film\.mp4 poster web [\d.]+ film-poster\.jpg", said)
    assert re.search(r"film\.mp4 cdn poster [\d.]+ told of film-poster\.jpg", said)
    assert list(scratch.iterdir()) == []
    assert running_in(tmp_path) == []


def test_a_demo_that_is_stopped_says_so_and_leaves_nothing_that_runs(tmp_path: Path, scratch: Path) -> None:
    with subprocess.Popen(
        DEMO,
        cwd=tmp_path,
        env=clean_environ(TMPDIR=str(scratch)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert "24 tasks" in running.stdout.readline()
        running.send_signal(signal.SIGINT)
        said = running.stdout.read()
        code = running.wait(60)

    assert (code, said.splitlines()[-1]) == (130, "demo stopped"), said
    assert list(scratch.iterdir()) == []
    assert running_in(tmp_path) == []
