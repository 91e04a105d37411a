"""/openapi.json says what is served: each route is in it, and what routes answer is what it says they do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator

from asynch import db
from asynch.errors import Refused
from asynch.web.openapi.document import build
from asynch.web.openapi.operations import OPERATIONS
from asynch.web.openapi.words import CODES, ERRORS, FIELDS
from asynch.web.problem import TABLE
from tests.document import Json, expect_told
from tests.live import MakeParts, serving
from tests.routes import OWN, ROUTES, Cast, cast_on

ANCHOR = re.compile(r'href="#([^"]*)"')
ID = re.compile(r' id="([^"]*)"')


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
