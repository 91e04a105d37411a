"""The document as a page for people: schemas in words, and whatever else HTML asks for; it needs no script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson
from flask import render_template
from markupsafe import Markup, escape

Json = Mapping[str, Any]

_CODE = re.compile(r"`([^`]+)`")
_FORMATS = {"date-time": "time", "date": "day", "uri": "URL", "binary": "bytes"}
_PLAIN = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null", "object": "object"}


def render(document: Json) -> str:
    """The whole page."""
    return render_template("docs.html", api=document, kind=kind, marked=marked, example=example)


def marked(text: str) -> Markup:
    """Words with `code` among them."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def kind(schema: Json) -> Markup:
    """What a schema takes, in a few words and with links to shapes."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Markup('<a href="#{0}">{0}</a>').format(name)
    if "anyOf" in schema:
        return Markup(" or ").join(dict.fromkeys(map(kind, schema["anyOf"])))
    if "const" in schema or "enum" in schema:
        values = schema.get("enum") or [schema["const"]]
        return Markup(" or ").join(Markup("<code>{}</code>").format(_json(value)) for value in values)
    types = schema.get("type", [])
    found = [_typed(each, schema) for each in ([types] if isinstance(types, str) else types)]
    return Markup(" or ").join(found) if found else Markup("any JSON")


def example(schema: Json) -> str:
    """A body of this shape, from the examples of what it must have; empty where they do not suffice."""
    members = schema.get("properties", {})
    shown = {
        name: member["examples"][0]
        for name, member in members.items()
        if "examples" in member and (name in schema.get("required", ()) or name == "requestPayload")
    }
    whole = shown and set(schema.get("required", ())) <= shown.keys()
    return orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode() if whole else ""


def _typed(name: str, schema: Json) -> Markup:
    if name == "array":
        most = f" (at most {schema['maxItems']})" if "maxItems" in schema else ""
        return Markup("list of {}{}").format(kind(schema.get("items", {})), most)
    if name == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return Markup("object of {}").format(kind(schema["additionalProperties"]))
    if "contentSchema" in schema:
        return Markup("JSON of {}").format(kind(schema["contentSchema"]))
    if name == "string":
        return escape(
            _FORMATS.get(schema.get("format", ""), "text") + _range(schema, "minLength", "maxLength", " characters")
        )
    if name in ("integer", "number"):
        return escape(_PLAIN.get(name, name) + _range(schema, "minimum", "maximum", ""))
    return escape(_PLAIN.get(name, name))


def _range(schema: Json, least: str, most: str, unit: str) -> str:
    if least in schema and most in schema:
        return f", {schema[least]} to {schema[most]}{unit}"
    if least in schema:
        return f", {schema[least]}{unit} or more"
    return f", at most {schema[most]}{unit}" if most in schema else ""


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
