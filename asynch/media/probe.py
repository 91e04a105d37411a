"""What is in a film or sound: found by ffmpeg alone, which decodes the first frame of each to be sure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asynch.domain.filetype import FileType
from asynch.errors import ProcessorError
from asynch.media import Piece
from asynch.media.ffmpeg import run_ffmpeg

#: Shorter than the file says by more than this, and the rest of the file is missing: the greater of the two counts.
MISSING_S = 1.0
MISSING_PART = 0.05


@dataclass(frozen=True, slots=True)
class Picture:
    """The first moving picture, upright and with square pixels as a player shows it."""

    codec: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Sound:
    """The first sound."""

    codec: str
    sample_rate: int
    layout: str  #: `mono`, `stereo`, `5.1(side)` ...


@dataclass(frozen=True, slots=True)
class Probe:
    """What ffmpeg finds in a file."""

    duration_s: float | None  #: None where the file does not say
    guessed: bool  #: the duration is the size by the first bit rate, and may be far off
    picture: Picture | None
    sound: Sound | None
    art: tuple[int, int] | None  #: width and height of a still picture, such as an album's cover

    @property
    def box(self) -> tuple[int, int]:
        """Width and height of the picture, or of the still one; ProcessorError without either."""
        if self.picture:
            return self.picture.width, self.picture.height
        if self.art is None:
            raise ProcessorError("there is no picture in it")
        return self.art

    @property
    def stream(self) -> str:
        """The picture that `box` tells of, as ffmpeg names it."""
        return "V:0" if self.picture else "v:0"

    def check_whole(self, made: Probe) -> None:
        """ProcessorError when what was made of the whole ends well before the duration that the file told.

        ffmpeg takes an early end of most formats for the end. Formats that do not tell their duration in the
        beginning (Ogg, MPEG-TS, raw AAC, MP3 without a table, and WAV, whose size ffmpeg takes from the disk)
        cannot tell that something is missing. Single damaged frames are let pass.
        """
        if self.duration_s is None or self.guessed:
            return
        least_s = self.duration_s - max(MISSING_S, MISSING_PART * self.duration_s)
        if (made_s := made.duration_s or 0.0) < least_s:
            raise ProcessorError(f"the file is cut off: {made_s:.1f} s of {self.duration_s:.1f} s can be read")


def probe(piece: Piece) -> Probe:
    """Look at the source; ProcessorError when ffmpeg finds nothing there that it can decode.

    Read from the head of two `framecrc` files, a format made for comparing by programs: the streams as they are,
    and the first frames as decoded, turned upright. Only the duration is not told there.
    """
    streams, frames = piece.shop.scratch / "streams", piece.shop.scratch / "frames"
    as_they_are = ["-map", "0:V:0?", "-map", "0:a:0?", "-map", "0:v:0?", "-c", "copy", "-t", "0"]
    decoded = ["-map", "0:V:0?", "-map", "0:v:0?", "-map", "0:a:0?", "-frames:v", "1", "-frames:a", "1"]
    form = ["-f", "framecrc"]
    ran = run_ffmpeg(piece, [*as_they_are, *form, streams, *decoded, *form, frames])
    found, shown = _heads(streams.read_text()), _heads(frames.read_text())
    videos = [head for head in found if head["media_type"] == "video"]
    sounds = [_sound(head) for head in found if head["media_type"] == "audio"]
    boxes = [_box(head) for head in shown if head["media_type"] == "video"]
    moving = len(videos) > 1  # the first stream that is not a still one is mapped twice, a still one once
    return Probe(
        duration_s=_duration_s(ran.err),
        guessed="Estimating duration from bitrate" in ran.err,
        picture=Picture(videos[0]["codec_id"], *boxes[0]) if moving and boxes else None,
        sound=sounds[0] if sounds else None,
        art=boxes[0] if boxes and not moving else None,
    )


def measure(piece: Piece, path: Path, ext: str) -> Probe:
    """The same of what was made of it: the time that an encoder tells of is short by the frames it reorders."""
    return probe(replace(piece, source=path, type=FileType(ext, "")))


def _heads(text: str) -> list[Mapping[str, str]]:
    """The streams of a framecrc file, by their lines `#key n: value`."""
    streams: dict[int, dict[str, str]] = {}
    for key, number, value in re.findall(r"^#(\w+) ([0-9]{1,3}): *(.*)$", text, re.M):
        streams.setdefault(int(number), {})[key] = value
    return [streams[number] for number in sorted(streams) if "media_type" in streams[number]]


def _box(head: Mapping[str, str]) -> tuple[int, int]:
    """Width and height with square pixels; a ratio of 0 says that nobody knows."""
    width, height = map(int, head["dimensions"].split("x"))
    across, down = map(int, head.get("sar", "0/1").split("/"))
    return (max(1, round(width * across / down)) if across and down else width), height


def _sound(head: Mapping[str, str]) -> Sound:
    return Sound(head["codec_id"], int(head["sample_rate"]), head.get("channel_layout_name", "unknown"))


def _duration_s(err: str) -> float | None:
    """ffmpeg's own line has two spaces before it, what a file says of itself has more, and no line break."""
    found = re.search(r"^\[info\]   Duration: ([0-9]+):([0-9]{2}):([0-9]{2}\.[0-9]+), ", err, re.M)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def facts(found: Probe) -> dict[str, Any]:
    """As JSON."""
    picture, sound = found.picture, found.sound
    width, height = (picture.width, picture.height) if picture else found.art or (None, None)
    return {
        "width": width,
        "height": height,
        "duration_s": found.duration_s,
        "video_codec": picture.codec if picture else None,
        "audio_codec": sound.codec if sound else None,
        "sample_rate": sound.sample_rate if sound else None,
        "channels": sound.layout if sound else None,
    }
