"""video.cover: one frame that shows what a film is, as JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Annotated

from pydantic import Field

from asynch.errors import ProcessorError
from asynch.media import Options, Piece, Product
from asynch.media.ffmpeg import STRIPPED, run_ffmpeg
from asynch.media.picture import cover_of_picture
from asynch.media.probe import Probe, probe
from asynch.media.video import fit, is_film

#: Where to look, as parts of the duration, until a frame shows something: titles and fades are at the ends.
PLACES = (0.1, 0.35, 0.6, 0.85, 0.0)
UNMEASURED_S = [1.0, 5.0, 0.0]  #: the same in seconds, where the file does not tell its duration
WINDOW = 50  #: frames of which the most usual one is taken: two seconds
BACK_S = (0.0, 0.2, 2.0)  #: how far before a time a frame is looked for
DARK, FLAT = 24.0, 6.0  #: below this mean or deviation, of 0-255, a frame shows nothing

_SAMPLE = 32

Side = Annotated[int, Field(ge=16, le=2560)]


class Cover(Options):
    """video.cover."""

    at: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = Field(
        None, description="seconds from the beginning; null: a frame that shows something; a picture has no time"
    )
    width: Side = Field(1280, description="the picture fits inside, and is never made larger")
    height: Side = Field(1280, description="the picture fits inside, and is never made larger")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it would be the cover."""

    path: Path
    at_s: float
    mean: float
    deviation: float

    @property
    def shows_something(self) -> bool:
        return self.mean >= DARK and self.deviation >= FLAT


def cover(piece: Piece, options: Cover) -> Product:
    """A frame of a film, an album's cover out of a sound, or a frame of an animation."""
    if not is_film(piece):
        return cover_of_picture(piece, options.width, options.height)
    found = probe(piece)
    size = fit(found.box, (options.width, options.height))
    frame = _chosen(piece, found, size) if options.at is None else _at(piece, found, size, options.at)
    path = frame.path.replace(piece.product("jpg"))
    told = {"width": size[0], "height": size[1], "at_s": round(frame.at_s, 3), "duration_s": found.duration_s}
    return Product(path, "image/jpeg", "jpg", told)


def _chosen(piece: Piece, found: Probe, size: tuple[int, int]) -> Frame:
    """The first frame that shows something, else the one that shows most."""
    best: Frame | None = None
    places = _places_s(found)
    for done, at_s in enumerate(places):
        piece.shop.progress(5.0 + 90.0 * done / len(places), "looking")
        frame = _frame(piece, found, size, at_s, WINDOW)
        if frame and (best is None or frame.deviation > best.deviation):
            best = frame
        if best and best.shows_something:
            break
    if best is None:
        raise ProcessorError("no frame of it can be decoded")
    return best


def _places_s(found: Probe) -> list[float]:
    if found.picture is None:
        return [0.0]
    return [part * found.duration_s for part in PLACES] if found.duration_s else UNMEASURED_S


def _at(piece: Piece, found: Probe, size: tuple[int, int], at_s: float) -> Frame:
    """The frame that is shown at `at_s`, or the last before, where the picture ends earlier than the sound."""
    if found.duration_s is None or at_s < found.duration_s:
        for back_s in BACK_S:
            if frame := _frame(piece, found, size, max(0.0, at_s - back_s), 1):
                return frame
        raise ProcessorError(f"no frame can be decoded at {at_s:g} s")
    raise ProcessorError(f"{at_s:g} s is beyond the end ({found.duration_s:g} s)")


def _frame(piece: Piece, found: Probe, size: tuple[int, int], at_s: float, window: int) -> Frame | None:
    """The most usual of some frames as JPEG, and a small grey one to judge it by; None where none is left."""
    path, grey = piece.shop.scratch / f"frame-{at_s:.3f}.jpg", piece.shop.scratch / "grey"
    grey.unlink(missing_ok=True)
    # made small first: the filter holds the whole window in memory
    scale = f"scale={size[0]}:{size[1]}:out_range=pc,setsar=1,format=yuvj420p"
    choose = f",thumbnail={window}" if window > 1 else ""
    graph = f"[0:{found.stream}]{scale}{choose},split[cover][b];[b]scale={_SAMPLE}:{_SAMPLE},format=gray[grey]"
    as_jpeg: list[str | Path] = ["-map", "[cover]", "-frames:v", "1", "-c:v", "mjpeg", "-q:v", "3", *STRIPPED]
    as_grey: list[str | Path] = ["-map", "[grey]", "-frames:v", "1", "-c:v", "rawvideo", "-f", "rawvideo"]
    as_jpeg += ["-f", "image2", "-update", "1", path]
    run_ffmpeg(piece, ["-filter_complex", graph, *as_jpeg, *as_grey, grey], seek_s=at_s)
    light = grey.read_bytes() if grey.exists() else b""
    if not light or not path.exists():
        return None
    return Frame(path, at_s, fmean(light), pstdev(light))
