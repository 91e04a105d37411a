"""`asynch demo --files` as a stranger runs it: in a directory of its own, with nothing configured and nothing left."""

from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import psutil
from PIL import Image, ImageStat

from tests.integration.test_supervisor import clean_environ


def test_the_demo_leaves_its_files_and_nothing_that_runs(tmp_path: Path) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    ran = subprocess.run(
        [sys.executable, "-m", "asynch", "demo", "--files"],
        cwd=tmp_path, env=clean_environ(TMPDIR=str(temporary)), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    made = tmp_path / "asynch-demo"
    sounds = sorted(made.glob("*.wav"))
    assert len(sounds) == 24
    with wave.open(str(sounds[0])) as sound:
        assert sound.getnframes() > 0
    assert {p.name for p in made.iterdir() if p.suffix != ".wav"} == {
        "film.mp4", "film-cover.jpg", "picture.jpg", "card.png", "picture-thumbnail.jpg", "card-thumbnail.jpg",
    }  # fmt: skip
    with Image.open(made / "film-cover.jpg") as cover:
        assert cover.size == (854, 480)
        assert ImageStat.Stat(cover.convert("L")).stddev[0] > 20
    assert list(temporary.iterdir()) == []
    assert [p.pid for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)] == []
