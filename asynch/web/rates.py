"""How often a tenant may call: reads and creates have windows of their own, told in headers before they are used up."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask, Response, g, request

from asynch.errors import TooOften
from asynch.service.rates import Rate, Rates
from asynch.web import Parts
from asynch.web.auth import principal

READS = frozenset(
    {
        *("tasks.task_status", "tasks.task_result", "tasks.get_task_batch", "tasks.get_task_result"),
        *("tasks.list_task", "streams.events", "streams.socket"),
        *("uploads.upload_progress", "uploads.list_uploads", "uploads.upload_socket", "uploads.file_document"),
    }
)
UPLOADS = frozenset({"uploads.upload", "uploads.presign", "tus.create_upload"})
CREATES = frozenset({"tasks.create_task", "tasks.create_task_batch"})


def register(app: Flask, made_of: Parts) -> None:
    """Count each such request, whatever comes of it; this goes after authentication, and before any query."""
    windows: Mapping[frozenset[str], Rates] = {
        READS: made_of.reads,
        CREATES: made_of.creates,
        UPLOADS: made_of.upload_rates,
    }

    @app.before_request
    def _take() -> None:
        for endpoints, rates in windows.items():
            if request.endpoint in endpoints and (rate := rates.take(principal().tenant_id)) is not None:
                g.rate = rate
                if rate.left < 0:
                    raise TooOften(
                        f"More than {rate.quota} {rate.name} in {rate.window_s} s.", retry_after_s=rate.reset_s
                    )

    @app.after_request
    def _tell(response: Response) -> Response:
        rate: Rate | None = g.get("rate")
        if rate is not None:
            response.headers["RateLimit-Policy"] = f'"{rate.name}";q={rate.quota};w={rate.window_s}'
            response.headers["RateLimit"] = f'"{rate.name}";r={max(0, rate.left)};t={rate.reset_s}'
        return response
