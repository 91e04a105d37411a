"""The application of one process: request ids, JSON, and the literal list of its resources."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from time import monotonic
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, g, request
from flask.json.provider import JSONProvider
from werkzeug.routing import BaseConverter

from asynch import log
from asynch.service.documents import as_json
from asynch.web import (
    Parts,
    actions,
    auth,
    cors,
    docs,
    files,
    health,
    metrics,
    models,
    oplog,
    problem,
    progress,
    rates,
    receiving,
    results,
    rules,
    services,
    stats,
    streams,
    tasks,
    tenants,
    traces,
    tus,
    upload_page,
    uploads,
    webhooks,
    workers,
)

RESOURCES: Sequence[Blueprint] = (
    health.bp, metrics.bp, docs.bp, files.bp, models.bp, tasks.bp, progress.bp, results.bp, stats.bp, oplog.bp,
    workers.bp, tenants.bp, services.bp, streams.bp, webhooks.bp, uploads.bp, rules.bp, tus.bp, upload_page.bp,
    actions.bp,
)  # fmt: skip

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


def create_app(made_of: Parts) -> Flask:
    """The WSGI application. UserError for an auth mode that is not there."""
    app = Flask("asynch", static_folder=None)
    app.url_map.converters["id"] = Id
    app.extensions["asynch"] = made_of
    app.extensions["asynch.streams"] = streams.Streams(
        -(-made_of.settings.server.streams // made_of.settings.server.processes)
    )
    app.extensions["asynch.seats"] = receiving.Seats(made_of.settings.server.threads)
    _ = (
        made_of.creation,
        made_of.trials,
        made_of.meter,
        made_of.surveyor,
        made_of.progress,
        made_of.uploads,
    )  # one for all threads, so made now
    app.json = Json(app)
    app.before_request(_begin)
    app.after_request(_finish)
    app.teardown_request(_end)
    cors.register(app, made_of.settings.server.cors_origins)
    auth.register(app, made_of)
    rates.register(app, made_of)
    oplog.register(app, made_of)
    problem.register(app)
    for resource in RESOURCES:
        app.register_blueprint(resource)
    return app


class Id(BaseConverter):
    """An id in a path: digits, so that no call's name is taken for one."""

    regex = "[0-9]+"


class Json(JSONProvider):
    """JSON through orjson; times as RFC 3339 in UTC with milliseconds."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:  # noqa: ARG002 - the framework's signature
        return as_json(obj).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:  # noqa: ARG002
        return orjson.loads(s)


def _begin() -> None:
    asked = request.headers.get("X-Request-Id", "")
    g.request_id = asked if _REQUEST_ID.fullmatch(asked) else secrets.token_hex(16)
    g.since = monotonic()
    g.log_scope = log.bind(request_id=g.request_id)
    g.log_scope.__enter__()
    traces.begin()
    metrics.note_begin()


def _finish(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    metrics.note_end(response)
    traces.note_end(response)
    return response


def _end(_: BaseException | None) -> None:
    traces.end()
    scope = g.pop("log_scope", None)
    if scope is not None:
        scope.__exit__(None, None, None)
