"""Results on stdout: JSON lines for scripts, a plain table for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click


def show(records: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print each record on its line: all of it as JSON, or `columns` of it below their names."""
    if as_json:
        for record in records:
            click.echo(json.dumps(record, ensure_ascii=False))
        return
    rows = [list(columns), *([_text(record.get(name)) for name in columns] for record in records)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(columns))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _text(value: object) -> str:
    """One word for nothing, one line for anything; a terminal's control characters do nothing."""
    text = " ".join(str(value).split()) if value not in (None, "") else "-"
    return "".join(sign if sign.isprintable() else "?" for sign in text)
