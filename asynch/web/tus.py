"""/api/file/tus: uploads in pieces by tus 1.0.0 and its extensions named below.

Source: https://tus.io/protocols/resumable-upload, version 1.0.0.
"""

from __future__ import annotations

import base64
import binascii
import re
from email.utils import formatdate

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import PreconditionFailed, UnsupportedMediaType

from asynch.domain.ids import number_of
from asynch.errors import InvalidInput, MalformedBody, Mistake
from asynch.service.resumable import Checksum, Standing
from asynch.web import parts
from asynch.web.auth import creator
from asynch.web.bodies import checked
from asynch.web.receiving import pieces, receiving
from asynch.web.uploads import Fields

bp = Blueprint("tus", __name__, url_prefix="/api/file/tus")

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,checksum,expiration,termination"
ALGORITHMS = ("sha1", "sha256", "sha512", "md5")
_PIECE = "application/offset+octet-stream"
_LENGTH = re.compile(r"[0-9]{1,18}")
_KEY = re.compile(r"[!-+\--~]+")  # printable ASCII without space and comma
_MAX_METADATA = 8192
#: What of the metadata is more than a note for its sender.
_TOLD = ("scene", "tags", "upload_id", "sha256")


@bp.before_request
def _check_version() -> None:
    if request.method != "OPTIONS" and request.headers.get("Tus-Resumable") != VERSION:
        raise PreconditionFailed(f"Tus-Resumable must be {VERSION}.")


@bp.after_request
def _tell_version(response: Response) -> Response:
    response.headers["Tus-Resumable"] = VERSION
    if response.status_code == PreconditionFailed.code:
        response.headers["Tus-Version"] = VERSION
    return response


@bp.route("", methods=["OPTIONS"], endpoint="tus_options")
@bp.route("/<id:upload_id>", methods=["OPTIONS"], endpoint="upload_options")
def options(upload_id: str = "") -> ResponseReturnValue:  # noqa: ARG001 - the same of every upload
    """What this server can do."""
    headers = {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(parts().settings.uploads.max_size),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }
    return "", 204, headers


@bp.post("")
def create_upload() -> ResponseReturnValue:
    """201 with where the pieces go; a first piece may come along."""
    length = _whole("Upload-Length")
    fields, name, metadata = _metadata()
    has_piece = request.mimetype == _PIECE
    standing = parts().resumable.begin(
        creator(), length, fields.told(name), sha256=(fields.sha256 or "").lower(), metadata=metadata
    )
    is_known = standing.expire_at is None
    if not is_known and (has_piece or length == 0):
        with receiving():
            standing = parts().resumable.append(creator(), standing.upload_id, 0, pieces(), _checksum())
    location = f"{parts().settings.public_url}{bp.url_prefix}/{standing.upload_id}"
    return "", 201, {"Location": location} | _told(standing)


@bp.route("/<id:upload_id>", methods=["HEAD"])
def head_upload(upload_id: str) -> ResponseReturnValue:
    """How many bytes are here; who sent them until now is over."""
    standing = parts().resumable.stand(creator(), number_of(upload_id))
    headers = {"Upload-Length": str(standing.length), "Cache-Control": "no-store"}
    if standing.metadata:
        headers["Upload-Metadata"] = standing.metadata
    return "", 200, headers | _told(standing)


@bp.patch("/<id:upload_id>")
def patch_upload(upload_id: str) -> ResponseReturnValue:
    """One more piece, at the offset that it names; what has come of a broken one stays."""
    if request.mimetype != _PIECE:
        raise UnsupportedMediaType(f"A piece must be {_PIECE}.")
    offset = _whole("Upload-Offset")
    with receiving():
        standing = parts().resumable.append(creator(), number_of(upload_id), offset, pieces(), _checksum())
    return "", 204, _told(standing)


@bp.delete("/<id:upload_id>")
def delete_upload(upload_id: str) -> ResponseReturnValue:
    """Give the upload up."""
    parts().resumable.give_up(creator(), number_of(upload_id))
    return "", 204


@bp.post("/<id:upload_id>")
def override_upload(upload_id: str) -> ResponseReturnValue:
    """For clients that cannot send PATCH or DELETE: X-HTTP-Method-Override names what they mean."""
    meant = {"PATCH": patch_upload, "DELETE": delete_upload}.get(
        request.headers.get("X-HTTP-Method-Override", "").upper()
    )
    if meant is None:
        raise InvalidInput([Mistake("#/X-HTTP-Method-Override", "PATCH or DELETE")])
    return meant(upload_id)


def _told(standing: Standing) -> dict[str, str]:
    headers = {"Upload-Offset": str(standing.offset)}
    if standing.expire_at is not None:
        headers["Upload-Expires"] = formatdate(standing.expire_at, usegmt=True)
    return headers


def _whole(header: str) -> int:
    """A header that must be a whole number. MalformedBody, as tus answers 400."""
    text = request.headers.get(header, "")
    if not _LENGTH.fullmatch(text):
        raise MalformedBody(f"{header} must be a whole number.", code="bad_header")
    return int(text)


def _metadata() -> tuple[Fields, str, str]:
    """What the sender tells of the file, its name, and all of it as it came. MalformedBody, InvalidInput."""
    text = request.headers.get("Upload-Metadata", "")
    if len(text) > _MAX_METADATA:
        raise MalformedBody(f"Upload-Metadata may have at most {_MAX_METADATA} characters.", code="bad_header")
    values: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, _, coded = pair.partition(" ")
        if not _KEY.fullmatch(key) or key in values:
            raise MalformedBody("Upload-Metadata must be keys, once each, with base64 values.", code="bad_header")
        values[key] = _decoded(coded)
    known = {key: values[key] for key in _TOLD if values.get(key)}
    return checked(Fields, known), values.get("filename") or values.get("name", ""), text


def _decoded(coded: str) -> str:
    try:
        return base64.b64decode(coded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise MalformedBody("Upload-Metadata must hold base64 of UTF-8.", code="bad_header") from exc


def _checksum() -> Checksum | None:
    """MalformedBody for an unknown algorithm, or what is no checksum."""
    text = request.headers.get("Upload-Checksum")
    if text is None:
        return None
    algorithm, _, coded = text.partition(" ")
    if algorithm not in ALGORITHMS:
        raise MalformedBody(f"Upload-Checksum must be one of {', '.join(ALGORITHMS)}.", code="bad_header")
    try:
        return Checksum(algorithm, base64.b64decode(coded, validate=True))
    except binascii.Error as exc:
        raise MalformedBody("Upload-Checksum must hold base64.", code="bad_header") from exc
