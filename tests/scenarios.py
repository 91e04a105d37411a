"""How each operation of the API comes to each of its successes, on a live service."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import requests

from asynch import db
from asynch.service import links, progress
from asynch.store import actions, files
from asynch.store.actions import NewAction, Try
from tests.routes import HERE, OWN, RULE, TUS, Cast, Things
from tests.task_api import Hand
from tests.waiting import until

ADMIN = (OWN, "admin")
HANDSHAKE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip
STORED = files.NewFile(
    creator="admin", sha256="5" * 64, name="a.txt", ext="txt", content_type="text/plain", size=4, stored_size=4,
    key="7/files/a.txt", scene="s", upload_id="1", tags=("red", "blue"),
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A server, its admin, a worker moved by hand, and things of the admin's tenant."""

    team: Cast
    hand: Hand
    things: Things

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        """As the admin; headers in Python's spelling."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        given["Authorization"] = f"Bearer {self.team.tokens[ADMIN]}"
        return self.team.live.call(method, path, body, headers=given)

    def tus(self, method: str, upload: str = "", body: bytes = b"", **headers: str) -> requests.Response:
        """As the admin, by tus."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        given = {**TUS, **given, "Authorization": f"Bearer {self.team.tokens[ADMIN]}"}
        path = f"/api/file/tus{upload and '/'}{upload}"
        return self.team.live.call(method, path, data=body, headers=given)

    def form(self, **fields: Any) -> requests.Response:
        """As the admin, a form of files and fields."""
        parts = {name: value if isinstance(value, tuple) else (None, value) for name, value in fields.items()}
        headers = {"Authorization": f"Bearer {self.team.tokens[ADMIN]}"}
        return self.team.live.call("POST", "/api/file/upload", files=parts, headers=headers)

    def task(self, rest: str = "", method: str = "GET", **headers: str) -> requests.Response:
        return self.call(method, f"/task/{self.things.task}{rest}", **headers)

    def done(self) -> Stage:
        """The same, its task completed."""
        self.hand.succeed(self.things.task)
        return self

    def failed(self) -> Stage:
        """The same, its task failed."""
        self.hand.fail(self.things.task)
        return self

    def told(self) -> Stage:
        """The same, with a message on its way to a receiver."""
        assert self.call("POST", "/webhook/testDelivery", {"callbackUrl": HERE}).status_code == 202
        return self

    def file(self, **headers: str) -> requests.Response:
        """The completed task's file, by the link that the service gives."""
        link = urlsplit(self.task("/result").headers["Location"])
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.team.live.call("GET", f"{link.path}?{link.query}", headers=given)


def known_content(stage: Stage) -> requests.Response:
    """An upload that was complete when it came."""
    with db.transaction(stage.hand.pool) as conn:
        files.insert_file(conn, tenant_id=OWN, file=STORED)
    return stage.form(sha256=STORED.sha256)


def completed_upload(stage: Stage) -> requests.Response:
    assert known_content(stage).status_code == 200
    (newest, *_) = stage.call("GET", "/api/file/upload/tasks").json()["tasks"]
    return stage.call("GET", f"/api/file/upload/progress/{newest['task_id']}")


def file_document(stage: Stage) -> requests.Response:
    return stage.call("GET", f"/api/file/{known_content(stage).json()['identity']}")


def tried_action(stage: Stage) -> requests.Response:
    action = NewAction(1, 2, 3, "thumb", 3, "image.thumbnail")
    with db.transaction(stage.hand.pool) as conn:
        made = actions.insert_actions(conn, tenant_id=OWN, actions=[action])[2]
        tried = Try("completed", attempt=1, since=datetime.now(UTC))
        actions.log_try(conn, tenant_id=OWN, action_id=made, tried=tried)
    return stage.call("POST", "/preAction/listActionLog", {})


def invited(stage: Stage) -> tuple[str, requests.Response]:
    """What is to be confirmed, and how its bytes went into storage."""
    asked = {"name": "a.txt", "size": 4, "content_type": "text/plain"}
    told = stage.call("POST", "/api/file/presign", asked).json()
    link = urlsplit(told["url"])
    return told["file_name"], stage.team.live.call("PUT", f"{link.path}?{link.query}", data=b"text")


def confirmed(stage: Stage) -> requests.Response:
    return stage.call("POST", "/api/file/confirm", {"file_name": invited(stage)[0]})


def begun(stage: Stage) -> str:
    """Id of an upload by tus that waits for four bytes."""
    made = stage.tus("POST", Upload_Length="4", Upload_Metadata="filename YS50eHQ=")
    return made.headers["Location"].rpartition("/")[2]


Scenario = Callable[[Stage], requests.Response]


def known_file(stage: Stage) -> requests.Response:
    return stage.file(If_None_Match=stage.done().file().headers["ETag"])


def known_document(stage: Stage) -> requests.Response:
    tag = stage.call("GET", "/openapi.json").headers["ETag"]
    return stage.call("GET", "/openapi.json", If_None_Match=tag)


def known_asset(stage: Stage) -> requests.Response:
    tag = stage.call("GET", "/upload/assets/page.css").headers["ETag"]
    return stage.call("GET", "/upload/assets/page.css", If_None_Match=tag)


def ready(stage: Stage) -> requests.Response:
    until(lambda: stage.call("GET", "/readyz").status_code == 200)
    return stage.call("GET", "/readyz")


def cancelled_and_again(stage: Stage) -> requests.Response:
    assert stage.task("/cancel", "POST").status_code == 200
    return stage.task("/retry", "POST")


def known_status(stage: Stage) -> requests.Response:
    return stage.task(If_None_Match=stage.task().headers["ETag"])


def socket(stage: Stage) -> requests.Response:
    return stage.task("/ws", **HANDSHAKE)


def posted_result(stage: Stage) -> requests.Response:
    """What became of an action, by the link that its message brings."""
    live = stage.team.live
    with db.transaction(live.parts.pool) as conn:
        action = NewAction(int(stage.things.task), 1, 1, "r", 2, HERE, await_seconds=60)
        action_id = actions.insert_actions(conn, tenant_id=OWN, actions=[action])[1]
    url = links.to_result(live.parts.box, live.url, tenant_id=OWN, action_id=action_id, patience_s=60)
    return requests.post(url, json={"success": True, "output": {"tags": ["red"]}}, timeout=10)


def word_of_progress(stage: Stage) -> requests.Response:
    (claim,) = stage.hand.take(stage.things.task)
    fields = {"tenant_id": claim.tenant_id, "task_id": claim.id, "attempt": claim.call_attempt}
    live = stage.team.live
    url = progress.link(live.parts.box, live.url, until=time.time() + 60, **fields)
    return requests.post(url, json={"progress": 50, "message": "half"}, timeout=10)


def services(stage: Stage) -> requests.Response:
    assert stage.call("PUT", "/service/updateService", {"baseUrl": HERE, "maxConcurrency": 1}).status_code == 200
    return stage.call("POST", "/service/listService", {})


def redelivered(stage: Stage) -> requests.Response:
    (delivery,) = stage.told().call("POST", "/webhook/listDelivery", {}).json()["list"]
    return stage.call("POST", f"/webhook/{delivery['id']}/redeliver")


def rule(stage: Stage) -> str:
    """Id of a rule that is there, which says something else than at first."""
    asked = {"actionName": stage.things.new, "triggerCondition": {"tags_all": ["red"]}, **RULE}
    made: str = stage.call("POST", "/preAction/createPreAction", asked).json()["id"]
    assert stage.call("PUT", "/preAction/updatePreAction", {"id": made, "status": 9}).json()["version"] == 2
    return made


def tested_rule(stage: Stage) -> requests.Response:
    asked = {"id": rule(stage), "file": {"name": "a.mp4", "tags": ["red"], "derived": True}}
    return stage.call("POST", "/preAction/testPreAction", asked)


def listed_rules(stage: Stage) -> requests.Response:
    return stage.call("POST", "/preAction/listPreAction", {"actionName": rule(stage) and stage.things.new})


#: THE table: how an operation comes to a success, where the request of ROUTES (as an admin) does not bring it there.
#: A list is to have something in it.
SCENARIOS: Mapping[tuple[str, int], Scenario] = {
    ("health.readyz", 200): ready,
    ("docs.openapi", 304): known_document,
    ("actions.list_action_log", 200): tried_action,
    ("upload_page.asset", 304): known_asset,
    ("files.get_file", 200): lambda stage: stage.done().file(),
    ("files.get_file", 206): lambda stage: stage.done().file(Range="bytes=0-3"),
    ("files.get_file", 304): known_file,
    ("tasks.task_status", 200): lambda stage: stage.done().task(),
    ("tasks.task_status", 304): known_status,
    ("tasks.task_result", 303): lambda stage: stage.done().task("/result"),
    ("tasks.retry_task", 200): cancelled_and_again,
    ("streams.events", 204): lambda stage: stage.done().task("/events", Last_Event_ID="999"),
    ("streams.socket", 101): socket,
    ("progress.post_progress", 204): word_of_progress,
    ("results.post_result", 204): posted_result,
    ("stats.list_model_stat", 200): lambda stage: stage.done().call("POST", "/stat/listModelStat", {}),
    ("services.list_service", 200): services,
    ("uploads.upload", 200): lambda stage: stage.form(
        file=("a.txt", "text"), scene="s", tags="red,blue", upload_id="1"
    ),
    ("uploads.upload_progress", 200): completed_upload,
    ("uploads.upload_socket", 101): lambda stage: stage.call(
        "GET", f"/api/file/upload/ws/{stage.things.upload}", **HANDSHAKE
    ),
    ("uploads.confirm", 200): confirmed,
    ("uploads.file_document", 200): file_document,
    ("files.put_file", 204): lambda stage: invited(stage)[1],
    ("tus.create_upload", 201): lambda stage: stage.tus("POST", "", b"te", Upload_Length="4"),
    ("tus.head_upload", 200): lambda stage: stage.tus("HEAD", begun(stage)),
    ("tus.patch_upload", 204): lambda stage: stage.tus("PATCH", begun(stage), b"te"),
    ("tus.delete_upload", 204): lambda stage: stage.tus("DELETE", begun(stage)),
    ("tus.override_upload", 204): lambda stage: stage.tus(
        "POST", begun(stage), b"text", X_HTTP_Method_Override="PATCH"
    ),
    ("webhooks.list_delivery", 200): lambda stage: stage.told().call("POST", "/webhook/listDelivery", {}),
    ("webhooks.redeliver", 202): redelivered,
    ("rules.update_pre_action", 200): lambda stage: stage.call(
        "PUT", "/preAction/updatePreAction", {"id": rule(stage), "rolloutPercent": 50}
    ),
    ("rules.delete_pre_action", 200): lambda stage: stage.call(
        "DELETE", f"/preAction/deletePreAction?id={rule(stage)}"
    ),
    ("rules.get_pre_action", 200): lambda stage: stage.call("GET", f"/preAction/getPreAction?id={rule(stage)}"),
    ("rules.list_pre_action", 200): listed_rules,
    ("rules.test_pre_action", 200): tested_rule,
    ("rules.rollback", 200): lambda stage: stage.call("POST", "/preAction/rollback", {"id": rule(stage), "version": 1}),
}
