"""Every query, by name: the .sql files of this package, cut at their `-- name --` headers."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString, cast

_HEADER = re.compile(r"^-- ([a-z_]+) --$", re.MULTILINE)


@cache
def catalogue() -> dict[str, LiteralString]:
    """All queries by name; a name that stands twice is an error."""
    queries: dict[str, LiteralString] = {}
    for file in sorted(files(__package__).iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".sql"):
            continue
        parts = _HEADER.split(file.read_text(encoding="utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in queries:
                raise ValueError(f"query {name} stands twice")
            # The files travel with the program, so their text is as literal as its code.
            queries[name] = cast(LiteralString, text.strip())
    return queries


def query(name: str) -> LiteralString:
    """The query called `name`."""
    return catalogue()[name]
