"""The headers of requests and answers: what each means and how it is written, wherever it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

_WHOLE: Json = {"type": "integer", "minimum": 0}
_URL: Json = {"type": "string", "format": "uri"}
#: RFC 9651: each window a text with parameters
_WINDOW: Json = {"type": "string", "pattern": '^"[a-z]+"(;[a-z]+=[0-9]+)+$'}


@dataclass(frozen=True, slots=True)
class _Header:
    words: str
    schema: Json = field(default_factory=lambda: {"type": "string"})


_HEADERS: Mapping[str, _Header] = {
    "Accept-Ranges": _Header("`bytes`: a Range may be asked for.", {"const": "bytes"}),
    "Content-Disposition": _Header("What the file is called when it is saved."),
    "Content-Location": _Header("The status document.", _URL),
    "Content-Range": _Header("Which bytes these are, of how many.", {"type": "string", "pattern": "^bytes "}),
    "ETag": _Header("Changes with what is told."),
    "Idempotency-Key": _Header(
        "At most 255 characters; the same key and body give the same tasks again, for 24 h.",
        {"type": "string", "minLength": 1, "maxLength": 257},  # quotes around it do not count
    ),
    "Idempotency-Replayed": _Header("`true` when the tasks had been created before.", {"const": "true"}),
    "If-None-Match": _Header("304 while the ETag is still this one."),
    "Last-Event-ID": _Header(
        "Go on after this event; empty: from the first.", {"type": "string", "pattern": "^[0-9]{0,18}$"}
    ),
    "Location": _Header("Where to look next, absolute.", _URL),
    "Prefer": _Header("`wait=N`: answer when the task is final, or after N seconds (60 at most)."),
    "Preference-Applied": _Header("The wait that was granted.", {"type": "string", "pattern": "^wait=[0-9]+$"}),
    "Range": _Header("Bytes of the file."),
    "RateLimit": _Header("What is left of the window: `r` requests, `t` seconds.", _WINDOW),
    "RateLimit-Policy": _Header("How many requests (`q`) a window of `w` seconds has.", _WINDOW),
    "Retry-After": _Header("When to ask again, seconds.", _WHOLE),
    "Upgrade": _Header("`websocket`.", {"const": "websocket"}),
    "WWW-Authenticate": _Header("How to authenticate."),
    "X-Request-Id": _Header("The id of the request: the caller's own if it sent one, in every line of the log."),
    "traceparent": _Header("W3C trace context; it goes with the task to the model and to receivers."),
    "tracestate": _Header("W3C trace context."),
}


def told(*names: str) -> Json:
    """Headers of an answer; a name with `?` is one that not every such answer has."""
    return {
        name.rstrip("?"): {
            "description": _HEADERS[name.rstrip("?")].words,
            "required": not name.endswith("?"),
            "schema": _HEADERS[name.rstrip("?")].schema,
        }
        for name in names
    }


def asked(*names: str) -> list[Json]:
    """Headers that a request may have, as parameters."""
    return [
        {"name": name, "in": "header", "description": _HEADERS[name].words, "schema": _HEADERS[name].schema}
        for name in names
    ]
