"""Every success that /openapi.json tells of is seen on a live service, with status, headers and a body that fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from flask import Flask
from websockets.sync.client import connect

from asynch import db
from asynch.web.openapi.document import methods_of
from asynch.web.openapi.links import LINKS
from asynch.web.openapi.operations import OPERATIONS
from tests import rows
from tests.document import Json, expect_shape, expect_told, told_path
from tests.live import MakeParts, serving
from tests.routes import HERE, cast_on
from tests.scenarios import ADMIN, SCENARIOS, Stage
from tests.task_api import Hand


@pytest.fixture
def stage(make_parts: MakeParts, pool: db.Pool, dsn: str) -> Iterator[Stage]:
    with serving(make_parts(auth={"mode": "apikey"})) as live, rows.worker(dsn) as worker:
        team = cast_on(live, pool)
        yield Stage(team, Hand(worker, live), team.things())


def route_of(app: Flask, endpoint: str) -> str:
    (rule,) = [rule for rule in app.url_map.iter_rules(endpoint) if not rule.websocket]
    (method,) = methods_of(rule)
    return f"{method} {rule.rule}"


@pytest.mark.parametrize(
    ("endpoint", "status"), [(name, status) for name, o in OPERATIONS.items() for status in o.answers]
)
def test_every_success_is_seen_and_fits(stage: Stage, app: Flask, document: Json, endpoint: str, status: int) -> None:
    route = route_of(app, endpoint)
    answer = answered(stage, app, endpoint, status)

    assert answer.status_code == status, (
        f"{endpoint} is told to answer {status}, and answered {answer.status_code}: "
        f"it needs a line in SCENARIOS of tests/scenarios.py. {answer.text[:500]}"
    )
    expect_told(document, route, answer)
    if answer.headers.get("Content-Type") == "application/json" and endpoint != "files.get_file":
        assert [] not in (answer.json().get("list"), answer.json().get("tasks")), (
            "a list with nothing in it shows nothing"
        )


def answered(stage: Stage, app: Flask, endpoint: str, status: int) -> requests.Response:
    if scenario := SCENARIOS.get((endpoint, status)):
        return scenario(stage)
    return stage.team.send(ADMIN, route_of(app, endpoint), stage.things)


#: links that lead to a refusal, as the thing is at that moment
REFUSED = {("socket", 426), ("uploadSocket", 426), ("retryTask", 409), ("deleteModel", 409), ("confirm", 409)}


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
