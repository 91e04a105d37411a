"""The headers of requests and answers: what each means and how it is written, wherever it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

_WHOLE: Json = {"type": "integer", "minimum": 0}
#: as many digits as every number of a program holds
_COUNT: Json = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_URL: Json = {"type": "string", "format": "uri"}
#: RFC 9651: each window a text with parameters
_WINDOW: Json = {"type": "string", "pattern": '^"[a-z]+"(;[a-z]+=[0-9]+)+$'}
#: RFC 4648 with padding
_BASE64 = "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_PAIR = rf"[!-+\--~]+( {_BASE64})?"


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
    "Tus-Checksum-Algorithm": _Header("What Upload-Checksum may be made with, comma-separated."),
    "Tus-Extension": _Header("The extensions of tus that are here, comma-separated."),
    "Tus-Max-Size": _Header("Largest file that is taken, bytes.", _WHOLE),
    "Tus-Resumable": _Header("The version of tus that is spoken.", {"const": "1.0.0"}),
    "Tus-Version": _Header("The versions of tus that are here.", {"const": "1.0.0"}),
    "Upgrade": _Header("`websocket`.", {"const": "websocket"}),
    "Upload-Checksum": _Header(
        "`sha1`, `sha256`, `sha512` or `md5`, a blank, and the digest of this piece in base64.",
        {"type": "string", "pattern": f"^(sha1|sha256|sha512|md5) {_BASE64}$"},
    ),
    "Upload-Expires": _Header("Until when the rest may come; absent once all bytes are there."),
    "Upload-Length": _Header("Size of the whole file, bytes.", _COUNT),
    "Upload-Metadata": _Header(
        "Keys with a value each in base64, comma-separated: `filename`, `scene`, `tags`, `upload_id`, `sha256`, and "
        "others, which come back as they are.",
        {"type": "string", "maxLength": 8192, "pattern": f"^({_PAIR}(, ?{_PAIR})*)?$"},
    ),
    "Upload-Offset": _Header("How many bytes are there.", _COUNT),
    "WWW-Authenticate": _Header("How to authenticate."),
    "X-HTTP-Method-Override": _Header("What is meant.", {"enum": ["PATCH", "DELETE"]}),
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
    """Headers of a request as parameters; a name with `!` is one that it must have."""
    return [
        {
            "name": name.rstrip("!"),
            "in": "header",
            "required": name.endswith("!"),
            "description": _HEADERS[name.rstrip("!")].words,
            "schema": _HEADERS[name.rstrip("!")].schema,
        }
        for name in names
    ]
