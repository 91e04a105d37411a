"""Schemas in words, as the page of the document tells them."""

from __future__ import annotations

from typing import Any

import pytest

from asynch.web.openapi.page import example, kind, marked


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({}, "any JSON"),
        ({"type": "string"}, "text"),
        ({"type": "string", "format": "date-time"}, "time"),
        ({"type": "string", "minLength": 1, "maxLength": 128}, "text, 1 to 128 characters"),
        ({"type": "integer", "minimum": 1}, "whole number, 1 or more"),
        ({"type": "number", "maximum": 5}, "number, at most 5"),
        ({"type": ["string", "integer"]}, "text or whole number"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "whole number or null"),
        ({"enum": [0, "a"]}, '<code>0</code> or <code>&#34;a&#34;</code>'),
        ({"const": "<"}, "<code>&#34;&lt;&#34;</code>"),
        ({"type": "array", "items": {"$ref": "#/components/schemas/Item"}}, 'list of <a href="#Item">Item</a>'),
        ({"type": "array", "items": {}, "maxItems": 3}, "list of any JSON (at most 3)"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "object of text"),
        ({"type": "object", "additionalProperties": True}, "object"),
        ({"type": "string", "contentSchema": {"$ref": "#/x/A"}}, 'JSON of <a href="#A">A</a>'),
    ],
)  # fmt: skip
def test_a_schema_is_told_in_words(schema: dict[str, Any], words: str) -> None:
    assert kind(schema) == words


def test_words_with_code_are_escaped() -> None:
    assert marked("a `b<` <c>") == "a <code>b&lt;</code> &lt;c&gt;"


def test_an_example_has_all_that_a_body_must_have_or_is_none() -> None:
    members = {"a": {"examples": [1]}, "b": {"examples": [2]}, "c": {}}

    assert example({"properties": members, "required": ["a"]}) == '{\n  "a": 1\n}'
    assert example({"properties": members, "required": ["a", "c"]}) == ""
    assert example({"properties": members}) == ""
