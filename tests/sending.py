"""Files that tests have sent: where they are until a worker has stored them, and what is told of them then."""

from __future__ import annotations

import os
from typing import Any

from tests.task_api import Api
from tests.waiting import until


def incoming(api: Api) -> list[str]:
    """The received files that no worker has stored yet."""
    return sorted(os.listdir(api.live.parts.settings.tmp_path / ".incoming"))


def status(api: Api, task_id: str) -> dict[str, Any]:
    """Where an upload stands."""
    answer = api.call("GET", f"/api/file/upload/progress/{task_id}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def ended(api: Api, task_id: str, most_s: float = 60.0) -> dict[str, Any]:
    """The same, once it stands at an end."""
    until(lambda: status(api, task_id)["status"] in ("completed", "failed"), most_s, what="the end of an upload")
    return status(api, task_id)


def completed(api: Api, task_id: str) -> dict[str, Any]:
    """The same, once it stands at a good end."""
    told = ended(api, task_id)
    assert told["status"] == "completed", told
    return told


def file_of(api: Api, identity: str) -> dict[str, Any]:
    """What is told of a stored file."""
    answer = api.call("GET", f"/api/file/{identity}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def fetched(api: Api, url: str) -> bytes:
    """The bytes that a link of the local storage leads to."""
    return api.live.call("GET", url.removeprefix("http://127.0.0.1")).content
