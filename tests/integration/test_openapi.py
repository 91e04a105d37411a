"""/openapi.json says what is served: each route is in it, and what routes answer is what it says they do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from flask import Flask
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from asynch import db
from asynch.errors import Refused
from asynch.web.app import create_app
from asynch.web.openapi.document import build
from asynch.web.openapi.operations import OPERATIONS
from asynch.web.openapi.words import CODES, ERRORS, FIELDS
from asynch.web.problem import TABLE
from tests.integration.test_routes_matrix import OWN, ROUTES, Cast, cast_on
from tests.live import MakeParts, parts_on, serving

Json = dict[str, Any]

ANCHOR = re.compile(r'href="#([^"]*)"')
ID = re.compile(r' id="([^"]*)"')

#: what HTTP and browsers have among themselves; no client of ours looks at it
COMMON = {
    *("cache-control", "connection", "content-length", "content-security-policy", "content-type", "date"),
    *("last-modified", "sec-websocket-accept", "server", "x-accel-buffering", "x-content-type-options"),
}


@pytest.fixture(scope="module")
def app(module_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """What is told is the same for all tests, and takes longer to make than most of them."""
    with db.open_pool(module_dsn, size=1, name="tests") as pool:
        yield create_app(parts_on(pool, tmp_path_factory.mktemp("told"), auth={"mode": "apikey"}))


@pytest.fixture(scope="module")
def document(app: Flask) -> Json:
    return build(app, app.extensions["asynch"].settings)


@pytest.fixture
def team(make_parts: MakeParts, pool: db.Pool) -> Iterator[Cast]:
    with serving(make_parts(auth={"mode": "apikey"}, uploads={"per_tenant_rate": "0"})) as live:
        yield cast_on(live, pool)


def test_every_route_is_described_and_nothing_else(app: Flask) -> None:
    assert {rule.endpoint for rule in app.url_map.iter_rules()} == set(OPERATIONS)


@pytest.mark.parametrize("mode", ["none", "apikey", "gateway", "jwt"])
def test_the_document_is_openapi(app: Flask, mode: str) -> None:
    settings = app.extensions["asynch"].settings
    auth = settings.auth.model_copy(update={"mode": mode})

    OpenAPIV31SpecValidator(build(app, settings.model_copy(update={"auth": auth}))).validate()


def test_links_lead_to_what_is_there(document: Json) -> None:
    """What the validator does not look at: operations, their parameters and bodies, and pointers into what was told."""
    operations = {told["operationId"]: told for path in document["paths"].values() for told in path.values()}
    for operation in operations.values():
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                target = operations[link["operationId"]]
                named = {p["name"] for p in target.get("parameters", ()) if p.get("required") or p["name"] == "id"}
                assert link.get("parameters", {}).keys() <= named
                assert named <= link.get("parameters", {}).keys()
                assert ("requestBody" in link) == ("requestBody" in target)


def test_every_member_is_explained_and_no_word_is_spare(document: Json) -> None:
    members = {
        (shape, name): member
        for shape, schema in document["components"]["schemas"].items()
        for name, member in schema.get("properties", {}).items()
    }

    assert [place for place, member in members.items() if not member.get("description")] == []
    assert set(FIELDS) - {name for _, name in members} == set()


def test_shapes_have_names_that_a_generator_can_use(document: Json) -> None:
    assert [name for name in document["components"]["schemas"] if not re.fullmatch("[A-Z][A-Za-z]+", name)] == []


def test_every_refusal_has_its_code_told(document: Json) -> None:
    told = {(kind.status, refusal.code) for refusal, kind in TABLE.items() if issubclass(refusal, Refused)}

    assert {(status, code) for status, code in told if code not in CODES[status]} == set()
    assert set(CODES) == set(ERRORS)


def test_what_is_absent_has_the_default_that_is_told(document: Json) -> None:
    members = document["components"]["schemas"]["NewModel"]["properties"]

    assert {name: members[name]["default"] for name in ("httpMethod", "timeoutSeconds", "queueLimit", "enabled")} == {
        "httpMethod": "POST", "timeoutSeconds": 60, "queueLimit": 1000, "enabled": 1,
    }  # fmt: skip


def test_every_part_is_told_once(document: Json) -> None:
    used = {tag for path in document["paths"].values() for told in path.values() for tag in told["tags"]}

    assert {tag["name"] for tag in document["tags"]} == used


def test_every_operation_has_a_summary(document: Json) -> None:
    assert [told for path in document["paths"].values() for told in path.values() if not told["summary"]] == []


def test_answers_are_what_the_document_says(team: Cast, document: Json) -> None:
    for route in sorted(ROUTES):
        things, admin = team.things(), (OWN, "admin")
        expect_told(document, route, team.send(None, route, things))
        expect_told(document, route, team.send((OWN, "user"), route, things))
        expect_told(document, route, team.send(admin, route, team.things()))


def test_the_document_is_sent_once(team: Cast) -> None:
    first = team.live.call("GET", "/openapi.json")
    again = team.live.call("GET", "/openapi.json", headers={"If-None-Match": first.headers["ETag"]})

    assert first.json()["openapi"] == "3.1.0"
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_needs_no_other_host(team: Cast, document: Json) -> None:
    answer = team.live.call("GET", "/docs")

    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "src=" not in answer.text
    assert 'href="http' not in answer.text
    assert [path for path in document["paths"] if path not in answer.text] == []


def test_the_pages_links_lead_somewhere(team: Cast) -> None:
    page = team.live.call("GET", "/docs").text
    places = ID.findall(page)

    assert len(places) == len(set(places))
    assert set(ANCHOR.findall(page)) - set(places) == set()


def expect_told(document: Json, route: str, answer: requests.Response) -> None:
    """The answer's status, headers, type and body are in the document, and each has the shape told."""
    method, _, rule = route.partition(" ")
    responses = document["paths"][told_path(rule)][method.lower()]["responses"]
    assert str(answer.status_code) in responses, (route, answer.status_code, answer.text[:500])
    response = responses[str(answer.status_code)]
    if "$ref" in response:
        response = document["components"]["responses"][str(answer.status_code)]
    expect_headers(response["headers"], answer)
    kinds = response.get("content", {})
    media_type = answer.headers.get("Content-Type", "").partition(";")[0]
    if not kinds or method == "HEAD":
        assert answer.content == b"", (route, answer.content[:500])
    elif "*/*" not in kinds:
        assert media_type in kinds, (route, media_type)
        if "json" in media_type:
            expect_shape(document, kinds[media_type]["schema"], answer.json())
    if not answer.ok and method != "HEAD":
        assert answer.json()["code"] in CODES[answer.status_code]


def expect_headers(told: Json, answer: requests.Response) -> None:
    """Headers that every such answer has are there, and what is there is as told."""
    assert [name for name, header in told.items() if header["required"] and name not in answer.headers] == []
    if answer.ok:
        assert {name.lower() for name in answer.headers} - {name.lower() for name in told} - COMMON == set()
    for name in told.keys() & answer.headers.keys():
        value: Any = answer.headers[name]
        Draft202012Validator(told[name]["schema"]).validate(int(value) if value.isdigit() else value)


def expect_shape(document: Json, schema: Json, body: Any) -> None:
    errors = validator(document, schema).iter_errors(body)
    assert [(list(e.absolute_path), e.message) for e in errors] == [], str(body)[:1000]


def told_path(rule: str) -> str:
    named = {
        "<id:task_id>": "{taskId}",
        "<id:action_id>": "{actionId}",
        "<id:delivery_id>": "{deliveryId}",
        "<path:key>": "{key}",
        "<id:upload_id>": "{uploadId}",
        "<id:identity>": "{identity}",
        "<string:name>": "{name}",
    }
    for variable, told in named.items():
        rule = rule.replace(variable, told)
    return rule


def validator(document: Json, schema: Json) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})
