"""What a file is, by its content alone: no header, name or model is believed, no active type ever answered.

Text is told from binary first, so that a sentence beginning with `BM`, `ID3` or `RIFF` stays text. Libraries
of magic numbers (puremagic 1.30, filetype 1.2) see an image or a sound there, and a .docx in any zip.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from pathlib import Path

#: what a caller should read of a longer file; every signature below lies within it
HEAD_BYTES = 65536


@dataclass(frozen=True, slots=True)
class FileType:
    """An extension without a dot, and the type the file is served with."""

    ext: str
    content_type: str


UNKNOWN = FileType("bin", "application/octet-stream")
_PLAIN = "text/plain; charset=utf-8"
_TEXT = FileType("txt", _PLAIN)
_JSON = FileType("json", "application/json")

#: Markup is served as plain text: HTML, SVG and XML (XSLT, XHTML) run scripts in the origin they come from.
_MARKUP = (
    (re.compile(r"<!doctype\s+html\b|<(?:html|head|body|script|iframe)\b", re.I), FileType("html", _PLAIN)),
    (re.compile(r"<(?:svg:)?svg\b"), FileType("svg", _PLAIN)),
)
_XML = FileType("xml", _PLAIN)

#: what may stand before the first element: space, instructions, comments, a doctype other than HTML's
_PROLOG = re.compile(r"(?:\s|<\?.*?\?>|<!--.*?-->|<!doctype(?!\s+html\b)[^>\[]*(?:\[.*?\]\s*)?>)*", re.I | re.S)

#: bytes that no text holds (WHATWG MIME Sniffing, "binary data byte")
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")

#: Binary signatures; the first that matches at the start wins. Sounds without a header (MPEG, ADTS) must show
#: a second frame that begins like the first, as two bytes prove little.
_SIGNATURES = tuple(
    (re.compile(pattern, re.S), FileType(ext, content_type))
    for pattern, ext, content_type in (
        (rb"\x89PNG\r\n\x1a\n", "png", "image/png"),
        (rb"\xff\xd8\xff", "jpg", "image/jpeg"),
        (rb"GIF8[79]a", "gif", "image/gif"),
        (rb"RIFF....WEBP", "webp", "image/webp"),
        (rb"BM.{4}\0{4}.\0\0\0[\x0c-\x7c]\0\0\0", "bmp", "image/bmp"),
        (rb"II\*\0|MM\0\*", "tiff", "image/tiff"),
        (rb".{4}ftypavi[fs]", "avif", "image/avif"),
        (rb".{4}ftyp(?:hei[cxms]|hev[cx]|mif1|msf1)", "heic", "image/heic"),
        (rb"RIFF....WAVE", "wav", "audio/wav"),
        (rb"FORM....AIF[FC]", "aiff", "audio/aiff"),
        (rb"fLaC", "flac", "audio/flac"),
        (rb"ID3[\x02-\x04]", "mp3", "audio/mpeg"),
        (rb"(\xff[\xe2\xe3\xf2\xf3\xfa\xfb])[\x10-\xeb].{18,2880}?\1", "mp3", "audio/mpeg"),
        (rb"(\xff[\xf0\xf1\xf8\xf9]).{5,8190}?\1", "aac", "audio/aac"),
        (rb"OggS.{23,278}?OpusHead", "opus", "audio/ogg"),
        (rb"OggS.{23,278}?\x80theora", "ogv", "video/ogg"),
        (rb"OggS", "ogg", "audio/ogg"),
        (rb"#!AMR(?:-WB)?\n", "amr", "audio/amr"),
        (rb"MThd\0\0\0\x06", "mid", "audio/midi"),
        (rb".{4}ftypM4[AB] ", "m4a", "audio/mp4"),
        (rb".{4}ftypqt  |.{4}(?:moov|wide|mdat)", "mov", "video/quicktime"),
        (rb".{4}ftyp3g[2gp]", "3gp", "video/3gpp"),
        (rb".{4}ftyp", "mp4", "video/mp4"),
        (rb"\x1aE\xdf\xa3.{0,64}?\x42\x82.webm", "webm", "video/webm"),
        (rb"\x1aE\xdf\xa3", "mkv", "video/x-matroska"),
        (rb"RIFF....AVI ", "avi", "video/x-msvideo"),
        (rb"FLV\x01", "flv", "video/x-flv"),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wmv", "video/x-ms-wmv"),
        (rb"\0\0\x01\xba", "mpg", "video/mpeg"),
        (rb"G.{187}G.{187}G", "ts", "video/mp2t"),
        (rb"PK(?:\x03\x04|\x05\x06)", "zip", "application/zip"),
        (rb"\x1f\x8b\x08", "gz", "application/gzip"),
        (rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)", "bz2", "application/x-bzip2"),
        (rb"\xfd7zXZ\0", "xz", "application/x-xz"),
        (rb"\x28\xb5\x2f\xfd", "zst", "application/zstd"),
        (rb"7z\xbc\xaf\x27\x1c", "7z", "application/x-7z-compressed"),
        (rb".{257}ustar", "tar", "application/x-tar"),
        (rb"glTF[\x01\x02]\0\0\0", "glb", "model/gltf-binary"),
        (rb"\x93NUMPY", "npy", "application/octet-stream"),
    )
)


def sniff(head: bytes, *, whole: bool) -> FileType:
    """Name the type of a file that begins with `head`; `whole` says that nothing follows.

    Anything unknown, an empty file too, is `bin`. Hand in HEAD_BYTES, or all of a file that is shorter.
    """
    if head.startswith(b"%PDF-"):  # may be all ASCII
        return FileType("pdf", "application/pdf")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and _text(head, "utf-16", whole):
        return FileType("txt", "text/plain; charset=utf-16")
    text = _text(head, "utf-8", whole)
    return _binary(head) if text is None else _textual(text, whole)


def sniff_file(path: Path) -> FileType:
    """Name the type of a whole file. OSError."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return sniff(head, whole=len(head) < HEAD_BYTES)


def _text(head: bytes, encoding: str, whole: bool) -> str | None:
    """`head` as text, or None where it is none; a character cut off at the end is forgiven unless `whole`."""
    try:
        text = head.decode(encoding) if whole else codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None
    return None if not text or _NOT_TEXT.search(text) else text


def _binary(head: bytes) -> FileType:
    return next((found for pattern, found in _SIGNATURES if pattern.match(head)), UNKNOWN)


def _textual(text: str, whole: bool) -> FileType:
    if _is_json(text, whole):
        return _JSON
    text = text.removeprefix("\ufeff")
    prolog = _PROLOG.match(text)
    start = prolog.end() if prolog else 0
    for pattern, found in _MARKUP:
        if pattern.match(text, start):
            return found
    return _XML if text.startswith("<?xml") else _TEXT


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is JavaScript, not JSON")


#: numbers stay text: only whether they are well-formed matters, and Python refuses integers of 4,300 digits
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)


def _is_json(text: str, whole: bool) -> bool:
    """Whether `text` is a JSON document or, unless `whole`, the beginning of an object or array."""
    body = text.strip(" \t\r\n")
    if not whole and not body.startswith(("{", "[")):
        return False
    try:
        _, end = _DECODER.raw_decode(body)
    except json.JSONDecodeError as exc:
        return not whole and _is_cut(exc)
    except (ValueError, RecursionError):
        return False
    return end == len(body)


def _is_cut(exc: json.JSONDecodeError) -> bool:
    """Whether the only mistake is an early end: inside a string, or within one token of the end."""
    longest_token = len("\\uD83D\\uDE00")
    return exc.msg.startswith("Unterminated string") or exc.pos >= len(exc.doc) - longest_token
