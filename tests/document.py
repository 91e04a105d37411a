"""What /openapi.json tells, and whether an answer is what it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from flask import Flask
from jsonschema import Draft202012Validator

from asynch import db
from asynch.web.app import create_app
from asynch.web.openapi.document import build
from asynch.web.openapi.words import CODES
from tests.live import parts_on

Json = dict[str, Any]

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


def expect_shape(document: Json, schema: Json, body: Any) -> None:
    """The body is as the schema says, with no member that it does not tell of."""
    errors = validator(document, schema).iter_errors(body)
    assert [(list(e.absolute_path), e.message) for e in errors] == [], str(body)[:1000]


def told_path(rule: str) -> str:
    """A route's path as the document writes it."""
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


def expect_headers(told: Json, answer: requests.Response) -> None:
    """Headers that every such answer has are there, and what is there is as told."""
    assert [name for name, header in told.items() if header["required"] and name not in answer.headers] == []
    if answer.ok:
        assert {name.lower() for name in answer.headers} - {name.lower() for name in told} - COMMON == set()
    for name in told.keys() & answer.headers.keys():
        value: Any = answer.headers[name]
        Draft202012Validator(told[name]["schema"]).validate(int(value) if value.isdigit() else value)


def validator(document: Json, schema: Json) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})
