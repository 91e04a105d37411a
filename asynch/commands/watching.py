"""Waiting for tasks before a person's eyes: a bar on a terminal, a line per news elsewhere; all on stderr."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from asynch.client import Client, Item, WaitError
from asynch.commands.plain import complain
from asynch.commands.remote import Remote
from asynch.commands.shown import show
from asynch.errors import UserError

ITEM_COLUMNS = ("taskId", "modelName", "status", "progress", "fileType", "fileSize", "errorMsg")
INTERRUPTED = 130  #: 128 + SIGINT, as a shell says it


def finish(to: Remote, ids: Sequence[str], timeout_s: float, out: Path | None) -> int:
    """Wait, show the items, download the results into `out`; the exit code: 0 if all succeeded, else 1.

    Whatever ends the waiting early names the tasks that are still open.
    """
    latest: dict[str, Item] = {}
    try:
        items = list(_watch(to.client, ids, timeout_s, latest).values())
        files = [] if out is None else [_download(to.client, item, out) for item in items]
    except WaitError as exc:
        raise UserError(f"{exc}; still open: {' '.join(exc.pending)}") from exc
    except KeyboardInterrupt:
        still_open = [i for i in ids if i not in latest or not latest[i]["final"]]
        complain(f"interrupted; still open: {' '.join(still_open) or 'none'}")
        return INTERRUPTED
    by_id = {item["taskId"]: item for item in items}
    show([by_id[i] for i in dict.fromkeys(ids)], ITEM_COLUMNS, as_json=to.as_json)
    for path in filter(None, files):
        click.echo(f"wrote {path}", err=True)
    return 0 if all(item["status"] == "completed" for item in items) else 1


def _watch(client: Client, ids: Sequence[str], timeout_s: float, latest: dict[str, Item]) -> dict[str, Item]:
    total = len(dict.fromkeys(ids))
    with _bar(total) if sys.stderr.isatty() else _lines(total) as told:

        def on_change(item: Item) -> None:
            latest[item["taskId"]] = item
            told(latest)

        return client.wait(ids, timeout_s, on_change)


def _counts(latest: dict[str, Item], total: int) -> str:
    states = Counter(item["status"] for item in latest.values())
    waiting = states["pending"] + total - len(latest)
    done = sum(item["final"] for item in latest.values())
    bad = done - states["completed"]
    return f"waiting {waiting}, running {states['processing']}, done {done} of {total}" + (
        f", {bad} bad" if bad else ""
    )


@contextmanager
def _bar(total: int) -> Iterator[Callable[[dict[str, Item]], None]]:
    """One bar over all; a running task counts as far as its model says."""
    columns = (BarColumn(24), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(_counts({}, total), total=100 * total)

        def told(latest: dict[str, Item]) -> None:
            parts = (100 if item["final"] else item.get("progress") or 0 for item in latest.values())
            progress.update(bar, completed=sum(parts), description=_counts(latest, total))

        yield told


@contextmanager
def _lines(total: int) -> Iterator[Callable[[dict[str, Item]], None]]:
    """A plain line whenever the counts are new: for logs and pipes."""
    last = ""

    def told(latest: dict[str, Item]) -> None:
        nonlocal last
        if len(latest) == total and (line := _counts(latest, total)) != last:
            last = line
            click.echo(line, err=True)

    yield told


def _download(client: Client, item: Item, out: Path) -> Path | None:
    """The result's file, None for a task without one."""
    if item["status"] != "completed":
        return None
    out.mkdir(parents=True, exist_ok=True)
    # what a server says becomes part of a path: no other signs than it may have
    kind = "".join(sign for sign in item.get("fileType", "") if sign.isalnum()) or "bin"
    path = out / f"{int(item['taskId'])}.{kind}"
    client.download(item["taskId"], path)
    return path
