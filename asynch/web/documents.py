"""How a task looks to its readers: the item of a list and the status document, one builder each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any

import orjson

from asynch.db import Row
from asynch.domain.retry import priority_of
from asynch.domain.states import State, status_of
from asynch.errors import InvalidInput, Refused
from asynch.service.tasks import state_of
from asynch.store.tasks import Place
from asynch.web import parts

#: When to ask again where the pace is not known, seconds.
ASK_AGAIN_S = 2
_STORED = (State.SUCCEEDED, State.FETCHED)


def item(row: Row) -> dict[str, Any]:
    """What getTaskBatch, getTaskResult and listTask say of a task."""
    state = State(row["state"])
    return {
        "taskId": str(row["id"]),
        "modelName": row["model_name"],
        "bizName": row["biz_name"],
        "clientRef": row["client_ref"],
        "metadata": raw(row["metadata"]),
        "priority": priority_of(row["rank"]),
        "state": state.value,
        "status": status_of(state, row["final"]),
        "final": row["final"],
        "phase": row["phase"],
        "progress": row["progress"],
        "message": row["message"],
        "ossFile": result_url(row),
        "fileType": row["file_type"],
        "fileSize": row["file_size"],
        "errorMsg": row["error_msg"],
        "retryCount": row["retry_count"],
        "createdAt": row["created_at"],
        "startedAt": row["started_at"],
        "finishedAt": row["finished_at"] if row["final"] else None,
        "expireAt": row["expire_at"],
    }


def listed(row: Row) -> dict[str, Any]:
    """An item with what only lists and the status document tell."""
    return item(row) | {
        "id": str(row["id"]),
        "tenantId": str(row["tenant_id"]),
        "creator": row["creator"],
        "updater": row["updater"],
        "updatedAt": row["updated_at"],
        "enqueueAt": row["enqueue_at"],
        "inputRef": row["input_ref"],
    }


def status(row: Row, place: Place | None = None) -> dict[str, Any]:
    """The status document; `place` is where a waiting task stands, where that is told."""
    task_id, eta_s = str(row["id"]), eta(row, place)
    capped = {"queuePositionCapped": True} if place is not None and place.capped and _waits(row) else {}
    return (
        listed(row)
        | capped
        | {
            "attempt": row["attempt"],
            "maxAttempts": None if row["retry_times"] is None else row["retry_times"] + 1,
            "queuePosition": place.ahead + 1 if place is not None and _waits(row) else None,
            "etaSeconds": eta_s,
            "estimatedCompletion": None if eta_s is None else datetime.now(UTC) + timedelta(seconds=eta_s),
            "notBefore": row["enqueue_at"] if row["delayed"] else None,
            "error": _error(row),
            "result": _result(row),
            "attempts": row["attempts"],
            "_links": {
                "self": status_url(task_id),
                "result": f"{status_url(task_id)}/result",
                "cancel": f"{status_url(task_id)}/cancel",
                "events": f"{status_url(task_id)}/events",
            },
        }
    )


def eta(row: Row, place: Place | None) -> int | None:
    """Whole seconds until the result, by the lane's pace; None where that would be a guess."""
    if place is None or place.call_s is None or not place.open or place.capped:
        return None
    if row["state"] == State.RUNNING and row["phase"] == 0:
        return ceil(max(0.0, place.call_s - (place.called_s or 0.0)))
    return ceil(place.call_s * (place.ahead // place.max_concurrency + 1)) if _waits(row) else None


def _waits(row: Row) -> bool:
    return bool(row["state"] == State.PENDING and row["phase"] == 0 and not row["delayed"])


def etag(row: Row) -> str:
    """Weak, and another one whenever a reader of the task would see another state of it."""
    told = orjson.dumps(state_of(row))
    return f'W/"{hashlib.sha256(told).hexdigest()[:20]}"'


def retry_after(row: Row, place: Place | None) -> str:
    """When to ask again, whole seconds: at the lane's pace, between 1 and 60."""
    return ask_again(eta(row, place))


def ask_again(seconds: float | None) -> str:
    """Retry-After for what will take so long; None where nobody knows."""
    return str(ASK_AGAIN_S if seconds is None else min(max(ceil(seconds), 1), 60))


def status_url(task_id: str) -> str:
    """Where a task's status document is, absolute."""
    return f"{parts().settings.public_url}/task/{task_id}"


def result_url(row: Row) -> str:
    """A URL that works now; empty while there is no result."""
    if row["state"] not in _STORED:
        return ""
    name = f"{row['id']}.{row['file_type']}"
    return parts().storage.url(row["oss_file"], filename=name, content_type=row["content_type"])


def refusal(refused: Refused) -> dict[str, Any]:
    """The error of one item of a batch."""
    told: dict[str, Any] = {"code": refused.code, "detail": str(refused), **refused.extra}
    if isinstance(refused, InvalidInput):
        told["errors"] = [{"pointer": m.pointer, "detail": m.detail} for m in refused.mistakes]
    return told


def _error(row: Row) -> Mapping[str, Any] | None:
    if not row["error_code"]:
        return None
    return {"code": row["error_code"], "detail": row["error_msg"], "retryable": row["error_retryable"]}


def _result(row: Row) -> Mapping[str, Any] | None:
    if row["state"] not in _STORED:
        return None
    storage = parts().settings.storage
    return {
        "url": result_url(row),
        "urlExpiresAt": None if storage.urls_last else datetime.now(UTC) + timedelta(seconds=storage.url_ttl),
        "contentType": row["content_type"],
        "size": row["file_size"],
        "sha256": row["sha256"],
    }


def raw(text: str | None) -> orjson.Fragment | None:
    """JSON as it was sent."""
    return None if text is None else orjson.Fragment(text)
