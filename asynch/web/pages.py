"""Keeps web pages out where nobody must prove who they are: a browser on this machine runs any page's requests."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from flask import request
from werkzeug.exceptions import UnsupportedMediaType

from asynch.errors import Forbidden
from asynch.shapes import is_loopback

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/]+)(?::[0-9]+)?")
#: what a form of any page can send without being asked first (WHATWG Fetch: CORS-safelisted)
_OF_FORMS = frozenset({"application/x-www-form-urlencoded", "text/plain", "multipart/form-data"})
#: where clients send files as forms do; browsers name the origin of every form
_FORMS_MAY = "/api/file/"


def refuse_web_pages(allowed: frozenset[str]) -> None:
    """A page in a browser on this machine may reach us, also under a name of its own (DNS rebinding)."""
    host = _HOST.fullmatch(request.headers.get("Host", ""))
    if host is None or not is_loopback(host[1].strip("[]")):
        raise Forbidden("Without authentication only requests to a loopback host are served.", code="host_not_allowed")
    origin = request.headers.get("Origin")
    if origin in allowed:
        return
    if origin is not None and origin.partition("://")[2] != host[0]:
        raise Forbidden("Requests from another origin are not served.", code="origin_not_allowed")
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Forbidden("Requests from another site are not served.", code="origin_not_allowed")
    if origin is None and "Sec-Fetch-Site" not in request.headers and _refers_elsewhere(host[0]):
        raise Forbidden("Requests from another site are not served.", code="origin_not_allowed")
    if request.mimetype in _OF_FORMS and not request.path.startswith(_FORMS_MAY):
        raise UnsupportedMediaType("The body must be application/json.")


def _refers_elsewhere(host: str) -> bool:
    """Whether a browser too old to name the site says that another page led here."""
    referer = request.headers.get("Referer")
    try:
        return bool(referer) and urlsplit(referer).netloc != host
    except ValueError:
        return True
