"""What tests say about rules and the files that fire them."""

from __future__ import annotations

from typing import Any

from tests import sending
from tests.sending import file_of
from tests.task_api import Api
from tests.waiting import until


def rule(api: Api, name: str, **fields: Any) -> str:
    asked = {"actionName": name, "executeMode": 3, "targetUrl": "image.thumbnail", **fields}
    answer = api.call("POST", "/preAction/createPreAction", asked)
    assert answer.status_code == 200, answer.text
    made: str = answer.json()["id"]
    return made


def send(api: Api, data: bytes, name: str = "a.png", **fields: str) -> dict[str, Any]:
    form: dict[str, Any] = {key: (None, value) for key, value in fields.items()}
    answer = api.call("POST", "/api/file/upload", files={"file": (name, data), **form})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def completed(api: Api, sent: dict[str, Any]) -> str:
    """The identity of what was sent."""
    if "identity" in sent:
        return str(sent["identity"])
    return str(sending.completed(api, sent["task_id"])["repository_id"])


def acted(api: Api, identity: str, count: int) -> dict[str, Any]:
    """The file once so many actions have ended."""

    def ended() -> bool:
        actions = file_of(api, identity)["actions"]
        return len(actions) == count and all(a["status"] in ("completed", "failed") for a in actions)

    until(ended, 40)
    return file_of(api, identity)


def tries(api: Api, **wanted: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.call("POST", "/preAction/listActionLog", wanted).json()["list"]
    return found
