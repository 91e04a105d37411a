"""Errors as HTTP tells them: one table from class to status, RFC 9457 documents; shows nothing of the inside."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from asynch.errors import (
    ChecksumMismatch,
    Conflict,
    DatabaseDown,
    Forbidden,
    Gone,
    InvalidInput,
    IssuerDown,
    MalformedBody,
    NotFound,
    Overloaded,
    QueueFull,
    Refused,
    StorageError,
    TmpUnavailable,
    TooLarge,
    TooOften,
    Unauthenticated,
    Unsupported,
)

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
#: Below it the text is told as `error` too, where the clients of files look for it.
FILES = "/api/file/"


@dataclass(frozen=True, slots=True)
class Kind:
    """What all errors of one class have in common."""

    status: int
    title: str
    headers: Mapping[str, str] = field(default_factory=dict)


TABLE: Mapping[type[Exception], Kind] = {
    MalformedBody: Kind(400, "The body cannot be read"),
    Unauthenticated: Kind(401, "Authentication is needed", {"WWW-Authenticate": 'Bearer realm="asynch"'}),
    Forbidden: Kind(403, "Not allowed"),
    NotFound: Kind(404, "Not found"),
    Conflict: Kind(409, "In conflict with the present state"),
    Gone: Kind(410, "No longer there"),
    TooLarge: Kind(413, "The body is too large"),
    Unsupported: Kind(415, "Not a type that is taken"),
    InvalidInput: Kind(422, "The input is not valid"),
    ChecksumMismatch: Kind(460, "Checksum mismatch"),  # tus 1.0.0, checksum
    QueueFull: Kind(429, "Too much at once", {"Retry-After": "5"}),
    TooOften: Kind(429, "Too often"),
    Overloaded: Kind(503, "Too much at once here", {"Retry-After": "5"}),
    DatabaseDown: Kind(503, "The database does not answer", {"Retry-After": "2"}),
    StorageError: Kind(503, "The storage does not answer", {"Retry-After": "5"}),
    TmpUnavailable: Kind(507, "No room for the file", {"Retry-After": "30"}),
    IssuerDown: Kind(503, "The issuer of tokens does not answer", {"Retry-After": "5"}),
}

#: the codes of errors that are nobody's refusal
_SERVICE_CODES = {
    DatabaseDown: "database_down",
    StorageError: "storage_error",
    TmpUnavailable: "no_room",
    IssuerDown: "issuer_down",
}

#: the framework's errors whose code clients meet elsewhere under another name than the status phrase
_CODES = {
    400: "malformed_body",
    413: "body_too_large",
    416: "requested_range_not_satisfiable",  # later versions of Python call it otherwise
    500: "internal",
}


def register(app: Flask) -> None:
    """Let every error of `app`, the framework's too, end as a problem document."""
    for kind in TABLE:
        app.register_error_handler(kind, _expected)
    app.register_error_handler(HTTPException, _from_framework)
    app.register_error_handler(Exception, _unexpected)


def kind_of(exc: Exception) -> Kind:
    """The row of `exc`: its own class's, else the nearest base's. LookupError for one that is not in the table."""
    for base in type(exc).__mro__:
        if base in TABLE:
            return TABLE[base]
    raise LookupError(type(exc).__name__)


def as_document(exc: Exception) -> dict[str, Any]:
    """The problem document of an expected error, as an answer's body or as one item's `error` in a list."""
    kind = kind_of(exc)
    if not isinstance(exc, Refused):  # what a driver said may hold a host, a path or SQL
        logger.warning("a service did not answer", extra={"error": str(exc)})
        code = next(code for cls, code in _SERVICE_CODES.items() if isinstance(exc, cls))
        return document(kind.status, kind.title, "Try again in a moment.", code)
    extra = dict(exc.extra)
    if isinstance(exc, InvalidInput):
        extra["errors"] = [{"pointer": m.pointer, "detail": m.detail} for m in exc.mistakes]
    return document(kind.status, kind.title, exc.detail, exc.code, extra)


def document(status: int, title: str, detail: str, code: str, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A problem document; `extra` are further members in camelCase."""
    fixed = {
        "type": f"urn:asynch:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail or title,
        "code": code,
        "requestId": g.get("request_id", ""),
        **({"error": detail or title} if request.path.startswith(FILES) else {}),
    }
    return {
        **fixed,
        **(extra or {}),
        **fixed,
    }  # the order of the first, and no extra member takes the place of a fixed one


def answer(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """A problem document as a response of its own status."""
    made = Response(orjson.dumps(body), status=body["status"], content_type=CONTENT_TYPE)
    made.headers.update(headers or {})
    return made


def _expected(exc: Exception) -> Response:
    body = as_document(exc)
    g.refusal = body["code"]  # for the counters
    headers = dict(kind_of(exc).headers)
    if isinstance(exc, TooOften):
        headers["Retry-After"] = str(exc.retry_after_s)
    return answer(body, headers)


def _from_framework(exc: HTTPException) -> Response | HTTPException:
    if exc.response is not None or exc.code is None or exc.code < 400:
        return exc  # a redirect, or an answer that is complete already
    status = HTTPStatus(exc.code)
    code = _CODES.get(status, re.sub(r"\W+", "_", status.phrase.lower()))
    headers = {name: text for name, text in exc.get_headers() if name != "Content-Type"}
    return answer(document(status, status.phrase, exc.description or "", code), headers)


def _unexpected(exc: Exception) -> Response:
    logger.error("request failed", exc_info=exc, extra={"method": request.method, "path": request.path})
    return answer(document(500, "Internal error", "The request failed; its requestId is in the log.", "internal"))
