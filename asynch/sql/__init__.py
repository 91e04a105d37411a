"""Every query, by name: the .sql files of this package, cut at their `-- name --` headers.

A header may say `-- name, plan kept --`: of what is run for each task or handful of tasks, and whose best plan depends
on no parameter. Sessions of workers keep to one plan always, others where the planner expects no less of another.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString, cast

_HEADER = re.compile(r"^-- ([a-z_]+)(, plan kept)? --$", re.MULTILINE)


@cache
def _cut() -> tuple[dict[str, LiteralString], frozenset[str]]:
    queries: dict[str, LiteralString] = {}
    kept: set[str] = set()
    for file in sorted(files(__package__).iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".sql"):
            continue
        parts = _HEADER.split(file.read_text(encoding="utf-8"))
        for name, mark, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            if name in queries:
                raise ValueError(f"query {name} stands twice")
            # The files travel with the program, so their text is as literal as its code.
            queries[name] = cast(LiteralString, text.strip())
            if mark:
                kept.add(name)
    return queries, frozenset(kept)


def catalogue() -> dict[str, LiteralString]:
    """All queries by name; a name that stands twice is an error."""
    return _cut()[0]


def query(name: str) -> LiteralString:
    """The query called `name`."""
    return catalogue()[name]


def plan_is_kept(name: str) -> bool:
    """Whether its plan may outlive the call, where the session allows that."""
    return name in _cut()[1]
