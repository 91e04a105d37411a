"""The span of each request: what came of it, under the caller's own, and above that of the tasks it creates."""

from __future__ import annotations

from http import HTTPStatus
from typing import cast

from flask import Flask, Response, g, request

from asynch.domain import tracing
from asynch.spans import Span, Untold
from asynch.web import Parts, parts
from asynch.web.metrics import METHODS

#: blueprints whose requests come from machines that look whether all is well
_QUIET = frozenset({"health", "metrics"})


def begin() -> None:
    """Begin the span of this request. Its path is told as the template of its route: paths hold ids and tokens."""
    above = tracing.packed(request.headers.get("traceparent"), request.headers.get("tracestate"))
    if request.blueprint in _QUIET:
        g.span = Untold(above)
        return
    method = request.method if request.method in METHODS else "_OTHER"
    told = {"http.request.method": method, "url.scheme": request.scheme}
    if request.url_rule is not None:
        told["http.route"] = request.url_rule.rule
    name = " ".join(("HTTP" if method == "_OTHER" else method, told.get("http.route", ""))).strip()
    g.span = parts().tracer.start(name, "server", under=above, attributes=lambda: told)


def context() -> str:
    """What the work that this request causes hangs under: its span, or the caller's where it has none."""
    return _span().context


def note_end(response: Response) -> None:
    """Note the answer; a client's mistake is no failure of this side."""
    span = _span()
    span.note("http.response.status_code", response.status_code)
    if "principal" in g:
        span.note("asynch.tenant_id", g.principal.tenant_id)
    if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        span.fail(str(response.status_code))


def end() -> None:
    """The answer's head is on its way; a stream of events goes on without its request."""
    if "span" in g:
        _span().end()


def close(app: Flask) -> None:
    """The process of this application ends: send what is left."""
    cast(Parts, app.extensions["asynch"]).tracer.close()


def _span() -> Span:
    return cast(Span, g.span)
