"""/openapi.json and /docs: what this service takes and answers, for programs and for people; needs no network."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import orjson
from flask import Blueprint, Flask, Response, current_app, request
from flask.typing import ResponseReturnValue

from asynch.web import parts

bp = Blueprint("docs", __name__, template_folder="openapi/templates")

_KEPT = "asynch.openapi"
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Written:
    text: bytes
    page: str


@bp.get("/openapi.json")
def openapi() -> ResponseReturnValue:
    """This description, as OpenAPI 3.1."""
    response = Response(_written().text, content_type="application/json")
    response.add_etag()
    response.headers["Cache-Control"] = "no-cache"
    return response.make_conditional(request)


@bp.get("/docs")
def page() -> ResponseReturnValue:
    """This description, as a page."""
    response = Response(_written().page)
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return response


def _written() -> _Written:
    """Made once: it is the same for the life of the process, and anybody may ask for it.

    What makes it is brought then: a process that nobody asks starts sooner without.
    """
    from asynch.web.openapi.document import build
    from asynch.web.openapi.page import render

    app: Flask = current_app
    with _lock:
        if _KEPT not in app.extensions:
            document = build(app, parts().settings)
            app.extensions[_KEPT] = _Written(orjson.dumps(document), render(document))
        written: _Written = app.extensions[_KEPT]
        return written
