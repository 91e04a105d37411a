"""Films: a picture of one, a smaller one, one in another container."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from asynch.errors import ProcessorError
from asynch.media import Options, Piece, Product
from asynch.media.ffmpeg import DEMUXERS, STRIPPED, THREADS, encode
from asynch.media.picture import FORMATS
from asynch.media.probe import Probe, measure, probe

Side = Annotated[int, Field(ge=16, le=7680)]
Bitrate = Annotated[str, Field(pattern=r"^(?:[3-9][0-9]|[12][0-9]{2}|3[01][0-9]|320)k$")]
Keep = Literal["smaller", "always"]


@dataclass(frozen=True, slots=True)
class Target:
    """A container and what goes into it."""

    content_type: str
    muxer: tuple[str, ...]
    video: tuple[str, ...]
    audio: tuple[str, ...]


_H264 = ("-c:v", "libx264", "-preset", "veryfast")
_VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-row-mt", "1", "-b:v", "0")
_FASTSTART = ("-movflags", "+faststart")

TARGETS = {
    "mp4": Target("video/mp4", ("-f", "mp4", *_FASTSTART), _H264, ("-c:a", "aac")),
    "mkv": Target("video/x-matroska", ("-f", "matroska"), _H264, ("-c:a", "aac")),
    "webm": Target("video/webm", ("-f", "webm"), _VP9, ("-c:a", "libopus")),
}


class Compress(Options):
    """video.compress: H.264 and AAC in an MP4 that plays while it loads."""

    crf: Annotated[int, Field(ge=0, le=51)] = Field(23, description="quality: less is better and larger")
    audio_bitrate: Bitrate = Field("128k", description="of the sound")
    max_width: Side = Field(1920, description="a larger picture is made smaller")
    max_height: Side = Field(1920, description="a larger picture is made smaller")
    keep: Keep = Field("smaller", description="smaller: the source as it is, metadata too, where that is no larger")


class Transcode(Options):
    """video.transcode: another container, with the codecs that belong there."""

    format: Literal["mp4", "mkv", "webm"] = Field("mp4", description="the container")
    crf: Annotated[int, Field(ge=0, le=51)] = Field(28, description="quality: less is better and larger")
    audio_bitrate: Bitrate = Field("128k", description="of the sound")
    max_width: Side = Field(1920, description="a larger picture is made smaller")
    max_height: Side = Field(1920, description="a larger picture is made smaller")


def compress(piece: Piece, options: Compress) -> Product:
    """The film, smaller; the source itself where that is not larger and `keep` is `smaller`."""
    made = _film(piece, "mp4", options)
    if options.keep == "smaller" and made.path.stat().st_size >= piece.source.stat().st_size:
        made.path.unlink()
        return piece.keep(duration_s=made.facts["duration_s"])
    return made


def transcode(piece: Piece, options: Transcode) -> Product:
    """The film in another container."""
    return _film(piece, options.format, options)


def _film(piece: Piece, ext: str, options: Compress | Transcode) -> Product:
    found, target, path = probe(piece), TARGETS[ext], piece.product(ext)
    if found.picture is None:
        raise ProcessorError("there is no moving picture in it")
    width, height = fit(found.box, (options.max_width, options.max_height), even=True)
    args: list[str | Path] = ["-map", "0:V:0", "-map", "0:a:0?", *STRIPPED, "-threads", str(THREADS)]
    args += [*target.video, "-crf", str(options.crf), "-vf", f"scale={width}:{height},setsar=1,format=yuv420p"]
    args += [*target.audio, "-b:a", options.audio_bitrate, *downmix(found), *target.muxer, path]
    encode(piece, args, found.duration_s)
    made = measure(piece, path, ext)
    found.check_whole(made)
    told = {"width": width, "height": height, "duration_s": made.duration_s, "kept": False}
    return Product(path, target.content_type, ext, told)


def downmix(found: Probe) -> list[str]:
    """Two channels at most: more are for rooms, and not every encoder takes every layout."""
    return [] if found.sound and found.sound.layout in ("mono", "stereo") else ["-ac", "2"]


def fit(box: tuple[int, int], into: tuple[int, int], *, even: bool = False) -> tuple[int, int]:
    """The largest of the same shape that fits, never larger than `box`; `even` for 4:2:0, which has no odd sides."""
    scale = min(1.0, into[0] / box[0], into[1] / box[1])
    width, height = (max(1, round(side * scale)) for side in box)
    return (max(2, width - width % 2), max(2, height - height % 2)) if even else (width, height)


def is_film(piece: Piece) -> bool:
    """Whether ffmpeg alone can read it: an animation is a picture, though a film may be made of it."""
    return piece.type.ext in DEMUXERS and piece.type.ext not in FORMATS
