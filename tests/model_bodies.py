"""What the model service of the tests answers: small real files, grown to any size."""

from __future__ import annotations

import io
import struct
import wave
import zlib
from collections.abc import Iterator

BLOCK = bytes(range(256)) * 256


def pieces(start: bytes, size: int) -> Iterator[bytes]:
    """`size` bytes that begin with `start`, in blocks; an empty body is one empty block."""
    yield start[:size]
    left = size - len(start)
    while left > 0:
        yield BLOCK[:left]
        left -= len(BLOCK)


def _wav() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    return out.getvalue()


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


KINDS: dict[str, tuple[bytes, str]] = {
    "json": (b"", "application/json"),
    "text": (b"the model's answer\n", "text/plain; charset=utf-8"),
    "wav": (_wav(), "audio/wav"),
    "png": (_png(), "image/png"),
}
