"""Which headers of a creator go along with an upload: those that say who it is, never a key of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynch.domain import sender


@pytest.mark.parametrize(
    "value", ["Bearer ak_0123_s", "bearer ak_x", "BEARER   ak_x", "Bearer\tAK_x", "Basic abc, Bearer ak_x"]
)
def test_a_key_of_ours_does_not_go_along(value: str) -> None:
    assert sender.forwarded({"Authorization": value, "X-User-Info": "u"}) == {"X-User-Info": "u"}


@pytest.mark.parametrize("value", ["Bearer eyJhbGciOi", "Basic YWtf", "Bearer xak_1", "ak_1"])
def test_what_is_no_key_of_ours_goes_along_as_it_is(value: str) -> None:
    assert sender.forwarded({"Authorization": value, "X-User-Info": None}) == {"Authorization": value}


def test_an_empty_header_is_none() -> None:
    assert sender.forwarded({"Authorization": "", "X-User-Info": ""}) == {}


@given(st.dictionaries(st.sampled_from(sender.NAMES), st.text()))
def test_what_was_packed_comes_back(headers: dict[str, str]) -> None:
    assert sender.unpacked(sender.packed(headers)) == headers
