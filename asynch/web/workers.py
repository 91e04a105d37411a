"""/worker: who works, and at what, for admins."""

from __future__ import annotations

from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue

from asynch.db import Row
from asynch.service.reports import Reports
from asynch.web import parts
from asynch.web.auth import principal

bp = Blueprint("workers", __name__, url_prefix="/worker")


@bp.get("/listWorker")
def list_worker() -> ResponseReturnValue:
    """The living workers of all hosts; what they do is as old as `seenAt`."""
    rows = Reports(parts().pool).workers(principal())
    return {"list": [_shown(row) for row in rows], "total": len(rows)}


def _shown(row: Row) -> dict[str, Any]:
    info = row["info"]  # empty until its first beat
    return {
        "id": str(row["id"]),
        "host": row["host"],
        "pid": row["pid"],
        "tmpHost": row["tmp_host"],
        "threads": row["threads"],
        "startedAt": row["started_at"],
        "seenAt": row["seen_at"],
        "freeThreads": info.get("freeThreads"),
        "tmpBytes": info.get("tmpBytes"),
        "trouble": info.get("trouble", ""),
        "running": info.get("running", []),
        "runningTotal": info.get("runningTotal", 0),
    }
