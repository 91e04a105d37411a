"""Films, sounds and pictures to try processors on, made once a session, and a shop to work in."""

from __future__ import annotations

import io
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from asynch.media import Limits, Product, Shop
from asynch.media.ffmpeg import find_ffmpeg
from asynch.media.processors import PROCESSORS

FFMPEG = find_ffmpeg()
BARS = ["-f", "lavfi", "-i", "testsrc=s=320x180:d=4:r=25"]
TONE = ["-f", "lavfi", "-i", "sine=d=4"]
H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]


def ffmpeg(*args: str | Path) -> None:
    assert FFMPEG, "the tests need ffmpeg"
    subprocess.run([FFMPEG, "-nostdin", "-v", "error", "-y", *args], check=True)


@dataclass
class Bench:
    """A shop in a directory of its own, with what it told."""

    shop: Shop
    told: list[tuple[float, str]] = field(default_factory=list)

    def run(self, name: str, source: Path, **options: Any) -> Product:
        processor = PROCESSORS[name]
        return processor.run(source, processor.options(**options), self.shop)


HALF_A_MINUTE = Limits(deadline_s=30)
MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(tmp_path: Path) -> MakeBench:
    def make(
        *, check: Callable[[], None] = lambda: None, limits: Limits = HALF_A_MINUTE, name: str = "scratch"
    ) -> Bench:
        scratch = tmp_path / name
        scratch.mkdir()
        told: list[tuple[float, str]] = []
        progress = lambda percent, word: told.append((percent, word))  # noqa: E731
        return Bench(Shop(scratch, check, progress, limits), told)

    return make


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench()


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def film(clips: Path) -> Path:
    """Four seconds of bars and a tone, far larger than it need be, with a title."""
    path = clips / "film.mp4"
    ffmpeg(
        *BARS, *TONE, *H264, "-crf", "1", "-c:a", "aac", "-metadata", "title=of my own", "-movflags", "+faststart", path
    )
    return path


@pytest.fixture(scope="session")
def lying_film(clips: Path, film: Path) -> Path:
    """Stored on its side, as phones do."""
    whole = bytearray(film.read_bytes())
    matrix = whole.index(b"tkhd") + 44  # ISO/IEC 14496-12, 8.3.2
    whole[matrix : matrix + 20] = struct.pack(">5i", 0, 1 << 16, 0, -1 << 16, 0)
    (path := clips / "lying.mp4").write_bytes(whole)
    return path


@pytest.fixture(scope="session")
def squeezed_film(clips: Path) -> Path:
    """160x180 that is shown as 320x180, in an AVI's place a Matroska."""
    path = clips / "squeezed.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=160x180:d=1:r=25", "-vf", "setsar=2", *H264, path)
    return path


@pytest.fixture(scope="session")
def dark_film(clips: Path) -> Path:
    """Two seconds of black before there is anything to see."""
    path = clips / "dark.mp4"
    black = ["-f", "lavfi", "-i", "color=black:s=320x180:d=2:r=25"]
    ffmpeg(*black, "-f", "lavfi", "-i", "testsrc=s=320x180:d=2:r=25", "-filter_complex", "concat=n=2", *H264, path)
    return path


@pytest.fixture(scope="session")
def odd_film(clips: Path) -> Path:
    """Odd sides, which H.264 of players does not have."""
    path = clips / "odd.avi"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=161x91:d=1:r=10", "-c:v", "mjpeg", "-q:v", "2", path)
    return path


@pytest.fixture(scope="session")
def long_film(clips: Path) -> Path:
    """A film that takes a while to encode and little to store."""
    path = clips / "long.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=640x360:d=16:r=25", *H264, "-g", "1000", "-crf", "45", path)
    return path


@pytest.fixture(scope="session")
def endless_film(clips: Path) -> Path:
    """Noise, which costs seconds of any processor to encode; for runs that are cut before."""
    path = clips / "endless.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=640x360:d=24:r=25,noise=alls=40:allf=t", *H264, "-crf", "30", path)
    return path


@pytest.fixture(scope="session")
def tone(clips: Path) -> Path:
    ffmpeg(*TONE, path := clips / "tone.mp3")
    return path


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A PNG of noise, 900x600."""
    made = io.BytesIO()
    Image.effect_noise((900, 600), 60).save(made, "PNG")
    return made.getvalue()


@pytest.fixture(scope="session")
def photo(clips: Path) -> Path:
    """A JPEG on its side, with a place in its metadata: 400x200 upright."""
    path = clips / "photo.jpg"
    exif = Image.Exif()
    exif[274] = 6
    exif[271] = "maker"
    Image.effect_mandelbrot((200, 400), (-2, -1.5, 1, 1.5), 100).convert("RGB").save(path, exif=exif, quality=98)
    return path


@pytest.fixture(scope="session")
def animation(clips: Path) -> Path:
    """A GIF of three frames: black, noise, black."""
    path = clips / "animation.gif"
    black = Image.new("L", (60, 40))
    black.save(
        path, save_all=True, append_images=[Image.effect_noise((60, 40), 90), black.point(lambda _: 9)], duration=100
    )
    return path
