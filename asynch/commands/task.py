"""`asynch task`: creating tasks and collecting them, from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from asynch.client import Created, IncompleteError
from asynch.commands.plain import complain
from asynch.commands.remote import Remote, given_fields, remote
from asynch.commands.shown import show
from asynch.commands.watching import INTERRUPTED, ITEM_COLUMNS, finish
from asynch.errors import UserError

_DAY_S = 86_400.0
_ids = click.argument("ids", nargs=-1, required=True, metavar="ID...")
_timeout = click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0), default=_DAY_S, help="Seconds to wait (a day)."
)
_out = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Write the results here, as ID.TYPE."
)


@click.group("task")
def group() -> None:
    """Tasks: pieces of work for a model."""


@group.command("create")
@click.argument("model")
@click.argument("payload", default="")
@click.option("--lines", is_flag=True, help="PAYLOAD is one JSON value a line, each a task.")
@click.option("--wait", is_flag=True, help="Wait until final; exit code 1 unless all succeeded.")
@_out
@_timeout
@click.option("--idempotency-key", help="The same key and payload make no second task.")
@click.option("--input-ref", help="What the model gets instead of a payload.")
@click.option("--biz-name", help="Counted by in statistics.")
@click.option("--client-ref", help="Your own name for it.")
@click.option("--metadata", help="A JSON object, given back as it is.")
@click.option("--priority", type=int, help="0 to 9, higher first.")
@click.option("--delay-seconds", type=float, help="Not before so long from now.")
@click.option("--not-before", help="Not before this time (RFC 3339).")
@click.option("--queue-timeout-seconds", type=int, help="The longest it may wait.")
@click.option("--callback-url", help="Where its end is told, signed.")
@click.option("--expire-notice-seconds", type=int, help="Tell there, too, so long before it is deleted.")
@remote
def create(
    to: Remote,
    model: str,
    payload: str,
    lines: bool,
    wait: bool,
    out: Path | None,
    timeout_s: float,
    idempotency_key: str | None,
    metadata: str | None,
    **values: Any,
) -> None:
    """Queue PAYLOAD for MODEL; prints the ids.

    PAYLOAD is JSON, @FILE, or - for stdin. --out waits too.
    """
    text = _read(payload)
    fields = {"modelName": model, **given_fields({**values, "metadata": _parsed(metadata, "--metadata")})}
    payloads = _each(text) if lines else [_parsed(text, "PAYLOAD")]
    made = _create(to, [{**fields, "requestPayload": each} for each in payloads], idempotency_key, batch=lines)
    ids = [result["taskId"] for result in made if "taskId" in result]
    waits = wait or out is not None
    _tell(to, made, with_ids=not waits)
    code = finish(to, ids, timeout_s, out) if waits and ids else 0
    sys.exit(code or int(len(ids) < len(made)))


@group.command("get")
@_ids
@remote
def get(to: Remote, ids: tuple[str, ...]) -> None:
    """Show tasks as they are now; a success counts as fetched."""
    items = to.client.get_tasks(ids)
    show(items, ITEM_COLUMNS, as_json=to.as_json)
    sys.exit(int(any(item["status"] in ("failed", "cancelled", "missing", "gone") for item in items)))


@group.command("wait")
@_ids
@_timeout
@_out
@remote
def wait(to: Remote, ids: tuple[str, ...], timeout_s: float, out: Path | None) -> None:
    """Wait until all are final; exit code 1 unless all succeeded."""
    sys.exit(finish(to, ids, timeout_s, out))


@group.command("cancel")
@_ids
@remote
def cancel(to: Remote, ids: tuple[str, ...]) -> None:
    """Cancel tasks; final ones stay as they are.

    Running ones are final once their call is cut.
    """
    show([to.client.cancel(task_id) for task_id in ids], ["taskId", "status"], as_json=to.as_json)


def _create(to: Remote, bodies: list[dict[str, Any]], key: str | None, *, batch: bool) -> list[Created]:
    if not batch:
        (body,) = bodies
        name, payload = body.pop("modelName"), body.pop("requestPayload")
        return [{"index": 0, "taskId": to.client.create_task(name, payload, idempotency_key=key, **body)}]
    made: list[Created] = []
    try:
        return to.client.create_tasks(bodies, idempotency_key=key, on_created=made.extend)
    except IncompleteError as exc:
        _tell(to, exc.created, with_ids=True)
        raise UserError(f"{exc}; --idempotency-key {exc.idempotency_key} goes on from here") from exc
    except KeyboardInterrupt:
        _tell(to, made, with_ids=True)
        complain(f"interrupted; {len(made)} of {len(bodies)} were answered")
        sys.exit(INTERRUPTED)


def _tell(to: Remote, made: list[Created], *, with_ids: bool) -> None:
    """Refusals on stderr; with ids, those on stdout (as JSON: the refusals too)."""
    for result in made:
        if "error" in result:
            complain(f"line {result['index'] + 1}: {result['error']['code']}: {result['error']['detail']}")
    if to.as_json and with_ids:
        show(made, ["taskId"], as_json=True)
    elif with_ids:
        for result in made:
            if "taskId" in result:
                click.echo(result["taskId"])


def _read(given: str) -> str:
    """The argument itself, or what @FILE or - (stdin) holds."""
    try:
        if given == "-":
            return sys.stdin.buffer.read().decode()
        return Path(given[1:]).read_bytes().decode() if given.startswith("@") else given
    except UnicodeDecodeError as exc:
        raise UserError(f"PAYLOAD: expected UTF-8 text: {exc.reason}") from exc


def _each(text: str) -> list[Any]:
    numbered = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [_parsed(line, f"line {n}") for n, line in numbered]


def _parsed(text: str | None, name: str) -> Any:
    """The JSON value, None for no text."""
    if not (text or "").strip():
        return None
    try:
        return json.loads(text or "")
    except ValueError as exc:
        raise UserError(f"{name}: expected JSON: {exc}") from exc
