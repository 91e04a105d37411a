"""Hostile files: each fails its own run, soon, with a few words that tell no path of ours."""

from __future__ import annotations

import random
import socket
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from asynch.errors import ProcessorError
from asynch.media import Limits
from tests.clips import Bench, MakeBench

PLAYLIST = b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10.0,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
FILM_ACTS = ("video.cover", "video.compress", "audio.transcode", "media.probe")
PICTURE_ACTS = ("image.thumbnail", "image.compress", "image.watermark", "video.cover", "media.probe")


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG of that size, or of the beginning of it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


FILMS: dict[str, bytes] = {
    "nothing": b"",
    "noise": random.Random(1).randbytes(100_000),
    "playlist": PLAYLIST,
    "playlist_of_addresses": PLAYLIST.replace(b"file:///etc/passwd", b"http://127.0.0.1:1/x.ts"),
    "concat_script": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "subtitles": b"[Script Info]\nScriptType: v4.00+\n",
    "page": b"<html><script>alert(1)</script>",
    "drawing": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "document": b"%PDF-1.7\n",
    "archive": b"PK\x03\x04" + bytes(100),
    "mp4_then_playlist": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + PLAYLIST,
    "avi_then_playlist": b"RIFF\xff\xff\xff\x7fAVI " + PLAYLIST,
    "wav_then_playlist": b"RIFF\xff\xff\xff\x7fWAVE" + PLAYLIST,
    "flv_then_playlist": b"FLV\x01\x05\0\0\0\x09\0\0\0\0" + PLAYLIST,
    "mkv_then_playlist": b"\x1aE\xdf\xa3" + PLAYLIST,
    "mp3_then_playlist": b"ID3\x04\0\0\0\0\0\0" + PLAYLIST,
    "ogg_then_playlist": b"OggS" + PLAYLIST,
    "ts_then_playlist": (b"G" + bytes(187)) * 3 + PLAYLIST,
    "mp4_of_nothing": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    "mp4_of_endless_boxes": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0\0\0\x08moov" * 1000,
}

PICTURES: dict[str, bytes] = {
    "nothing": b"",
    "noise": random.Random(2).randbytes(100_000),
    "playlist": PLAYLIST,
    "bomb": png(50_000, 50_000),
    "flat_bomb": png(2_000_000_000, 1),
    "cut_off": png(100, 100, random.Random(3).randbytes(301 * 100))[:15_000],
    "png_then_playlist": b"\x89PNG\r\n\x1a\n" + PLAYLIST,
    "jpeg_then_page": b"\xff\xd8\xff\xe0" + b"<html>",
    "gif_of_nothing": b"GIF89a\xff\xff\xff\xff\0\0\0",
    "webp_of_nothing": b"RIFF\x04\0\0\0WEBP",
    "tiff_of_nothing": b"II*\0\xff\xff\xff\xff",
    "script_in_a_bmp": b"BM" + bytes(4) + bytes(4) + b"\x1a\0\0\0\x28\0\0\0" + b"<script>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
}


def fails(bench: Bench, name: str, source: Path) -> str:
    """The words of its failure: few, and none of our own."""
    with pytest.raises(ProcessorError) as caught:
        bench.run(name, source)
    words = str(caught.value)
    assert len(words) < 250
    assert "\n" not in words
    assert str(source.parent) not in words
    assert not caught.value.transient
    return words


@pytest.mark.parametrize("kind", FILMS)
def test_a_hostile_film_fails(bench: Bench, tmp_path: Path, kind: str) -> None:
    (source := tmp_path / "source").write_bytes(FILMS[kind])

    fails(bench, "video.compress", source)


@pytest.mark.parametrize("name", FILM_ACTS)
def test_whatever_is_asked_of_a_disguised_playlist_fails(bench: Bench, tmp_path: Path, name: str) -> None:
    (source := tmp_path / "source").write_bytes(FILMS["avi_then_playlist"])

    fails(bench, name, source)


@pytest.mark.parametrize("kind", PICTURES)
def test_a_hostile_picture_fails(bench: Bench, tmp_path: Path, kind: str) -> None:
    (source := tmp_path / "source").write_bytes(PICTURES[kind])

    fails(bench, "image.thumbnail", source)


@pytest.mark.parametrize("name", PICTURE_ACTS)
def test_whatever_is_asked_of_a_bomb_fails(bench: Bench, tmp_path: Path, name: str) -> None:
    (source := tmp_path / "source").write_bytes(PICTURES["bomb"])

    fails(bench, name, source)


def test_a_playlist_reaches_nobody(bench: Bench, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts".encode()
        (source := tmp_path / "source").write_bytes(PLAYLIST.replace(b"file:///etc/passwd", address))
        fails(bench, "video.compress", source)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_bomb_is_called_one(bench: Bench, tmp_path: Path) -> None:
    (source := tmp_path / "source").write_bytes(png(50_000, 50_000))

    assert fails(bench, "image.thumbnail", source) == "it has more than 120 million pixels"


def test_a_film_of_absurd_size_fails(bench: Bench, odd_film: Path, tmp_path: Path) -> None:
    sides, absurd = struct.pack(">HH", 91, 161), struct.pack(">HH", 65_500, 65_500)
    whole = odd_film.read_bytes()
    assert whole.count(sides) >= 10
    (source := tmp_path / "source").write_bytes(whole.replace(sides, absurd))

    fails(bench, "video.compress", source)


def test_a_sound_without_end_meets_its_limit(make_bench: MakeBench, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.write(
            b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\x80\xbb\0\0\0\x77\x01\0\x02\0\x10\0data\xff\xff\xff\xff"
        )
        file.truncate(20 << 30)

    words = fails(make_bench(limits=Limits(deadline_s=20, cpu_s=1)), "audio.transcode", source)
    assert words == "it takes more than 1 s of CPU time"


def cut(whole: bytes, chance: random.Random) -> bytes:
    return whole[: chance.randrange(100, len(whole))]


def flip(whole: bytes, chance: random.Random) -> bytes:
    spoilt = bytearray(whole)
    for _ in range(20):
        spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
    return bytes(spoilt)


@pytest.mark.parametrize("spoil", [cut, flip])
@pytest.mark.parametrize("kind", ["film", "odd_film", "squeezed_film", "tone", "photo", "animation"])
def test_a_spoilt_file_gives_a_product_or_a_reason(
    bench: Bench,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    kind: str,
    spoil: Callable[[bytes, random.Random], bytes],
) -> None:
    whole = request.getfixturevalue(kind).read_bytes()
    (source := tmp_path / "source").write_bytes(spoil(whole, random.Random(7)))

    with suppress(ProcessorError):
        assert bench.run("video.cover", source).path.stat().st_size > 0
