"""/upload: a page for people who send files; it holds no secret, and does no more than /api/file lets its caller."""

from __future__ import annotations

from importlib.resources import files

from flask import Blueprint, Response, render_template, request
from flask.typing import ResponseReturnValue

from asynch.errors import NotFound
from asynch.web import parts

bp = Blueprint("upload_page", __name__, template_folder="templates", url_prefix="/upload")

#: Not the operating system's opinion, which may be that a script is text.
_TYPES = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
_ASSETS = {
    item.name: (item.read_bytes(), _TYPES[item.name.rpartition(".")[2]])
    for item in files("asynch.web").joinpath("assets").iterdir()
    if item.name.rpartition(".")[2] in _TYPES
}
#: What people call the usual types.
_WORDS = {
    "image/*": "pictures",
    "video/*": "videos",
    "audio/*": "sound",
    "application/pdf": "PDF",
    "text/plain": "plain text",
}
#: Modes in which the page itself must bring proof; a gateway has its own ways.
_ASKING = ("apikey", "jwt")
#: Covers and pictures may lie in a store elsewhere; everything else comes from here, and text never becomes code.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' https: http:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)


@bp.get("")
def upload_page() -> ResponseReturnValue:
    """A page for sending files and seeing what becomes of them."""
    settings = parts().settings
    text = render_template(
        "upload.html",
        asks=settings.auth.mode in _ASKING,
        max_size=settings.uploads.max_size,
        types=[_WORDS.get(kind, kind) for kind in settings.uploads.types],
    )
    response = Response(text)
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Referrer-Policy"] = "same-origin"
    return response


@bp.get("/assets/<string:name>")
def asset(name: str) -> ResponseReturnValue:
    """A script, style or picture of that page."""
    if name not in _ASSETS:
        raise NotFound("The page has no such file.")
    data, content_type = _ASSETS[name]
    response = Response(data, content_type=content_type)
    response.add_etag()  # by content: files of a wheel all have the same time
    response.headers["Cache-Control"] = "no-cache"
    return response.make_conditional(request)
