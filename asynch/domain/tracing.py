"""Trace context (W3C Trace Context, level 1) on its way from a task's creator to the call of its model."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_LATER = re.compile(r"(?!00)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}-[!-~]*")
#: what the specification asks everyone to carry on at least
_STATE_MAX = 512
_STATE = re.compile(r"[ -~]*")


def packed(parent: str | None, state: str | None) -> str:
    """Both headers as one text; empty where there is no context that can be read, as the specification has it.

    A state that is too long, or no header value, is dropped alone.
    """
    parent = (parent or "").strip()
    if not _PARENT.fullmatch(parent) and not (_LATER.fullmatch(parent) and _PARENT.match(parent)):
        return ""
    state = (state or "").strip()
    return f"{parent}\n{state}" if len(state) <= _STATE_MAX and _STATE.fullmatch(state) else f"{parent}\n"


def headers(text: str) -> Mapping[str, str]:
    """The headers of a packed context."""
    parent, _, state = text.partition("\n")
    named = {"traceparent": parent, "tracestate": state}
    return {name: value for name, value in named.items() if value}
