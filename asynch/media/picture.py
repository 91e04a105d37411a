"""Pictures: smaller ones, lighter ones, marked ones. Pillow works in the cage (`brush.py`), never here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from asynch.errors import ProcessorError
from asynch.media import Options, Piece, Product
from asynch.media.caged import failure, run_caged

#: Type by content to the only Pillow format that may read it. HEIC needs a library that Pillow does not bring.
FORMATS = {
    "jpg": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "webp": "WEBP",
    "bmp": "BMP",
    "tiff": "TIFF",
    "avif": "AVIF",
}

Form = Literal["jpeg", "png", "webp"]

#: Format to the extension and type of a product.
MADE: dict[Form, tuple[str, str]] = {
    "jpeg": ("jpg", "image/jpeg"),
    "png": ("png", "image/png"),
    "webp": ("webp", "image/webp"),
}

#: What `same` means; any other becomes a PNG, which holds all of it.
SAME: dict[str, Form] = {"jpg": "jpeg", "webp": "webp", "avif": "webp"}

PLACES = {
    "top-left": (0.0, 0.0),
    "top-right": (1.0, 0.0),
    "center": (0.5, 0.5),
    "bottom-left": (0.0, 1.0),
    "bottom-right": (1.0, 1.0),
}

_BRUSH = Path(__file__).with_name("brush.py")


def _visible(text: str) -> str:
    if not text.isprintable() or text.isspace():
        raise ValueError("expected one line of visible text")
    return text


Line = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_visible)]
Side = Annotated[int, Field(ge=16, le=8192)]
Quality = Annotated[int, Field(ge=1, le=95)]


class Thumbnail(Options):
    """image.thumbnail: the first frame, small."""

    width: Side = Field(320, description="the picture fits inside, and is never made larger")
    height: Side = Field(320, description="the picture fits inside, and is never made larger")
    format: Form = Field("jpeg", description="jpeg puts what is transparent on white")
    quality: Quality = Field(82, description="of jpeg and webp")


class Compress(Options):
    """image.compress: the picture anew; an animation stays as it is."""

    max_width: Side = Field(4096, description="a larger picture is made smaller")
    max_height: Side = Field(4096, description="a larger picture is made smaller")
    format: Literal["same"] | Form = Field(
        "same", description="same: that of the source where it can be made, else png"
    )
    quality: Quality = Field(80, description="of jpeg and webp")
    keep: Literal["smaller", "always"] = Field(
        "smaller", description="smaller: the source as it is, metadata too, where that is no larger"
    )


class Watermark(Options):
    """image.watermark: the picture with a line of text; an animation is refused."""

    text: Line = Field("asynch", description="one line; what the built-in font cannot draw is refused")
    position: Literal["top-left", "top-right", "center", "bottom-left", "bottom-right"] = Field(
        "bottom-right", description="where the text stands"
    )
    opacity: Annotated[float, Field(ge=0.05, le=1)] = Field(0.5, description="1: nothing shines through")
    size: Annotated[float, Field(ge=0.01, le=0.5)] = Field(0.06, description="height of the text, by the shorter side")
    quality: Quality = Field(90, description="of jpeg and webp")


def thumbnail(piece: Piece, options: Thumbnail) -> Product:
    """The first frame inside the box."""
    return _make(piece, "thumbnail", options.format, box=[options.width, options.height], quality=options.quality)


def compress(piece: Piece, options: Compress) -> Product:
    """The picture, lighter; the source itself where it is animated, or no larger and `keep` is `smaller`."""
    form = SAME.get(piece.type.ext, "png") if options.format == "same" else options.format
    box = [options.max_width, options.max_height]
    made = _make(piece, "compress", form, box=box, quality=options.quality)
    if made.facts["animated"]:
        return piece.keep(**made.facts)
    if options.keep == "smaller" and made.path.stat().st_size >= piece.source.stat().st_size:
        made.path.unlink()
        return piece.keep(animated=False)
    return made


def watermark(piece: Piece, options: Watermark) -> Product:
    """The picture with its text, in its own format."""
    form = SAME.get(piece.type.ext, "png")
    told = options.model_dump(include={"text", "opacity", "size", "quality"})
    return _make(piece, "watermark", form, place=PLACES[options.position], **told)


def cover_of_picture(piece: Piece, width: int, height: int) -> Product:
    """A frame of an animation that shows something, as JPEG; of any other picture, that."""
    return _make(piece, "cover", "jpeg", box=[width, height], quality=85)


def facts_of_picture(piece: Piece) -> dict[str, Any]:
    """Width and height upright, and whether it moves."""
    return _draw(piece, "look")


def _make(piece: Piece, act: str, form: Form, **told: Any) -> Product:
    ext, content_type = MADE[form]
    target = piece.product(ext)
    found = _draw(piece, act, target=str(target), format=form.upper(), **told)
    return Product(target, content_type, ext, {"kept": False, **found})


def _draw(piece: Piece, act: str, **told: Any) -> dict[str, Any]:
    """Let Pillow do one act in its cage; the facts."""
    kind = FORMATS.get(piece.type.ext)
    if kind is None:
        raise ProcessorError(f"{piece.type.content_type} is no picture that can be read here")
    piece.shop.progress(5.0, "drawing")
    order = {"act": act, "source": str(piece.source), "formats": [kind], **told}
    ran = run_caged([sys.executable, "-I", "-B", _BRUSH, json.dumps(order)], piece)
    if ran.code != 0:
        said = ran.err.strip().rpartition("\n")[2]  # of a traceback
        raise failure(ran, piece, said, _words(said))
    answer: dict[str, Any] = json.loads(ran.out)
    if "error" in answer:
        raise ProcessorError(answer["error"])
    return answer


def _words(said: str) -> str:
    """Without the error's class, and without our paths."""
    words = said.partition(": ")[2] or "Pillow gave no reason"
    return f"the picture cannot be read: {words[:120]}" if "/" not in words else "the picture cannot be read"
