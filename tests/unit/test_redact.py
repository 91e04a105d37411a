from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynch.domain.redact import KEPT, redacted, redacted_each, without

NAMES = [
    "password", "Passwd", "secret", "clientSecret", "token", "access_token", "apiKey", "api_key", "API-KEY", "x-api-key",
    "accessKey", "private_key", "Authorization", "Set-Cookie", "credentials", "pwd", "passphrase",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_under_a_secret_name_is_hidden(name: str) -> None:
    assert redacted(json.dumps({"a": 1, name: "hunter2", "b": 2})) == f'{{"a": 1, "{name}":"***", "b": 2}}'


@pytest.mark.parametrize(
    "value",
    ['"hunter2"', '"a\\"hunter2"', '"hunter2\\\\"', "17hunter2", "true", "null", '["hunter2",["hunter2"]]',
     '{"x":{"y":"hunter2"},"z":["hunter2"]}', '"hunter2', '["hunter2"', '{"x":"hunter2'],
)  # fmt: skip
def test_whatever_its_value_is(value: str) -> None:
    assert "hunter2" not in redacted(f'{{"token" : {value}')


@pytest.mark.parametrize("text", [
    r'{"p\u0061ssword":"hunter2"}', r'{"body":"{\"password\":\"hunter2\"}"}', r'{"b":"[{\\\"token\\\": \\\"hunter2\\\"}]"}',
])  # fmt: skip
def test_however_its_name_is_written(text: str) -> None:
    assert "hunter2" not in redacted(text)


@pytest.mark.parametrize("text", ['{"prompt":"tell me a secret","b":"x"}', '["password","x"]', '"token: x"', "{}", "1"])
def test_other_texts_stay(text: str) -> None:
    assert redacted(text) == text


def test_what_follows_a_secret_is_still_shown() -> None:
    assert redacted('{"secret":{"a":[1,{"b":2}]},"c":3}') == '{"secret":"***","c":3}'


def test_only_the_beginning_is_kept() -> None:
    assert redacted("1" * 10 * KEPT) == "1" * KEPT
    assert redacted(None) == ""


def test_a_secret_across_the_end_of_what_is_kept_is_hidden() -> None:
    for padding in range(KEPT - 40, KEPT + 5):
        assert "hunt" not in redacted('{"' + "x" * padding + '":1,"password":"hunter2hunter2hunter2"}')


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just("hunter2") | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(max_size=20), st.sampled_from(NAMES), VALUES, st.booleans())
def test_no_value_under_a_secret_name_is_ever_shown(before: str, name: str, value: object, ascii_only: bool) -> None:
    text = json.dumps({"k": before, name: ["hunter2", value], "l": 1}, ensure_ascii=ascii_only)

    assert "hunter2" not in redacted(text)
    assert redacted(text).endswith('"l": 1}')


#: texts with a secret in some of them, one that is cut off, and halves of a name that would be one together
MANY = st.lists(st.none() | st.text(max_size=5) | st.sampled_from([
    *(f'{{"{name}": "hunter2"}}' for name in NAMES), r'{"p\u0061ssword":"hunter2"}', "x" * KEPT + '{"token": "hunter2"}',
    "x" * 3 * KEPT, "pass", "word",
]), max_size=4)  # fmt: skip


@given(MANY)
def test_of_many_texts_each_is_told_as_if_it_were_alone(texts: list[str | None]) -> None:
    assert redacted_each(texts) == [redacted(text) for text in texts]


@pytest.mark.parametrize("said", [
    "X-Key: abc/def+123=", 'you sent "Bearer abc/def+123="', "abc/def+123=abc/def+123=", '{"k": "abc/def+123="}',
])  # fmt: skip
def test_a_known_secret_is_hidden_wherever_it_stands(said: str) -> None:
    told = without(said, ["Bearer abc/def+123=", "abc/def+123="])

    assert "abc" not in told
    assert "***" in told


def test_a_known_secret_is_hidden_as_json_escapes_it() -> None:
    assert "quo" not in without(json.dumps({"key": 'quo"ted\\secret'}), ['quo"ted\\secret'])


def test_a_word_too_short_to_be_a_secret_stays() -> None:
    assert without("1 of 10 failed", ["1", "of"]) == "1 of 10 failed"
