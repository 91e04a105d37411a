"""Sounds: each format holds what was asked for, and a missing end is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from asynch.errors import ProcessorError
from tests.clips import Bench, ffmpeg

CODECS = {"mp3": "mp3", "m4a": "aac", "ogg": "opus", "wav": "pcm_s16le", "flac": "flac"}


@pytest.mark.parametrize("form", CODECS)
def test_a_sound_is_made_of_a_film(bench: Bench, film: Path, form: str) -> None:
    product = bench.run("audio.transcode", film, format=form)
    told = bench.run("media.probe", product.path).facts

    assert (told["content_type"], told["audio_codec"], told["width"]) == (product.content_type, CODECS[form], None)
    assert told["duration_s"] == pytest.approx(4.0, abs=0.2)


def test_many_channels_become_two(bench: Bench, clips: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "anoisesrc=d=1:r=48000", "-af", "pan=5.1|c0=c0|c1=c0|c2=c0", path := clips / "room.wav")

    product = bench.run("audio.transcode", path, format="ogg")

    assert bench.run("media.probe", product.path).facts["channels"] == "stereo"


def test_a_sound_has_no_metadata(bench: Bench, tone: Path, clips: Path) -> None:
    ffmpeg("-i", tone, "-c", "copy", "-metadata", "title=of my own", path := clips / "titled.mp3")
    assert b"of my own" in path.read_bytes()

    assert b"of my own" not in bench.run("audio.transcode", path).path.read_bytes()


def test_a_film_without_sound_gives_none(bench: Bench, squeezed_film: Path) -> None:
    with pytest.raises(ProcessorError, match="no sound"):
        bench.run("audio.transcode", squeezed_film)


@pytest.mark.parametrize("form", ["m4a", "flac", "mp3"])
def test_a_sound_whose_end_is_missing_fails(bench: Bench, tone: Path, form: str) -> None:
    whole = bench.run("audio.transcode", tone, format=form).path.read_bytes()
    (source := bench.shop.scratch / "cut").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(ProcessorError):
        bench.run("audio.transcode", source)
