"""/files: the local store's objects behind signed links; nothing is ever shown inside this site."""

from __future__ import annotations

from flask import Blueprint, Response, request, send_file
from flask.typing import ResponseReturnValue

from asynch.errors import NotFound
from asynch.storage.local import LocalStorage
from asynch.web import parts
from asynch.web.receiving import pieces, receiving

bp = Blueprint("files", __name__)


@bp.get("/files/<path:key>")
def get_file(key: str) -> ResponseReturnValue:
    """The object a signed link stands for, whole or in ranges; 403 for a link that is altered or too old."""
    storage = parts().storage
    if not isinstance(storage, LocalStorage):
        raise NotFound("Files are not served here.")
    served = storage.verify(key, request.args)
    try:
        response = send_file(
            served.path,
            mimetype=served.content_type or "application/octet-stream",
            as_attachment=True,
            download_name=served.filename or key.rpartition("/")[2],
            conditional=True,
        )
    except FileNotFoundError as exc:  # deleted in this very moment
        raise NotFound("The file is not there any more.") from exc
    if served.content_type:
        response.content_type = served.content_type  # as the model said it: the framework would add a charset
    return _harmless(response)


@bp.put("/files/<path:key>")
def put_file(key: str) -> ResponseReturnValue:
    """Take the object that a signed link invites; 403 for a link that is altered or too old."""
    storage = parts().storage
    if not isinstance(storage, LocalStorage):
        raise NotFound("Files are not taken here.")
    with receiving():
        storage.accept(key, request.args, pieces())
    return "", 204


def _harmless(response: Response) -> Response:
    """What a model made may be a page with scripts: no browser shall run it under this origin."""
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "private, no-cache"
    return response
