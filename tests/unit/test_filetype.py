"""What `sniff` makes of content: real files of every kind, files made to deceive it, and plain noise."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import struct
import tarfile
import wave
import zipfile
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynch.domain.filetype import HEAD_BYTES, UNKNOWN, FileType, sniff

TXT = FileType("txt", "text/plain; charset=utf-8")
JSON = FileType("json", "application/json")
NOISE = random.Random(7).randbytes(4096)


def wav() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(NOISE)
    return out.getvalue()


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0\xff\0\0")
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    return out.getvalue()


def frames(header: bytes, length: int) -> bytes:
    """Two frames of a sound that has no file header."""
    return (header + bytes(length - len(header))) * 2


def ogg(packet: bytes) -> bytes:
    """A first page as encoders write it: one packet, one segment."""
    return b"OggS\0\x02" + bytes(20) + b"\x01" + bytes([len(packet)]) + packet


def ftyp(brand: bytes) -> bytes:
    return b"\0\0\0\x1cftyp" + brand + b"\0\0\x02\0isomiso2mp41"


#: beginnings with 20 bytes of EBML header each, as libwebm and ffmpeg write them
EBML = b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08"
BINARY: dict[str, tuple[bytes, str, str]] = {
    "png": (png(), "png", "image/png"),
    "jpeg with JFIF": (b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01", "jpg", "image/jpeg"),
    "jpeg with Exif": (b"\xff\xd8\xff\xe1\0\x10Exif\0\0", "jpg", "image/jpeg"),
    "gif": (b"GIF89a\x01\0\x01\0\x80\0\0", "gif", "image/gif"),
    "webp": (b"RIFF\xbe\x10\0\0WEBPVP8 ", "webp", "image/webp"),
    "bmp": (b"BM6w\x01\0\0\0\0\x006\0\0\0(\0\0\0\xc8\0\0\0", "bmp", "image/bmp"),
    "tiff": (b"II*\0\x08\0\0\0", "tiff", "image/tiff"),
    "avif": (ftyp(b"avif"), "avif", "image/avif"),
    "heic": (ftyp(b"heic"), "heic", "image/heic"),
    "wav": (wav(), "wav", "audio/wav"),
    "flac": (b"fLaC\0\0\0\x22\x10\0", "flac", "audio/flac"),
    "mp3 with ID3": (b"ID3\x04\0\0\0\0\0\x23TIT2", "mp3", "audio/mpeg"),
    "mp3 without": (frames(b"\xff\xfb\x50\xc4", 208), "mp3", "audio/mpeg"),
    "mp3 of 22 kHz": (frames(b"\xff\xf3\x40\xc4", 104), "mp3", "audio/mpeg"),
    "aac": (frames(b"\xff\xf1\x50\x40\x1c\x7f\xfc", 227), "aac", "audio/aac"),
    "opus": (ogg(b"OpusHead\x01\x01" + bytes(9)), "opus", "audio/ogg"),
    "vorbis": (ogg(b"\x01vorbis" + bytes(23)), "ogg", "audio/ogg"),
    "theora": (ogg(b"\x80theora\x03\x02" + bytes(33)), "ogv", "video/ogg"),
    "m4a": (ftyp(b"M4A "), "m4a", "audio/mp4"),
    "mp4": (ftyp(b"isom"), "mp4", "video/mp4"),
    "fragmented mp4": (ftyp(b"iso5"), "mp4", "video/mp4"),
    "mov": (ftyp(b"qt  "), "mov", "video/quicktime"),
    "mov without ftyp": (b"\0\0\0\x08wide\0\0\x10\0mdat", "mov", "video/quicktime"),
    "webm": (EBML + b"B\x82\x84webmB\x87\x81\x02B\x85\x81\x02", "webm", "video/webm"),
    "matroska": (EBML + b"B\x82\x88matroskaB\x87\x81\x04", "mkv", "video/x-matroska"),
    "avi": (b"RIFF\xbe\x10\0\0AVI LIST", "avi", "video/x-msvideo"),
    "mpeg-ts": ((b"G" + bytes(187)) * 3, "ts", "video/mp2t"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "pdf", "application/pdf"),
    "pdf of ASCII": (b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n", "pdf", "application/pdf"),
    "zip": (zipped("a.txt"), "zip", "application/zip"),
    "empty zip": (zipped(), "zip", "application/zip"),
    "gzip": (gzip.compress(b"hello"), "gz", "application/gzip"),
    "bzip2": (bz2.compress(b"hello"), "bz2", "application/x-bzip2"),
    "xz": (lzma.compress(b"hello"), "xz", "application/x-xz"),
    "tar": (tarred(), "tar", "application/x-tar"),
    "noise": (NOISE, "bin", "application/octet-stream"),
    "empty": (b"", "bin", "application/octet-stream"),
}


@pytest.mark.parametrize("kind", BINARY)
@pytest.mark.parametrize("whole", [True, False])
def test_binary_kinds_are_told_by_their_content(kind: str, whole: bool) -> None:
    body, ext, content_type = BINARY[kind]

    assert sniff(body, whole=whole) == FileType(ext, content_type)


@pytest.mark.parametrize(
    "text",
    [
        "ok",
        "héllo wörld 你好 🎵\n",
        "a,b\n1,2\n",
        "# Title\n\ntext\r\n",
        "\x1b[31mred\x1b[0m",
        " \n",
        "\ufeffwith a mark",
    ],
)
def test_utf8_is_text(text: str) -> None:
    assert sniff(text.encode(), whole=True) == TXT


@pytest.mark.parametrize(
    "text", ["BMW is a car maker", "ID3 tags are fun", "RIFF and then WAVE", "GIF89a", "OggS", "fLaC", "PK\r\n", "1;2G"]
)
def test_text_that_begins_like_a_signature_stays_text(text: str) -> None:
    assert sniff(text.encode(), whole=True) == TXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("whole", [True, False])
def test_utf16_with_its_mark_is_text_and_served_as_such(encoding: str, whole: bool) -> None:
    body = "\ufeffhéllo 你好\n".encode(encoding)

    assert sniff(body, whole=whole) == FileType("txt", "text/plain; charset=utf-16")


@pytest.mark.parametrize(
    "body", [b"abc\0def", b"abc\xffdef", "grüße".encode("latin-1"), "\ufeffa\0".encode("utf-32-le")]
)
def test_what_is_not_quite_text_is_unknown(body: bytes) -> None:
    assert sniff(body, whole=True) == UNKNOWN


def test_a_character_cut_by_the_end_of_the_head_keeps_it_text() -> None:
    body = "你好".encode()[:-1]

    assert sniff(body, whole=False) == TXT
    assert sniff(body, whole=True) == UNKNOWN


@pytest.mark.parametrize(
    ("text", "ext"),
    [
        ("<!DOCTYPE html><html><body>hi", "html"),
        ("\n<!-- c --><HTML lang=de>", "html"),
        ("<script>alert(1)</script>", "html"),
        ("<?xml version='1.0'?><!DOCTYPE html><html/>", "html"),
        ("<svg xmlns='http://www.w3.org/2000/svg'/>", "svg"),
        ("\ufeff<?xml version='1.0'?>\n<!-- c -->\n<svg/>", "svg"),
        ("<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' 'x' [<!ENTITY a 'b'>]><svg>", "svg"),
        ("<?xml version='1.0'?><feed/>", "xml"),
        ("a page that says <html>", "txt"),
        ("<" * 60_000, "txt"),
        ("<!--" * 15_000, "txt"),
        ("<!doctype a[" * 5_000, "txt"),
    ],
    ids=lambda value: value[:24],
)
def test_markup_is_named_and_served_as_plain_text(text: str, ext: str) -> None:
    assert sniff(text.encode(), whole=True) == FileType(ext, "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2.5e3, null]}',
        '[1, "x"]',
        "{}",
        " [ ]\n",
        "42",
        "-1.5",
        '"text"',
        "true",
        "null",
        "9" * 5000,
        '"\\u0000"',
    ],
    ids=lambda text: text[:12],
)
def test_a_whole_json_document_is_json(text: str) -> None:
    assert sniff(text.encode(), whole=True) == JSON


@pytest.mark.parametrize(
    "text",
    [
        "{not json",
        "{'a': 1}",
        "[1, 2,]",
        '{"a": 1',
        '{"a": 1}\n{"a": 2}',
        "NaN",
        "[Infinity]",
        "01",
        "[" * 60_000,
        '["a\tb"]',
    ],
    ids=lambda text: text[:12],
)
def test_what_does_not_parse_is_text_and_not_json(text: str) -> None:
    assert sniff(text.encode(), whole=True) == TXT


@pytest.mark.parametrize(
    "text", ["{not json, whatever follows}", "[see below] and so on", "42", '"text"', '{"a": 1}\n{"a"', "{'a': 1}" * 9]
)
def test_a_head_that_cannot_become_json_is_text(text: str) -> None:
    assert sniff(text.encode(), whole=False) == TXT


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(value=st.lists(values, min_size=1) | st.dictionaries(st.text(), values, min_size=1), data=st.data())
def test_every_beginning_of_a_json_document_is_json(value: Any, data: st.DataObject) -> None:
    body = json.dumps(value, ensure_ascii=data.draw(st.booleans())).encode()
    cut = data.draw(st.integers(1, len(body)))

    assert sniff(body[:cut], whole=False) == JSON
    assert sniff(body, whole=True) == JSON


@given(st.binary(), st.booleans())
def test_any_bytes_have_a_type_and_never_an_active_one(body: bytes, whole: bool) -> None:
    found = sniff(body, whole=whole)

    assert found.ext
    assert not any(word in found.content_type for word in ("html", "svg", "xml", "script"))


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1))
def test_any_text_is_served_as_text_or_json(text: str) -> None:
    assert sniff(text.encode(), whole=True).content_type in {TXT.content_type, JSON.content_type}


def test_noise_is_hardly_ever_taken_for_something() -> None:
    source = random.Random(1)
    found = [sniff(b"\xff\xfb" + source.randbytes(4000), whole=False) for _ in range(200)]

    assert found.count(UNKNOWN) > 180  # nine in ten, though each begins like a sound


def test_the_last_signature_byte_lies_within_the_head() -> None:
    assert sniff(tarred()[:HEAD_BYTES], whole=False).ext == "tar"
