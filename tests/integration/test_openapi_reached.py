"""Every success that /openapi.json tells of is seen on a live service, with status, headers and a body that fit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import requests
from flask import Flask
from websockets.sync.client import connect

from asynch import db
from asynch.service import progress
from asynch.web.app import create_app
from asynch.web.openapi.document import build
from asynch.web.openapi.links import LINKS
from asynch.web.openapi.operations import OPERATIONS
from tests import rows
from tests.integration.test_openapi import Json, expect_shape, expect_told, told_path
from tests.integration.test_routes_matrix import HERE, OWN, Cast, Things, cast_on
from tests.live import MakeParts, serving
from tests.task_api import Hand

ADMIN = (OWN, "admin")


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
        """The task's file, by the link that the service gives."""
        link = urlsplit(self.done().task("/result").headers["Location"])
        return self.team.live.call("GET", f"{link.path}?{link.query}", headers=headers)


Scenario = Callable[[Stage], requests.Response]


def known_file(stage: Stage) -> requests.Response:
    link = urlsplit(stage.done().task("/result").headers["Location"])
    path = f"{link.path}?{link.query}"
    tag = stage.team.live.call("GET", path).headers["ETag"]
    return stage.team.live.call("GET", path, headers={"If-None-Match": tag})


def known_document(stage: Stage) -> requests.Response:
    tag = stage.call("GET", "/openapi.json").headers["ETag"]
    return stage.call("GET", "/openapi.json", If_None_Match=tag)


def ready(stage: Stage) -> requests.Response:
    rows.until(lambda: stage.call("GET", "/readyz").status_code == 200)
    return stage.call("GET", "/readyz")


def cancelled_and_again(stage: Stage) -> requests.Response:
    assert stage.task("/cancel", "POST").status_code == 200
    return stage.task("/retry", "POST")


def known_status(stage: Stage) -> requests.Response:
    return stage.task(If_None_Match=stage.task().headers["ETag"])


def socket(stage: Stage) -> requests.Response:
    return stage.task(
        "/ws",
        Connection="Upgrade",
        Upgrade="websocket",
        Sec_WebSocket_Version="13",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
    )


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


#: THE table: how an operation comes to a success, where the request of ROUTES (as an admin) does not bring it there.
#: A list is to have something in it.
SCENARIOS: Mapping[tuple[str, int], Scenario] = {
    ("health.readyz", 200): ready,
    ("docs.openapi", 304): known_document,
    ("files.get_file", 200): lambda stage: stage.file(),
    ("files.get_file", 206): lambda stage: stage.file(Range="bytes=0-3"),
    ("files.get_file", 304): known_file,
    ("tasks.task_status", 200): lambda stage: stage.done().task(),
    ("tasks.task_status", 304): known_status,
    ("tasks.task_result", 303): lambda stage: stage.done().task("/result"),
    ("tasks.retry_task", 200): cancelled_and_again,
    ("streams.events", 204): lambda stage: stage.done().task("/events", Last_Event_ID="999"),
    ("streams.socket", 101): socket,
    ("progress.post_progress", 204): word_of_progress,
    ("stats.list_model_stat", 200): lambda stage: stage.done().call("POST", "/stat/listModelStat", {}),
    ("services.list_service", 200): services,
    ("webhooks.list_delivery", 200): lambda stage: stage.told().call("POST", "/webhook/listDelivery", {}),
    ("webhooks.redeliver", 202): redelivered,
}


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def stage(make_parts: MakeParts, pool: db.Pool, dsn: str) -> Iterator[Stage]:
    with serving(make_parts(auth={"mode": "apikey"})) as live, rows.worker(dsn) as worker:
        team = cast_on(live, pool)
        yield Stage(team, Hand(worker, live), team.things())


@pytest.fixture
def app(make_parts: MakeParts) -> Flask:
    return create_app(make_parts(auth={"mode": "apikey"}))


@pytest.fixture
def document(app: Flask) -> Json:
    return build(app, app.extensions["asynch"].settings)


def route_of(app: Flask, endpoint: str) -> str:
    (rule,) = [rule for rule in app.url_map.iter_rules(endpoint) if not rule.websocket]
    (method,) = (rule.methods or set()) - {"HEAD", "OPTIONS"}
    return f"{method} {rule.rule}"


@pytest.mark.parametrize(
    ("endpoint", "status"), [(name, status) for name, o in OPERATIONS.items() for status in o.answers]
)
def test_every_success_is_seen_and_fits(stage: Stage, app: Flask, document: Json, endpoint: str, status: int) -> None:
    route = route_of(app, endpoint)
    answer = answered(stage, app, endpoint, status)

    assert answer.status_code == status, (
        f"{endpoint} is told to answer {status}, and answered {answer.status_code}: "
        f"it needs a line in SCENARIOS of {__name__}. {answer.text[:500]}"
    )
    expect_told(document, route, answer)
    if answer.headers.get("Content-Type") == "application/json" and endpoint != "files.get_file":
        assert answer.json().get("list") != [], "a list with nothing in it shows nothing"


def answered(stage: Stage, app: Flask, endpoint: str, status: int) -> requests.Response:
    if scenario := SCENARIOS.get((endpoint, status)):
        return scenario(stage)
    return stage.team.send(ADMIN, route_of(app, endpoint), stage.things)


#: links that lead to a refusal, as the thing is at that moment
REFUSED = {("socket", 426), ("retryTask", 409), ("deleteModel", 409)}


@pytest.mark.parametrize("endpoint", LINKS)
def test_each_link_leads_on(stage: Stage, app: Flask, document: Json, endpoint: str) -> None:
    status = next(status for status, shape in OPERATIONS[endpoint].answers.items() if isinstance(shape, type))
    come = answered(stage, app, endpoint, status)
    assert come.status_code == status

    method, _, rule = route_of(app, endpoint).partition(" ")
    links = document["paths"][told_path(rule)][method.lower()]["responses"][str(status)]["links"]
    assert len(links) == len(LINKS[endpoint])
    in_order = sorted(links.values(), key=lambda link: link["operationId"] == "deleteModel")  # it ends the others
    led = {link["operationId"]: follow(stage, document, come, link).status_code for link in in_order}
    assert [end for end in led.items() if end[1] >= 400 and end not in REFUSED] == []


def follow(stage: Stage, document: Json, come: requests.Response, link: Json) -> requests.Response:
    (method, path), *_ = [
        (method, path)
        for path, operations in document["paths"].items()
        for method, told in operations.items()
        if told["operationId"] == link["operationId"]
    ]
    values = resolved(link.get("parameters", {}), come)
    query = {name: value for name, value in values.items() if "{" + name + "}" not in path}
    return stage.call(
        method.upper(), f"{path.format(**values)}?{urlencode(query)}", resolved(link.get("requestBody"), come)
    )


def resolved(value: Any, come: requests.Response) -> Any:
    """A value with OpenAPI's runtime expressions replaced."""
    if isinstance(value, dict):
        return {name: resolved(inner, come) for name, inner in value.items()}
    if isinstance(value, list):
        return [resolved(inner, come) for inner in value]
    if not isinstance(value, str):
        return value
    source, _, pointer = value.partition(".body#/")
    found = come.json() if source == "$response" else json.loads(come.request.body or b"")
    for step in pointer.split("/"):
        found = found[int(step) if isinstance(found, list) else step]
    return found


def test_no_scenario_is_spare() -> None:
    assert [key for key in SCENARIOS if key[0] not in OPERATIONS or key[1] not in OPERATIONS[key[0]].answers] == []


def test_a_task_fits_in_every_state(stage: Stage, document: Json) -> None:
    made = [stage.team.things() for _ in range(6)]
    waiting, running, broken, stored, ended, again = [Stage(stage.team, stage.hand, things) for things in made]
    running.hand.take(running.things.task)
    broken.failed()
    stored.done()
    ended.task("/cancel", "POST")
    patient = {"id": again.things.model, "retryTimes": 1, "retryBackoffSeconds": 60}
    assert again.call("PUT", "/model/updateModel", patient).status_code == 200
    again.failed()

    seen = set()
    for one in (waiting, running, broken, stored, ended, again, stored):  # the last one is fetched by then
        answer = one.task()
        seen.add((answer.json()["state"], answer.json()["final"]))
        expect_told(document, "GET /task/<id:task_id>", answer)
        item = one.call("GET", f"/task/getTaskResult?taskId={one.things.task}")
        expect_told(document, "GET /task/getTaskResult", item)
        batch = one.call("POST", "/task/getTaskBatch", {"taskIds": [one.things.task]})
        expect_told(document, "POST /task/getTaskBatch", batch)
    listed = stage.call("POST", "/task/listTask", {"includePayload": 1})
    expect_told(document, "POST /task/listTask", listed)
    assert seen == {(0, False), (1, False), (2, True), (3, True), (3, False), (4, True), (5, True)}


def test_streams_tell_status_documents(stage: Stage, document: Json) -> None:
    told = {"$ref": "#/components/schemas/StatusDocument"}
    stage.done()
    token, url = stage.team.tokens[ADMIN], f"{stage.team.live.url}/task/{stage.things.task}"
    headers = {"Authorization": f"Bearer {token}"}
    with requests.get(f"{url}/events", headers=headers, stream=True, timeout=20) as events:
        data = [line.removeprefix(b"data: ") for line in events.iter_lines() if line.startswith(b"data: ")]
    with connect(f"{url}/ws".replace("http", "ws"), additional_headers=headers) as messages:
        data += [str(message).encode() for message in messages]

    assert len(data) == 2
    for text in data:
        expect_shape(document, told, json.loads(text))


def test_a_handshake_that_is_none_is_a_problem(stage: Stage, document: Json) -> None:
    answer = stage.task("/ws", Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Version="13")

    assert answer.status_code == 400
    expect_told(document, "GET /task/<id:task_id>/ws", answer)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/model/createModel", {"modelName": "w", "baseUrl": HERE, "enabled": 1.0, "queueLimit": 5.0, "timeoutSeconds": -1.0}),
        ("/task/createTask", {"priority": 3.0, "queueTimeoutSeconds": 60.0}),
        ("/task/listTask", {"page": {"pageNum": 1.0, "pageSize": 1e1}, "state": 0.0, "includePayload": 0.0}),
        ("/task/getTaskBatch", {"taskIds": [5.0]}),
        ("/model/testModel", {"id": 5.0}),
    ],
)  # fmt: skip
def test_an_integer_may_be_written_as_json_schema_has_it(stage: Stage, path: str, body: Json) -> None:
    """1.0 is an integer there, and JSON of some languages has no other."""
    named = {"modelName": stage.things.name} if path == "/task/createTask" else {}

    assert stage.call("POST", path, body | named).status_code != 422
