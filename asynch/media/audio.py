"""Sounds: the same in another format, out of a sound or a film."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from asynch.errors import ProcessorError
from asynch.media import Options, Piece, Product
from asynch.media.ffmpeg import STRIPPED, THREADS, encode
from asynch.media.probe import measure, probe
from asynch.media.video import Bitrate, downmix


@dataclass(frozen=True, slots=True)
class Target:
    """A format, its encoder, and whether that asks for a bit rate."""

    content_type: str
    muxer: tuple[str, ...]
    encoder: tuple[str, ...]
    lossy: bool = True


TARGETS = {
    "mp3": Target("audio/mpeg", ("-f", "mp3"), ("-c:a", "libmp3lame")),
    "m4a": Target("audio/mp4", ("-f", "ipod", "-movflags", "+faststart"), ("-c:a", "aac")),
    "ogg": Target("audio/ogg", ("-f", "ogg"), ("-c:a", "libopus")),
    "wav": Target("audio/wav", ("-f", "wav"), ("-c:a", "pcm_s16le"), lossy=False),
    "flac": Target("audio/flac", ("-f", "flac"), ("-c:a", "flac"), lossy=False),
}


class Transcode(Options):
    """audio.transcode: the first sound, in at most two channels."""

    format: Literal["mp3", "m4a", "ogg", "wav", "flac"] = Field("mp3", description="ogg holds Opus")
    bitrate: Bitrate = Field("128k", description="of mp3, m4a and ogg")


def transcode(piece: Piece, options: Transcode) -> Product:
    """The sound in another format."""
    found, target, path = probe(piece), TARGETS[options.format], piece.product(options.format)
    if found.sound is None:
        raise ProcessorError("there is no sound in it")
    rate = ["-b:a", options.bitrate] if target.lossy else []
    args: list[str | Path] = ["-map", "0:a:0", "-vn", *STRIPPED, "-threads", str(THREADS)]
    args += [*target.encoder, *rate, *downmix(found), *target.muxer, path]
    encode(piece, args, found.duration_s)
    made = measure(piece, path, options.format)
    found.check_whole(made)
    return Product(path, target.content_type, options.format, {"duration_s": made.duration_s, "kept": False})
