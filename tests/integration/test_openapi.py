"""/openapi.json says what is served: each route is in it, and what routes answer is what it says they do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from flask import Flask
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from asynch import db
from asynch.web.app import create_app
from asynch.web.openapi.document import build
from asynch.web.openapi.operations import OPERATIONS
from asynch.web.openapi.words import FIELDS
from tests.integration.test_routes_matrix import OWN, ROUTES, Cast, cast_on
from tests.live import MakeParts, serving

Json = dict[str, Any]


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def app(make_parts: MakeParts) -> Flask:
    return create_app(make_parts(auth={"mode": "apikey"}))


@pytest.fixture
def document(app: Flask) -> Json:
    return build(app, app.extensions["asynch"].settings)


@pytest.fixture
def team(make_parts: MakeParts, pool: db.Pool) -> Iterator[Cast]:
    with serving(make_parts(auth={"mode": "apikey"})) as live:
        yield cast_on(live, pool)


def test_every_route_is_described_and_nothing_else(app: Flask) -> None:
    assert {rule.endpoint for rule in app.url_map.iter_rules()} == set(OPERATIONS)


def test_the_document_is_openapi(document: Json) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_every_member_is_explained_and_no_word_is_spare(document: Json) -> None:
    members = {
        (shape, name): member
        for shape, schema in document["components"]["schemas"].items()
        for name, member in schema.get("properties", {}).items()
    }

    assert [place for place, member in members.items() if not member.get("description")] == []
    assert set(FIELDS) - {name for _, name in members} == set()


def test_every_operation_has_a_summary(document: Json) -> None:
    assert [told for path in document["paths"].values() for told in path.values() if not told["summary"]] == []


@pytest.mark.parametrize("route", sorted(ROUTES))
def test_answers_are_what_the_document_says(team: Cast, document: Json, route: str) -> None:
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


def expect_told(document: Json, route: str, answer: requests.Response) -> None:
    """The answer's status, type and body are in the document, and its body has the shape told."""
    method, _, rule = route.partition(" ")
    operation = document["paths"][told_path(rule)][method.lower()]
    responses = operation["responses"]
    assert str(answer.status_code) in responses, (route, answer.status_code, answer.text[:500])
    response = responses[str(answer.status_code)]
    if "$ref" in response:
        response = document["components"]["responses"][str(answer.status_code)]
    kinds = response.get("content", {})
    media_type = answer.headers.get("Content-Type", "").partition(";")[0]
    if not kinds or "*/*" in kinds:
        return
    assert media_type in kinds, (route, media_type)
    if "json" in media_type:
        errors = validator(document, kinds[media_type]["schema"]).iter_errors(answer.json())
        assert [(list(e.absolute_path), e.message) for e in errors] == [], answer.text[:1000]


def told_path(rule: str) -> str:
    named = {
        "<id:task_id>": "{taskId}",
        "<id:delivery_id>": "{deliveryId}",
        "<path:key>": "{key}",
        "<string:name>": "{name}",
    }
    for variable, told in named.items():
        rule = rule.replace(variable, told)
    return rule


def validator(document: Json, schema: Json) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})
