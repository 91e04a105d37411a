"""The options of every processor: defaults that hold, ranges that are kept, a description for each."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from asynch.media.processors import PROCESSORS
from asynch.media.video import fit

SIDES = st.integers(1, 20_000)
OPTIONS = [(name, key) for name, processor in PROCESSORS.items() for key in processor.options.model_fields]


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_option_has_a_default(name: str) -> None:
    options = PROCESSORS[name].options

    assert options.model_validate(options().model_dump()) == options()


@pytest.mark.parametrize(("name", "key"), OPTIONS)
def test_every_option_is_described(name: str, key: str) -> None:
    assert PROCESSORS[name].options.model_fields[key].description


@pytest.mark.parametrize("name", PROCESSORS)
def test_an_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        PROCESSORS[name].options.model_validate({"unknown": 1})


@pytest.mark.parametrize(("name", "key"), OPTIONS)
@given(
    value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers()))
)
def test_no_value_gets_in_that_ffmpeg_or_pillow_could_misread(name: str, key: str, value: Any) -> None:
    """Whatever is let in is a number within the schema's range, a listed word, a bit rate, or one line of text."""
    options = PROCESSORS[name].options
    try:
        taken = getattr(options.model_validate({key: value}), key)
    except ValidationError:
        return
    schema = options.model_json_schema()["properties"][key]
    bounds = schema if "minimum" in schema else next(iter(schema.get("anyOf", [schema])))
    if isinstance(taken, (int, float)):
        assert bounds["minimum"] <= taken <= bounds["maximum"]
    elif isinstance(taken, str):
        assert taken in schema.get("enum", [taken])
        assert taken.isprintable()


@pytest.mark.parametrize("value", ["29k", "321k", "128", "128K", "128k\n", "-1k", "1e3k", "१२८k"])
def test_a_bit_rate_is_between_30k_and_320k(value: str) -> None:
    with pytest.raises(ValidationError):
        PROCESSORS["video.compress"].options(audio_bitrate=value)


@pytest.mark.parametrize("value", ["30k", "64k", "99k", "100k", "128k", "320k"])
def test_a_bit_rate_is_taken(value: str) -> None:
    assert PROCESSORS["video.compress"].options(audio_bitrate=value).audio_bitrate == value


@given(SIDES, SIDES, SIDES, SIDES)
def test_what_fits_is_inside_the_box_and_no_larger_than_before(width: int, height: int, most: int, tall: int) -> None:
    fitted = fit((width, height), (most, tall))

    assert 1 <= fitted[0] <= min(width, most)
    assert 1 <= fitted[1] <= min(height, tall)


@given(SIDES, SIDES)
def test_even_sides_are_even(width: int, height: int) -> None:
    assert all(side % 2 == 0 and side >= 2 for side in fit((width, height), (1000, 1000), even=True))
