"""Pillow at work on one picture. Run as a script in the cage, never imported: the standard library and Pillow alone.

The order is one JSON argument: `act`, `source`, `target`, `formats` and what the act needs; the answer is one JSON
line, the facts or `{"error": ...}`. Anything else is a failure of Pillow's, in its own words on stderr.
"""

from __future__ import annotations

import json
import struct
import sys
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageStat, features

MAX_PIXELS = 120_000_000  #: a camera of 108 million; three bytes each, twice in memory
FRAMES = 30  #: of an animation, looked at for one that shows something
FLAT = 6.0
SWAPPED = (5, 6, 7, 8)  #: orientations that lie on their side (Exif 2.3, tag 274)
ORIENTATION = 274
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: What each format is saved with; the colour profile comes to it.
SAVED: dict[str, dict[str, Any]] = {
    "JPEG": {"optimize": True, "progressive": True},
    "PNG": {},  # its `optimize` takes three times as long for one percent
    "WEBP": {"method": 4},
}


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Unfit(Exception):
    """The picture, or what is asked of it, is at fault; the text is for its owner."""


def opened(order: dict[str, Any]) -> Image.Image:
    """The picture, of one of the formats that its content showed and no other."""
    return Image.open(order["source"], formats=order["formats"])


def moves(image: Image.Image) -> bool:
    """Whether it has several frames or pages; a photo with a second one for depth (MPO) is still a photo."""
    return image.format != "MPO" and getattr(image, "is_animated", False)


def turned(image: Image.Image) -> int:
    """Its orientation; 1 where that cannot be read, as a photo is worth more than its metadata."""
    if image.format == "PNG":
        image.load()  # there it may stand behind the pixels, whose errors are not to be taken for its own
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except (OSError, SyntaxError, TypeError, ValueError, struct.error):
        return 1


def shown(image: Image.Image, box: tuple[int, int] | None, *, alpha: bool) -> Image.Image:
    """Upright, of plain pixels, and inside `box`; never larger than it was."""
    way = turned(image)
    if image.format not in ("JPEG", "MPO"):  # those are read small, the others have pixels that cannot be scaled
        image = plain(image, alpha=alpha)
    if box:
        image.thumbnail(box[::-1] if way in SWAPPED else box, Image.Resampling.LANCZOS, reducing_gap=3.0)
    image = plain(image, alpha=alpha)
    return image.transpose(UPRIGHT[way]) if way in UPRIGHT else image


def plain(image: Image.Image, *, alpha: bool) -> Image.Image:
    """L, RGB, or RGBA where it is transparent and may stay so; 16 bits become 8, CMYK is converted by its profile."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        if image.mode != "F":
            image = image.point(lambda value: value / 256)
        return _without_profile(image.convert("L"))
    if image.has_transparency_data:
        # a profile of grey does not fit what has colours
        image = _without_profile(image.convert("RGBA")) if image.mode == "LA" else image.convert("RGBA")
        return image if alpha else _on_white(image)
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in ("P", "PA", "RGBX", "RGBA"):
        return image.convert("RGB")
    return image.convert("L") if image.mode in ("1", "LA") else _from_profile(image)


def _on_white(image: Image.Image) -> Image.Image:
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    ground.info = {key: value for key, value in image.info.items() if key == "icc_profile"}
    return ground


def _without_profile(image: Image.Image) -> Image.Image:
    image.info.pop("icc_profile", None)
    return image


def _from_profile(image: Image.Image) -> Image.Image:
    """RGB by the picture's own profile; without one, or with a broken one, by the plain formula."""
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(image.info["icc_profile"]))
        done = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        if done is not None:
            return _without_profile(done)
    except (ImageCms.PyCMSError, KeyError, OSError, ValueError):
        pass
    return _without_profile(image.convert("RGB"))


def save(image: Image.Image, order: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Write the pixels and the colour profile, nothing else; the facts."""
    form = order["format"]
    bare = image.copy()
    bare.info = {}
    profile = image.info.get("icc_profile")
    quality = {} if form == "PNG" else {"quality": order["quality"]}
    made = BytesIO()  # Pillow's own write takes a part for the whole, as on a disk that fills up
    bare.save(made, form, icc_profile=profile, **SAVED[form], **quality)
    Path(order["target"]).write_bytes(made.getbuffer())
    return {"width": image.width, "height": image.height, **more}


def look(order: dict[str, Any]) -> dict[str, Any]:
    """The facts alone: of most formats no pixel is decoded for them."""
    with opened(order) as image:
        sides = image.size[::-1] if turned(image) in SWAPPED else image.size
        return {"width": sides[0], "height": sides[1], "animated": moves(image)}


def thumbnail(order: dict[str, Any]) -> dict[str, Any]:
    """The first frame, small."""
    with opened(order) as image:
        return save(shown(image, tuple(order["box"]), alpha=order["format"] != "JPEG"), order)


def cover(order: dict[str, Any]) -> dict[str, Any]:
    """The first frame that shows something, else the first."""
    with opened(order) as image:
        frames = range(min(FRAMES, getattr(image, "n_frames", 1)))
        chosen = next((number for number in frames if _shows_something(image, number)), 0) if moves(image) else 0
        image.seek(chosen)
        return save(shown(image, tuple(order["box"]), alpha=False), order, frame=chosen)


def _shows_something(image: Image.Image, number: int) -> bool:
    image.seek(number)
    return ImageStat.Stat(image.convert("L")).stddev[0] >= FLAT


def compress(order: dict[str, Any]) -> dict[str, Any]:
    """The picture anew, and inside a box; of an animation only the facts: it stays as it is."""
    with opened(order) as image:
        if moves(image):
            return {"width": image.width, "height": image.height, "animated": True}
        return save(shown(image, tuple(order["box"]), alpha=order["format"] != "JPEG"), order, animated=False)


def watermark(order: dict[str, Any]) -> dict[str, Any]:
    """The picture with a line of text."""
    with opened(order) as image:
        if moves(image):
            raise Unfit("an animation gets no watermark")
        ground = shown(image, None, alpha=order["format"] != "JPEG")
        _write(ground, order)
        return save(ground, order)


def _write(ground: Image.Image, order: dict[str, Any]) -> None:
    """Put the text on it: white with a dark edge, so that it is seen on any picture; the rest is not touched."""
    text, opacity, side = order["text"], round(255 * order["opacity"]), min(ground.size)
    font = ImageFont.load_default(max(8, round(side * order["size"])))
    _check_glyphs(text, font)
    edge, margin = max(1, round(side / 400)), round(side * 0.02)
    left, top, right, bottom = map(round, _measure(text, font, edge))
    layer = Image.new("RGBA", (right - left, bottom - top), (0, 0, 0, 0))
    draw, white, black = ImageDraw.Draw(layer), (255, 255, 255, opacity), (0, 0, 0, opacity)
    draw.text((-left, -top), text, white, font, stroke_width=edge, stroke_fill=black)
    # the place is 0, 0.5 or 1 of what is free beside the text
    free = [whole - part - 2 * margin for whole, part in zip(ground.size, layer.size, strict=True)]
    x, y = (margin + round(part * room) for part, room in zip(order["place"], free, strict=True))
    below = ground.crop((x, y, x + layer.width, y + layer.height))
    ground.paste(Image.alpha_composite(below.convert("RGBA"), layer).convert(ground.mode), (x, y))


def _measure(text: str, font: Font, edge: int) -> tuple[float, float, float, float]:
    return ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=font, stroke_width=edge)


def _check_glyphs(text: str, font: Font) -> None:
    """Refuse what the built-in font would draw as boxes."""
    box = bytes(font.getmask("\uffff"))
    for letter in text:
        if not letter.isspace() and bytes(font.getmask(letter)) == box:
            raise Unfit(f"the built-in font has no {letter!r}")


ACTS = {"look": look, "thumbnail": thumbnail, "cover": cover, "compress": compress, "watermark": watermark}


def main() -> None:
    """One order, one answer."""
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    order = json.loads(sys.argv[1])
    try:
        if order["act"] == "watermark" and not features.check("freetype2"):
            raise Unfit("this host's Pillow has no FreeType")
        answer = ACTS[order["act"]](order)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        answer = {"error": f"it has more than {MAX_PIXELS // 1_000_000} million pixels"}
    except Unfit as exc:
        answer = {"error": str(exc)}
    print(json.dumps(answer))  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
