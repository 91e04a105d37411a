"""Bodies taken apart: the raw parts to the byte, the rest as Python values, nothing that crashes."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from asynch.domain.rawjson import BadJson, RawJson, TooDeep, decode, depth, elements, members
from asynch.errors import InvalidInput

RAW = frozenset({"requestPayload"})

NAMES = st.text(st.characters() | st.sampled_from('\\"[]{}/'), max_size=5)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(NAMES, v, max_size=4))
SEEDS = st.integers(0, 2**32).map(Random)


def space(random: Random) -> str:
    return "".join(random.choices(" \t\r\n", k=random.choice([0, 0, 1, 3])))


def padded(value: Any, random: Random) -> str:
    return space(random) + formatted(value, random) + space(random)


def formatted(value: Any, random: Random) -> str:
    """`value` as JSON with white space and escapes wherever the grammar lets them be."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=random.choice([True, False]))
        return text.replace("/", random.choice(["/", "\\/"]))
    if isinstance(value, dict):
        pairs = [f"{padded(key, random)}:{padded(item, random)}" for key, item in value.items()]
        return "{" + (",".join(pairs) or space(random)) + "}"
    if isinstance(value, list):
        return "[" + (",".join(padded(item, random) for item in value) or space(random)) + "]"
    return json.dumps(value)


def nesting(value: Any) -> int:
    if not isinstance(value, (dict, list)):
        return 0
    return 1 + max(map(nesting, value.values() if isinstance(value, dict) else value), default=0)


class Body(BaseModel, extra="forbid"):
    requestPayload: RawJson | None = None  # noqa: N815 - the client's spelling
    name: str = ""
    number: int = 0
    real: float = 0


@given(SEEDS, VALUES)
def test_a_raw_member_is_its_source_slice_and_reparses_to_the_same(random: Random, value: Any) -> None:
    text = formatted(value, random)
    before, after = space(random), space(random)
    found = members(f'{before}{{"a":{before}1,"requestPayload":{before}{text}{after}}}{after}', raw=RAW)
    assert found == {"a": 1, "requestPayload": RawJson(text)}
    assert json.loads(found["requestPayload"].text) == value


@given(SEEDS, st.dictionaries(NAMES, VALUES, max_size=4))
def test_without_raw_members_an_object_reads_as_usual(random: Random, value: dict[str, Any]) -> None:
    assert members(padded(value, random), raw=frozenset()) == value


@given(SEEDS, st.lists(VALUES | st.fixed_dictionaries({"requestPayload": VALUES}), max_size=4))
def test_elements_read_as_members_do_and_others_as_usual(random: Random, items: list[Any]) -> None:
    found = elements(f'{{"tasks":{padded(items, random)}}}', "tasks", raw=RAW)
    plain = [
        {k: json.loads(v.text) if isinstance(v, RawJson) else v for k, v in item.items()}
        if isinstance(item, dict)
        else item
        for item in found
    ]
    assert plain == items
    raw = [item["requestPayload"] for item in found if isinstance(item, dict) and "requestPayload" in item]
    assert all(isinstance(value, RawJson) for value in raw)


@given(SEEDS, VALUES)
def test_depth_counts_the_levels(random: Random, value: Any) -> None:
    assert depth(padded(value, random)) == nesting(value)


@pytest.mark.parametrize(
    ("text", "levels"),
    [("1", 0), ("[]", 1), ("[{}]", 2), (r'["\\",[[]]]', 3), (r'["\\\"[[[",[]]', 2), (r'{"\"{":"[","]":[]}', 2)],
)
def test_depth_sees_through_quotes_and_backslashes(text: str, levels: int) -> None:
    assert depth(text) == levels == nesting(json.loads(text))


@given(st.text('[]{}",:\\ 1a', max_size=40))
def test_any_text_is_read_like_the_standard_parser_or_refused(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        expected = None
    try:
        assert members(text, raw=frozenset()) == expected
    except BadJson:
        assert not isinstance(expected, dict)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "[]", "1", "null", "{", "}", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":1,}', "{a:1}", "{'a':1}"),
        *('{"a":1}x', '{"a":1}{}', '{"a":01}', '{"a":.5}', '{"a":1.}', '{"a":+1}', '{"a":0x1}', '{"a":١}'),
        *('{"a":NaN}', '{"a":Infinity}', '{"a":-Infinity}', '{"requestPayload":[NaN]}', '{"a":"\t"}', '{"a":"\\x"}'),
        *('{"requestPayload":}', '{"requestPayload":[1}', '{"requestPayload":tru}', '\u00a0{"a":1}', '\ufeff{"a":1}'),
        *('{"a" 1}', '{"a":1 "b":2}', "{,}", '{"requestPayload":"\n"}', '{"requestPayload":01}', "{1:2}"),
    ],
)
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(BadJson):
        members(text, raw=RAW)


@pytest.mark.parametrize("text", ["1e400", "-1e400", "9" * 5000, "0." + "1" * 5000, r'"\ud800"', r'"\u0000"', "-0"])
def test_a_raw_member_keeps_what_python_could_not(text: str) -> None:
    assert members(f'{{"requestPayload": [ {text} ]}}', raw=RAW) == {"requestPayload": RawJson(f"[ {text} ]")}


@pytest.mark.parametrize("text", ["1e400", "-1e400", "9" * 5000, "-" + "9" * 5000])
@pytest.mark.parametrize("field", ["name", "number", "real"])
def test_a_number_beyond_python_is_a_mistake_at_its_field(text: str, field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(members(f'{{"{field}": {text}}}', raw=RAW))
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


def test_the_last_of_equal_members_wins() -> None:
    text = r'{"requestPayload":1,"a":1,"request\u0050ayload":2,"a":2}'
    assert members(text, raw=RAW) == {"requestPayload": RawJson("2"), "a": 2}


def test_a_raw_member_goes_through_a_pydantic_model_unchanged() -> None:
    body = Body.model_validate(members('{"requestPayload":{ "b":1, "a":2.50 },"name":"n"}', raw=RAW))
    assert body == Body(requestPayload=RawJson('{ "b":1, "a":2.50 }'), name="n")


def test_a_raw_field_is_any_value_in_the_schema() -> None:
    assert Body.model_json_schema()["properties"]["requestPayload"]["anyOf"][0] == {}


@pytest.mark.parametrize("member", ["requestPayload", "other"])
def test_one_level_too_many_is_refused_with_its_place(member: str) -> None:
    at_limit, over = "[" * 64 + "]" * 64, '[{"a":' * 32 + "[]" + "}]" * 32
    assert member in members(f'{{"{member}":{at_limit}}}', raw=RAW)
    with pytest.raises(TooDeep) as caught:
        members(f'{{"{member}":{over}}}', raw=RAW)
    assert [mistake.pointer for mistake in caught.value.mistakes] == [f"#/{member}"]


def test_many_brackets_side_by_side_or_in_strings_are_not_deep() -> None:
    text = '["' + "[" * 100 + '\\"{\\\\",' + "[]," * 100 + "{}]"
    assert members(f'{{"requestPayload":{text}}}', raw=RAW) == {"requestPayload": RawJson(text)}


@pytest.mark.parametrize("start", ['{"requestPayload":', '{"a":', '{"tasks":[', '{"tasks":[{"a":', ""])
@pytest.mark.parametrize("nest", ["[", '{"a":', '[{"":'])
@pytest.mark.timeout(5)
def test_ten_megabytes_of_brackets_are_refused_at_once(start: str, nest: str) -> None:
    text = start + nest * (10_000_000 // len(nest))
    with pytest.raises((TooDeep, BadJson, InvalidInput)):
        members(text, raw=RAW)
    with pytest.raises((TooDeep, BadJson, InvalidInput)):
        elements(text, "tasks", raw=RAW)


def test_a_deep_value_is_refused_however_little_stack_is_left() -> None:
    text = '{"requestPayload":' + "[" * 400 + "]" * 400 + "}"

    def at_level(level: int) -> None:
        if level:
            at_level(level - 1)
        else:
            members(text, raw=RAW)

    with pytest.raises(TooDeep):
        at_level(700)


def test_the_place_of_a_mistake_is_a_json_pointer() -> None:
    name = json.dumps("a/b~c d\ud800")
    with pytest.raises(TooDeep) as caught:
        members(f"{{{name}:[[]]}}", raw=RAW, max_depth=1)
    assert caught.value.mistakes[0].pointer == "#/a~1b~0c%20d%3F"


def test_an_element_that_is_too_deep_leaves_the_others_good() -> None:
    found = elements('{"tasks":[{"a":1},{"requestPayload":[[]]},7,[[]],{}]}', "tasks", raw=RAW, max_depth=1)
    assert [found[0], found[2], found[4]] == [{"a": 1}, 7, {}]
    assert isinstance(found[1], TooDeep)
    assert isinstance(found[3], TooDeep)
    assert found[1].mistakes[0].pointer == "#/tasks/1/requestPayload"
    assert found[3].mistakes[0].pointer == "#/tasks/3"


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ("{}", "#/tasks"),
        ('{"tasks":{}}', "#/tasks"),
        ('{"tasks":null}', "#/tasks"),
        ('{"tasks":[],"more":1}', "#/more"),
        ('{"tasks":[1,2,3]}', "#/tasks"),
    ],
)
def test_a_batch_is_one_list_of_limited_length_and_nothing_else(text: str, pointer: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        elements(text, "tasks", raw=RAW, max_items=2)
    assert [mistake.pointer for mistake in caught.value.mistakes] == [pointer]


@pytest.mark.parametrize("text", ['{"tasks":[', '{"tasks":[1', '{"tasks":[1,]}', '{"tasks":[{}}', '{"tasks":[]', "[]"])
def test_a_broken_batch_is_refused(text: str) -> None:
    with pytest.raises(BadJson):
        elements(text, "tasks", raw=RAW)


def test_an_empty_batch_has_no_elements() -> None:
    assert elements('{ "tasks" : [ ] }', "tasks", raw=RAW) == []


def test_bodies_are_utf8() -> None:
    assert decode('{"ä":"😀"}'.encode()) == '{"ä":"😀"}'


@pytest.mark.parametrize(
    "body", [b"\xff", b'{"a":"\xed\xa0\x80"}', b"\xc0\x80", "{}".encode("utf-16"), b"\xef\xbb\xbf{}"]
)
def test_bodies_in_another_encoding_are_refused(body: bytes) -> None:
    with pytest.raises(BadJson, match="the body"):
        decode(body)
