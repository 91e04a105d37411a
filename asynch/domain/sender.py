"""Whose result an upload brings: which headers of a task's creator go along with it, and how a row keeps them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

#: under which name they are sealed
FIELD = "upload_headers"
NAMES = ("Authorization", "X-User-Info")

#: a key of ours is no business of anybody else's, also where a proxy joined two headers into one
_OWN_KEY = re.compile(r"\bbearer\s+ak_", re.IGNORECASE)


def forwarded(given: Mapping[str, str | None]) -> dict[str, str]:
    """What goes along of the headers in NAMES as the creator sent them: those that are there, without our own keys."""
    return {name: value for name, value in given.items() if value and not _OWN_KEY.search(value)}


def packed(headers: Mapping[str, str]) -> str:
    """As one text, to be sealed."""
    return json.dumps(headers)


def unpacked(text: str) -> dict[str, str]:
    """What `packed` was given."""
    headers: dict[str, str] = json.loads(text)
    return headers
