"""The server a command talks to: its URL, who asks, and the options that say so."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from asynch.client import Client
from asynch.commands.plain import config_option, plain_errors
from asynch.errors import AsynchError, UserError
from asynch.settings import load

#: An address to listen on everywhere is none to call.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound


@dataclass(frozen=True, slots=True)
class Remote:
    """A client, and whether the answers are for a script."""

    client: Client
    as_json: bool


_OPTIONS = [
    click.option("--url", envvar="ASYNCH_URL", help="The server (else $ASYNCH_URL, else host and port of the config)."),
    click.option(
        "--key", envvar="ASYNCH_KEY", help="API key or token (else $ASYNCH_KEY, which no process list shows)."
    ),
    click.option("--tenant", type=int, help="Tenant id, for a server with auth.mode none."),
    click.option("--retry", "retry_s", type=click.FloatRange(0), default=10, help="Seconds to try again (10)."),
    click.option("--json", "as_json", is_flag=True, help="One line of JSON for each result."),
    config_option,
]


def remote(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a client, and the Remote they name as its first argument."""

    @wraps(command)
    @plain_errors(AsynchError, OSError)
    def wrapped(
        *,
        url: str | None,
        key: str | None,
        tenant: int | None,
        retry_s: float,
        as_json: bool,
        config: Path | None,
        **given: Any,
    ) -> None:
        with _client(url or _configured(config), key, tenant, retry_s) as client:
            command(Remote(client, as_json), **given)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def _client(url: str, key: str | None, tenant: int | None, retry_s: float) -> Client:
    try:
        return Client(url, token=key or None, tenant_id=tenant, user_name="cli", retry_s=retry_s)
    except ValueError as exc:
        raise UserError(str(exc).replace("base_url", "--url").replace("token", "--key")) from exc


def _configured(config: Path | None) -> str:
    server = load(config, os.environ).server
    host = _EVERYWHERE.get(server.host, server.host)
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


def given_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, in the contract's spelling."""
    return {_camel(name): value for name, value in values.items() if value is not None}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
