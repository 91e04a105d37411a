"""Trace context: what can be read is carried on as it is, what cannot is nothing."""

from __future__ import annotations

import pytest

from asynch.domain.tracing import headers, packed

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("state", ["", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"])
def test_a_context_comes_out_as_it_went_in(state: str) -> None:
    named = {"traceparent": PARENT} | ({"tracestate": state} if state else {})
    assert headers(packed(PARENT, state or None)) == named


def test_a_later_version_may_say_more() -> None:
    later = f"cc{PARENT[2:]}-what-the-future-will-bring"
    assert headers(packed(later, None)) == {"traceparent": later}


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        "00",
        PARENT.upper(),
        f"ff{PARENT[2:]}",
        f"{PARENT}-more",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        f"{PARENT}\r\nX-Evil: 1",
    ],
)
def test_what_is_no_context_is_none(parent: str | None) -> None:
    assert packed(parent, "a=b") == ""
    assert headers("") == {}


@pytest.mark.parametrize("state", ["a=" + "b" * 600, "a=b\nX-Evil: 1", "a=é"])
def test_a_state_that_cannot_be_is_dropped_alone(state: str) -> None:
    assert headers(packed(PARENT, state)) == {"traceparent": PARENT}
