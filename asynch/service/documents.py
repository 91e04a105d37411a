"""How a task looks to its readers: the item of a list and the status document, one builder each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any

import orjson

from asynch.db import Row
from asynch.domain.retry import priority_of
from asynch.domain.states import State, status_of
from asynch.errors import InvalidInput, Refused
from asynch.service.tasks import state_of
from asynch.storage import Storage
from asynch.store.tasks import Place

#: When to ask again where the pace is not known, seconds.
ASK_AGAIN_S = 2
_STORED = (State.SUCCEEDED, State.FETCHED)


def as_json(value: object) -> bytes:
    """JSON as this service writes it: times as RFC 3339 in UTC with milliseconds."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    raise TypeError(type(value).__name__)


@dataclass(frozen=True, slots=True)
class Documents:
    """The builders and what they need to know of this installation."""

    public_url: str
    storage: Storage
    url_ttl_s: float | None  #: how long a result's URL works; None for ever

    def item(self, row: Row) -> dict[str, Any]:
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
            "ossFile": self.result_url(row),
            "fileType": row["file_type"],
            "fileSize": row["file_size"],
            "errorMsg": row["error_msg"],
            "retryCount": row["retry_count"],
            "createdAt": row["created_at"],
            "startedAt": row["started_at"],
            "finishedAt": row["finished_at"] if row["final"] else None,
            "expireAt": row["expire_at"],
        }

    def listed(self, row: Row) -> dict[str, Any]:
        """An item with what only lists and the status document tell."""
        return self.item(row) | {
            "id": str(row["id"]),
            "tenantId": str(row["tenant_id"]),
            "creator": row["creator"],
            "updater": row["updater"],
            "updatedAt": row["updated_at"],
            "enqueueAt": row["enqueue_at"],
            "inputRef": row["input_ref"],
        }

    def status(self, row: Row, place: Place | None = None) -> dict[str, Any]:
        """The status document; `place` is where a waiting task stands, where that is told."""
        task_id, eta_s = str(row["id"]), eta(row, place)
        capped = {"queuePositionCapped": True} if place is not None and place.capped and _waits(row) else {}
        return (
            self.listed(row)
            | capped
            | {
                "attempt": row["attempt"],
                "maxAttempts": None if row["retry_times"] is None else row["retry_times"] + 1,
                "queuePosition": place.ahead + 1 if place is not None and _waits(row) else None,
                "etaSeconds": eta_s,
                "estimatedCompletion": None if eta_s is None else datetime.now(UTC) + timedelta(seconds=eta_s),
                "notBefore": row["enqueue_at"] if row["delayed"] else None,
                "error": _error(row),
                "result": self._result(row),
                "attempts": row["attempts"],
                "_links": {
                    "self": self.status_url(task_id),
                    "result": f"{self.status_url(task_id)}/result",
                    "cancel": f"{self.status_url(task_id)}/cancel",
                    "events": f"{self.status_url(task_id)}/events",
                },
            }
        )

    def status_url(self, task_id: str) -> str:
        """Where a task's status document is, absolute."""
        return f"{self.public_url}/task/{task_id}"

    def result_url(self, row: Row) -> str:
        """A URL that works now; empty while there is no result."""
        if row["state"] not in _STORED:
            return ""
        name = f"{row['id']}.{row['file_type']}"
        return self.storage.url(row["oss_file"], filename=name, content_type=row["content_type"])

    def _result(self, row: Row) -> Mapping[str, Any] | None:
        if row["state"] not in _STORED:
            return None
        return {
            "url": self.result_url(row),
            "urlExpiresAt": None if self.url_ttl_s is None else datetime.now(UTC) + timedelta(seconds=self.url_ttl_s),
            "contentType": row["content_type"],
            "size": row["file_size"],
            "sha256": row["sha256"],
        }


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


def raw(text: str | None) -> orjson.Fragment | None:
    """JSON as it was sent."""
    return None if text is None else orjson.Fragment(text)


def file_document(storage: Storage, row: Row) -> dict[str, Any]:
    """A file, with links that work now."""
    cover = row["cover_key"]
    return {
        "identity": row["identity"],
        "name": row["name"],
        "ext": row["ext"],
        "size": row["size"],
        "stored_size": row["stored_size"],
        "content_type": row["content_type"],
        "sha256": row["sha256"],
        "scene": row["scene"],
        "tags": row["tags"],
        "parent": None if row["parent"] is None else str(row["parent"]),
        "url": storage.url(row["key"], filename=row["name"], content_type=row["content_type"]),
        "cover_url": storage.url(cover, filename="cover.jpg", content_type="image/jpeg") if cover else None,
        "created_at": row["created_at"],
    }
