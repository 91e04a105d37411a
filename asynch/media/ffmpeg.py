"""ffmpeg: where it is, what it may open, one encoding with its true progress. No ffprobe is needed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from asynch.errors import ProcessorError
from asynch.media import Piece
from asynch.media.caged import Ran, failure, run_caged

#: Type by content to the demuxer that may read it, by all its names: whatever a file says of itself, no other one
#: is tried, nor for what lies within (a playlist in the subtitles of an AVI opens any file and address).
DEMUXERS = {
    **dict.fromkeys(("mp4", "mov", "m4a", "3gp"), "mov,mp4,m4a,3gp,3g2,mj2"),
    **dict.fromkeys(("mkv", "webm"), "matroska,webm"),
    **dict.fromkeys(("ogg", "opus", "ogv"), "ogg"),
    "avi": "avi",
    "flv": "flv",
    "ts": "mpegts",
    "mpg": "mpeg",
    "wmv": "asf",
    "mp3": "mp3",
    "aac": "aac",
    "wav": "wav",
    "flac": "flac",
    "aiff": "aiff",
    "amr": "amr",
    "gif": "gif",
}

#: What the processors encode with.
ENCODERS = ("libx264", "aac", "mjpeg", "libvpx-vp9", "libopus", "libmp3lame", "flac", "pcm_s16le")
THREADS = 2  #: of each decoder and encoder; more would need more than the default limit of memory for 4K
MAX_PIXELS = 64_000_000  #: of one frame: 8K has 33 million

#: nothing of the source but its picture and sound: no titles, places, chapters, names of programs
STRIPPED = ("-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact", "-sn", "-dn")

_MAX_WORDS = 200


def find_ffmpeg() -> Path | None:
    """The system's ffmpeg, else the one of the `imageio-ffmpeg` wheel, without importing that; None without both."""
    if system := shutil.which("ffmpeg"):
        return Path(system)
    spec = importlib.util.find_spec("imageio_ffmpeg")
    if spec is None or not spec.submodule_search_locations:
        return None
    programs = Path(spec.submodule_search_locations[0], "binaries").glob("ffmpeg-*")
    return next((path for path in programs if os.access(path, os.X_OK)), None)


def ffmpeg_version(path: Path) -> str:
    """What it calls itself, such as `7.1.2`; ProcessorError when it does not run."""
    version = re.match(r"ffmpeg version (\S+)", _asked(path, "-version"))
    if version is None:
        raise ProcessorError(f"{path} does not run: it does not tell its version")
    return version[1]


def missing_encoders(path: Path) -> list[str]:
    """Which of `ENCODERS` it was built without, as some distributions' are; ProcessorError when it does not run."""
    there = {line.split()[1] for line in _asked(path, "-encoders").splitlines() if len(line.split()) > 1}
    return [name for name in ENCODERS if name not in there]


def _asked(path: Path, what: str) -> str:
    try:
        asked = subprocess.run(  # noqa: S603 - a program of the installation
            [path, "-hide_banner", what], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ProcessorError(f"{path} does not run: {exc}") from exc
    if asked.returncode != 0:
        raise ProcessorError(f"{path} does not run: it ended with {asked.returncode}")
    return asked.stdout


def run_ffmpeg(
    piece: Piece,
    args: Sequence[str | Path],
    *,
    seek_s: float = 0.0,
    on_output: Callable[[bytes], None] | None = None,
) -> Ran:
    """Run ffmpeg on the source from `seek_s` on; `args` follow the input. Raises for every end but a good one."""
    ran = run_caged(_command(piece, args, seek_s), piece, on_output)
    if ran.code != 0:
        complaints = _complaints(ran.err)
        raise failure(ran, piece, "\n".join(complaints), _words(complaints, piece))
    return ran


def encode(piece: Piece, args: Sequence[str | Path], duration_s: float | None) -> None:
    """Run ffmpeg and tell its progress, from 5 to 95 % of the run, against `duration_s`.

    Where the length is not known, the progress stays at its beginning.
    """
    watch = _Watch(piece, duration_s)
    run_ffmpeg(piece, ["-progress", "pipe:1", *args], on_output=watch.hear)


class _Watch:
    """How far an encoding is, by what `-progress` says; the time goes back at times, the progress does not."""

    def __init__(self, piece: Piece, duration_s: float | None) -> None:
        self._piece = piece
        self._duration_s = duration_s
        self._percent = 5.0
        self._rest = b""
        piece.shop.progress(self._percent, "encoding")

    def hear(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            found = re.fullmatch(rb"out_time_us=([0-9]{1,18})\s*", line)
            if found and self._duration_s:
                percent = 5.0 + 90.0 * min(1.0, int(found[1]) / 1e6 / self._duration_s)
                if percent > self._percent:
                    self._percent = percent
                    self._piece.shop.progress(percent, "encoding")


def _command(piece: Piece, args: Sequence[str | Path], seek_s: float) -> list[str | Path]:
    program = find_ffmpeg()
    if program is None:
        raise ProcessorError("ffmpeg is not installed on this host", transient=True)
    demuxers = DEMUXERS.get(piece.type.ext)
    if demuxers is None:
        raise ProcessorError(f"neither film nor sound, but {piece.type.content_type}")
    command: list[str | Path] = [program, "-nostdin", "-hide_banner", "-nostats", "-v", "level+info", "-y"]
    command += ["-protocol_whitelist", "file,pipe", "-format_whitelist", demuxers, "-f", demuxers.partition(",")[0]]
    command += ["-threads", str(THREADS), "-max_pixels", str(MAX_PIXELS)]
    command += ["-ss", f"{seek_s:.3f}"] if seek_s else []
    return [*command, "-i", f"file:{piece.source}", *args]


def _complaints(err: str) -> list[str]:
    """What ffmpeg says of errors, without its addresses. Titles and names of a file stand in lines of level info."""
    lines = [line for line in err.split("\n") if not re.search(r"\[(?:info|warning)\]", line)]
    return [re.sub(r"^(?:\[[^\]]*\] *)+", "", line).strip() for line in lines]


def _words(complaints: Sequence[str], piece: Piece) -> str:
    """The first complaint, without our paths."""
    said = next((line for line in complaints if line), "ffmpeg gave no reason")
    for path in (piece.source, piece.shop.scratch):
        said = said.replace(f"file:{path}", "the file").replace(str(path), "the file")
    return f"the file cannot be processed: {said[:_MAX_WORDS]}"
