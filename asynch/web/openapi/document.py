"""The OpenAPI 3.1 document of an application: its routes, the table of operations, and the shapes they name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Literal

from flask import Flask
from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from asynch.settings import Settings
from asynch.web import auth
from asynch.web.openapi import headers
from asynch.web.openapi.answers import Problem
from asynch.web.openapi.links import LINKS, Link
from asynch.web.openapi.operations import OPERATIONS, Operation, Sent, Shape
from asynch.web.openapi.task_answers import Delivered
from asynch.web.openapi.words import ABOUT, CODES, ERRORS, EXAMPLES, FIELDS, TAGS
from asynch.web.rates import CREATES, READS, UPLOADS

Json = dict[str, Any]
Mode = Literal["validation", "serialization"]
Refs = Mapping[Any, Json]  #: by model: where its schema stands

_REF = "#/components/schemas/{model}"
_VARIABLE = re.compile(r"<(?:[a-z]+:)?([a-z_]+)>")
_ALWAYS = (500, 503)
_OF_BYTES = (400, 413)
_OF_BODIES = (*_OF_BYTES, 415, 422)
_OF_CALLERS = (401, 403, 429)
_OF_ERRORS = {  #: their headers
    401: ("WWW-Authenticate",),
    412: ("Tus-Resumable", "Tus-Version"),
    426: ("Upgrade",),
    429: ("Retry-After", "RateLimit?", "RateLimit-Policy?"),
    503: ("Retry-After",),
    507: ("Retry-After",),
}

_SCHEMES: Mapping[str, Mapping[str, Json]] = {
    "none": {},
    "apikey": {"key": {"type": "http", "scheme": "bearer", "description": "An API key: `ak_…`."}},
    "jwt": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
    "gateway": {
        "gateway": {"type": "apiKey", "in": "header", "name": "X-Gateway-Secret"},
        "user": {"type": "apiKey", "in": "header", "name": "X-User-Info"},
    },
}


def build(app: Flask, settings: Settings) -> Json:
    """Everything `app` serves, for `settings`' way of authentication."""
    schemas, refs = _schemas()
    schemes = dict(_SCHEMES[settings.auth.mode])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "asynch",
            "version": version("asynch"),
            "summary": "A durable queue in front of slow HTTP model services",
            "description": ABOUT,
        },
        "servers": [{"url": settings.public_url}],
        "security": [{name: [] for name in schemes}] if schemes else [],
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "paths": _paths(app, refs, schemas, schemes),
        "components": {
            "schemas": schemas,
            "responses": {str(status): _problem(status, refs) for status in ERRORS},
            "securitySchemes": schemes,
        },
    }


def _rules(app: Flask) -> Iterator[Rule]:
    """Each route once; Flask keeps a WebSocket's two."""
    return (rule for rule in app.url_map.iter_rules() if not rule.websocket)


def methods_of(rule: Rule) -> set[str]:
    """The methods that a route is for, without those that the framework answers by itself."""
    methods = set(rule.methods or ())
    if getattr(rule, "provide_automatic_options", False):
        methods.discard("OPTIONS")
    return methods - {"HEAD"} if "GET" in methods else methods


def _models() -> list[tuple[type[BaseModel], Mode]]:
    asked = {model for o in OPERATIONS.values() for model in (o.body, o.query) if isinstance(model, type)}
    told: set[type[BaseModel]] = {Problem, Delivered}
    told |= {shape for o in OPERATIONS.values() for shape in o.answers.values() if isinstance(shape, type)}
    found: list[tuple[type[BaseModel], Mode]] = [(model, "validation") for model in asked]
    found += [(model, "serialization") for model in told]
    return sorted(found, key=lambda pair: (pair[0].__module__, pair[0].__name__))


def _schemas() -> tuple[Json, Refs]:
    """The components, and where each model stands among them."""
    by_model, whole = models_json_schema(_models(), ref_template=_REF)
    schemas: Json = whole["$defs"]
    for schema in schemas.values():
        _explain(schema)
    for model, mode in by_model:
        if mode == "validation":
            _show(schemas[by_model[model, mode]["$ref"].rpartition("/")[2]])
    return schemas, {model: dict(place) for (model, _), place in by_model.items()}


def _explain(schema: Json) -> None:
    """Descriptions in, generated titles out."""
    schema.pop("title", None)
    for name, member in schema.get("properties", {}).items():
        member.pop("title", None)
        if name in FIELDS:
            member["description"] = FIELDS[name]


def _show(schema: Json) -> None:
    """Examples in, for what is sent."""
    for name in schema.get("properties", {}).keys() & EXAMPLES.keys():
        schema["properties"][name]["examples"] = [EXAMPLES[name]]


def _paths(app: Flask, refs: Refs, schemas: Json, schemes: Mapping[str, Json]) -> Json:
    paths: Json = {}
    for rule in sorted(_rules(app), key=lambda rule: (rule.endpoint.partition(".")[0], rule.rule)):
        path = _VARIABLE.sub(lambda found: "{" + to_camel(found[1]) + "}", rule.rule)
        for method in sorted(methods_of(rule)):
            told = _operation(app, rule, refs, schemas)
            blueprint = rule.endpoint.partition(".")[0]
            if schemes and blueprint in auth.OPEN:
                told["security"] = []
            elif schemes and blueprint in auth.LOCAL:
                told["security"] = [{}, {name: [] for name in schemes}]
            paths.setdefault(path, {})[method.lower()] = told
    return paths


def _operation(app: Flask, rule: Rule, refs: Refs, schemas: Json) -> Json:
    entry = OPERATIONS[rule.endpoint]
    told: Json = {
        "operationId": _operation_id(rule.endpoint),
        "tags": [rule.endpoint.partition(".")[0]],
        "summary": (app.view_functions[rule.endpoint].__doc__ or "").strip().partition("\n")[0],
        "responses": {str(status): _answer(entry, status, shape, refs) for status, shape in entry.answers.items()},
    }
    told["responses"] |= {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(_errors(rule.endpoint, entry))
    }
    for link in LINKS.get(rule.endpoint, ()):
        for status, shape in entry.answers.items():
            if isinstance(shape, type):
                told["responses"][str(status)].setdefault("links", {})[_operation_id(link.to)] = _link(link)
    if parameters := [*_variables(rule), *_query(entry, refs, schemas), *headers.asked(*entry.asks)]:
        told["parameters"] = parameters
    if entry.body is not None:
        told["requestBody"] = _body(entry.body, refs)
    if entry.calls_back:
        told["callbacks"] = {"final": {entry.calls_back: {"post": _delivery(refs)}}}
    return told


def _body(body: Sent, refs: Refs) -> Json:
    if isinstance(body, str):
        content = {body.rstrip("?"): {"schema": {"type": "string", "format": "binary"}}}
        return {"required": not body.endswith("?"), "content": content}
    return {"required": True, "content": {body.media_type: {"schema": refs[body]}}}


def _delivery(refs: Refs) -> Json:
    return {
        "summary": "A final state, signed as Standard Webhooks 1.0.0 has it",
        "requestBody": {"required": True, "content": {"application/json": {"schema": refs[Delivered]}}},
        "responses": {"2XX": {"description": "It arrived."}, "410": {"description": "Do not come again."}},
    }


def _errors(endpoint: str, entry: Operation) -> set[int]:
    found = {*entry.errors, *_ALWAYS}
    if entry.body is not None:
        found |= set(_OF_BYTES if isinstance(entry.body, str) else _OF_BODIES)
    if entry.query is not None or entry.asks:
        found.add(422)
    if endpoint.partition(".")[0] not in auth.OPEN:
        found |= {*_OF_CALLERS, 400}
    if endpoint in READS | CREATES | UPLOADS:
        found.add(429)
    return found


def _answer(entry: Operation, status: int, shape: Shape, refs: Refs) -> Json:
    told: Json = {
        "description": HTTPStatus(status).phrase,
        "headers": headers.told("X-Request-Id", *entry.tells.get(status, ())),
    }
    if isinstance(shape, str):
        told["content"] = {shape: {"schema": {} if shape == "application/json" else {"type": "string"}}}
    elif shape is not None:
        told["content"] = {shape.media_type: {"schema": refs[shape]}}
    return told


def _link(link: Link) -> Json:
    taken = {"parameters": dict(link.parameters), "requestBody": link.body}
    return {"operationId": _operation_id(link.to)} | {name: value for name, value in taken.items() if value}


def _operation_id(endpoint: str) -> str:
    return to_camel(endpoint.rpartition(".")[2])


def _problem(status: int, refs: Refs) -> Json:
    return {
        "description": f"{ERRORS[status]} `code`: {', '.join(f'`{code}`' for code in CODES[status])}.",
        "headers": headers.told("X-Request-Id", *_OF_ERRORS.get(status, ())),
        "content": {"application/problem+json": {"schema": refs[Problem]}},
    }


def _variables(rule: Rule) -> Iterator[Json]:
    for kind, name in re.findall(r"<([a-z]+):([a-z_]+)>", rule.rule):
        pattern = "^[0-9]+$" if kind == "id" else "^.+$"
        yield {"name": to_camel(name), "in": "path", "required": True, "schema": {"type": "string", "pattern": pattern}}


def _query(entry: Operation, refs: Refs, schemas: Json) -> Iterator[Json]:
    if entry.query is None:
        return
    schema = schemas[refs[entry.query]["$ref"].rpartition("/")[2]]
    for name, member in schema.get("properties", {}).items():
        yield {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": member.get("description", ""),
            "schema": {key: value for key, value in member.items() if key != "description"},
        }
