"""Cross-origin calls from the configured origins; without any, browsers keep other pages out."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Flask, Response, request

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": (
        "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, "
        "X-Request-Id, X-User-Info, Tus-Resumable, Upload-Checksum, Upload-Length, Upload-Metadata, Upload-Offset, "
        "X-HTTP-Method-Override"
    ),
    "Access-Control-Max-Age": "600",
}
_EXPOSED = (
    "ETag, Idempotency-Replayed, Location, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id, "
    "Tus-Checksum-Algorithm, Tus-Extension, Tus-Max-Size, Tus-Resumable, Tus-Version, Upload-Expires, Upload-Length, "
    "Upload-Metadata, Upload-Offset"
)


def register(app: Flask, origins: Sequence[str]) -> None:
    """Answer pages of `origins`; their preflights carry no credentials, so this goes before authentication."""
    if not origins:
        return
    allowed = frozenset(origins)

    @app.before_request
    def _preflight() -> Response | None:
        asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asks or request.headers.get("Origin") not in allowed:
            return None
        return Response(status=204, headers=_PREFLIGHT)

    @app.after_request
    def _allow(response: Response) -> Response:
        response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin in allowed:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        return response
