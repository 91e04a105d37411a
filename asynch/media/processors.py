"""The processors by name: what `executeMode` 3 of a pre-action may call."""

from __future__ import annotations

import json
from typing import Any

from asynch.media import Options, Piece, Processor, Product, audio, picture, video
from asynch.media.cover import Cover, cover
from asynch.media.picture import facts_of_picture
from asynch.media.probe import facts, probe


class Ask(Options):
    """media.probe asks for nothing."""


def ask(piece: Piece, _: Ask) -> Product:
    """What is in the file, as a JSON file; the same is told as facts."""
    found = facts(probe(piece)) if video.is_film(piece) else facts_of_picture(piece)
    told = {"content_type": piece.type.content_type, "ext": piece.type.ext, **found}
    path = piece.product("json")
    path.write_text(json.dumps(told), encoding="utf-8")
    return Product(path, "application/json", "json", told)


PROCESSORS: dict[str, Processor[Any]] = {
    "image.thumbnail": Processor(picture.Thumbnail, picture.thumbnail),
    "image.compress": Processor(picture.Compress, picture.compress),
    "image.watermark": Processor(picture.Watermark, picture.watermark),
    "video.cover": Processor(Cover, cover),
    "video.compress": Processor(video.Compress, video.compress),
    "video.transcode": Processor(video.Transcode, video.transcode),
    "audio.transcode": Processor(audio.Transcode, audio.transcode),
    "media.probe": Processor(Ask, ask),
}
