"""Films: covers that show something, smaller ones that play, and what is told meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageStat

from asynch.errors import ProcessorError
from asynch.media.ffmpeg import find_ffmpeg, missing_encoders
from tests.clips import Bench, ffmpeg


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def brightness_of(path: Path) -> float:
    with Image.open(path) as image:
        return ImageStat.Stat(image.convert("L")).mean[0]


# -- covers --------------------------------------------------------------------------------------------------------


def test_a_cover_is_a_jpeg_of_the_films_size(bench: Bench, film: Path) -> None:
    product = bench.run("video.cover", film)

    assert (product.content_type, product.ext) == ("image/jpeg", "jpg")
    assert size_of(product.path) == (320, 180) == (product.facts["width"], product.facts["height"])


def test_a_cover_fits_inside_what_was_asked_for(bench: Bench, film: Path) -> None:
    assert size_of(bench.run("video.cover", film, width=100, height=100).path) == (100, 56)


def test_a_cover_of_a_film_on_its_side_stands_upright(bench: Bench, lying_film: Path) -> None:
    assert size_of(bench.run("video.cover", lying_film).path) == (180, 320)


def test_a_cover_has_square_pixels(bench: Bench, squeezed_film: Path) -> None:
    assert size_of(bench.run("video.cover", squeezed_film).path) == (320, 180)


def test_a_cover_is_not_the_black_beginning(bench: Bench, dark_film: Path) -> None:
    product = bench.run("video.cover", dark_film)

    assert brightness_of(product.path) > 50
    assert product.facts["at_s"] > 1


def test_a_cover_of_nothing_but_black_is_black(bench: Bench, clips: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "color=black:s=64x64:d=1", path := clips / "black.mp4")

    assert brightness_of(bench.run("video.cover", path).path) < 10


def test_a_cover_is_the_frame_that_was_asked_for(bench: Bench, dark_film: Path) -> None:
    assert brightness_of(bench.run("video.cover", dark_film, at=0.5).path) < 10


def test_a_cover_from_beyond_the_end_is_refused(bench: Bench, film: Path) -> None:
    with pytest.raises(ProcessorError, match="9 s is beyond the end"):
        bench.run("video.cover", film, at=9)


def test_a_cover_from_the_very_end_is_the_last_frame(bench: Bench, dark_film: Path) -> None:
    assert brightness_of(bench.run("video.cover", dark_film, at=3.99).path) > 50


def test_a_sound_has_no_cover(bench: Bench, tone: Path) -> None:
    with pytest.raises(ProcessorError, match="no picture"):
        bench.run("video.cover", tone)


def test_the_cover_of_an_album_is_taken(bench: Bench, tone: Path, photo: Path, clips: Path) -> None:
    path = clips / "album.mp3"
    ffmpeg("-i", tone, "-i", photo, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v", "attached_pic", path)

    assert size_of(bench.run("video.cover", path).path) in {(200, 400), (400, 200)}


def test_the_cover_of_an_animation_is_a_frame_that_shows_something(bench: Bench, animation: Path) -> None:
    product = bench.run("video.cover", animation)

    assert (product.facts["frame"], size_of(product.path)) == (1, (60, 40))


# -- compression ---------------------------------------------------------------------------------------------------


def test_a_compressed_film_is_a_smaller_mp4_that_plays_while_it_loads(bench: Bench, film: Path) -> None:
    product = bench.run("video.compress", film)
    head = product.path.read_bytes()

    assert (product.content_type, product.facts["kept"]) == ("video/mp4", False)
    assert len(head) < film.stat().st_size
    assert head.index(b"moov") < head.index(b"mdat")


def test_a_compressed_film_holds_the_picture_and_the_sound_of_the_source(bench: Bench, film: Path) -> None:
    made = bench.run("video.compress", film).path
    told = bench.run("media.probe", made).facts

    assert (told["video_codec"], told["audio_codec"], told["width"], told["height"]) == ("h264", "aac", 320, 180)
    assert told["duration_s"] == pytest.approx(4.0, abs=0.2)


def test_a_compressed_film_has_no_metadata(bench: Bench, film: Path) -> None:
    assert b"of my own" in film.read_bytes()

    assert b"of my own" not in bench.run("video.compress", film).path.read_bytes()


def test_a_film_that_gets_no_smaller_is_kept(bench: Bench, film: Path) -> None:
    small = bench.run("video.compress", film, crf=40).path.rename(bench.shop.scratch / "small.mp4")

    product = bench.run("video.compress", small, crf=16)

    assert (product.path, product.facts["kept"]) == (small, True)


def test_a_film_that_gets_no_smaller_is_made_where_always_is_asked(bench: Bench, film: Path) -> None:
    small = bench.run("video.compress", film, crf=40).path.rename(bench.shop.scratch / "small.mp4")

    product = bench.run("video.compress", small, crf=16, keep="always")

    assert product.path != small
    assert product.facts["kept"] is False


def test_odd_sides_are_made_even(bench: Bench, odd_film: Path) -> None:
    facts = bench.run("video.compress", odd_film, keep="always").facts

    assert (facts["width"], facts["height"]) == (160, 90)


def test_a_film_on_its_side_is_compressed_upright(bench: Bench, lying_film: Path) -> None:
    facts = bench.run("video.compress", lying_film, max_height=160).facts

    assert (facts["width"], facts["height"]) == (90, 160)


def test_progress_grows_with_the_film(bench: Bench, long_film: Path) -> None:
    bench.run("video.compress", long_film, crf=16)
    told = [percent for percent, _ in bench.told]

    assert told == sorted(told)
    assert any(5 < percent < 95 for percent in told)
    assert told[-1] == 100


def test_a_film_whose_end_is_missing_fails(bench: Bench, film: Path, clips: Path) -> None:
    whole = film.read_bytes()
    (cut := clips / "cut.mp4").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(ProcessorError, match="cut off"):
        bench.run("video.compress", cut)


def test_a_film_of_slides_is_whole(bench: Bench, clips: Path) -> None:
    """Its encoder is many seconds behind when it ends."""
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x64:d=40:r=1/5", "-pix_fmt", "yuv420p", path := clips / "slides.mp4")

    assert bench.run("video.compress", path, keep="always").facts["duration_s"] == pytest.approx(40, abs=0.1)


def test_a_film_that_does_not_tell_its_duration_is_made(bench: Bench, film: Path, clips: Path) -> None:
    """As browsers record them."""
    ffmpeg("-i", film, "-c", "copy", "-f", "matroska", "-live", "1", path := clips / "live.mkv")
    assert bench.run("media.probe", path).facts["duration_s"] is None

    assert bench.run("video.compress", path, keep="always").facts["duration_s"] == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize(
    ("form", "codecs"), [("mp4", ("h264", "aac")), ("mkv", ("h264", "aac")), ("webm", ("vp9", "opus"))]
)
def test_a_film_is_transcoded(bench: Bench, film: Path, form: str, codecs: tuple[str, str]) -> None:
    product = bench.run("video.transcode", film, format=form, max_width=160)
    told = bench.run("media.probe", product.path).facts

    assert (told["content_type"], told["video_codec"], told["audio_codec"]) == (product.content_type, *codecs)


def test_a_film_is_made_of_an_animation(bench: Bench, animation: Path) -> None:
    product = bench.run("video.transcode", animation)

    assert bench.run("media.probe", product.path).facts["video_codec"] == "h264"


@pytest.mark.parametrize("crf", [0, 51])
def test_every_quality_is_made(bench: Bench, squeezed_film: Path, crf: int) -> None:
    assert bench.run("video.compress", squeezed_film, crf=crf, keep="always").facts["kept"] is False


# -- probing -------------------------------------------------------------------------------------------------------


def test_a_probe_is_a_json_file_of_its_facts(bench: Bench, film: Path) -> None:
    product = bench.run("media.probe", film)

    assert json.loads(product.path.read_text()) == product.facts
    duration_s = product.facts["duration_s"]
    assert duration_s == pytest.approx(4.0, abs=0.05)
    assert product.facts == {
        "content_type": "video/mp4", "ext": "mp4", "width": 320, "height": 180, "duration_s": duration_s,
        "video_codec": "h264", "audio_codec": "aac", "sample_rate": 44100, "channels": "mono",
    }  # fmt: skip


def test_a_probe_of_a_picture_tells_its_sides_upright(bench: Bench, photo: Path) -> None:
    facts = bench.run("media.probe", photo).facts

    assert (facts["content_type"], facts["width"], facts["height"]) == ("image/jpeg", 400, 200)


def test_a_probe_of_a_sound_has_no_sides(bench: Bench, tone: Path) -> None:
    facts = bench.run("media.probe", tone).facts

    assert (facts["width"], facts["audio_codec"]) == (None, "mp3")


def test_an_ffmpeg_without_an_encoder_is_told_by_name(tmp_path: Path) -> None:
    real = find_ffmpeg()
    assert real is not None
    assert missing_encoders(real) == []
    poor = tmp_path / "ffmpeg"
    poor.write_text(f'#!/bin/sh\n"{real}" "$@" | grep -v libx264\n')
    poor.chmod(0o755)
    assert missing_encoders(poor) == ["libx264"]
