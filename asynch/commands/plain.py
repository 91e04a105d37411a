"""What every command does alike: its configuration file, and mistakes that end in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

P = ParamSpec("P")
T = TypeVar("T")

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="Configuration file (else $ASYNCH_CONFIG, else ./config.yml)."
)


def plain_errors(*kinds: type[Exception]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have errors of these kinds end in one line on stderr and exit code 2."""

    def wrap(command: Callable[P, T]) -> Callable[P, T]:
        @wraps(command)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return command(*args, **kwargs)
            except kinds as exc:
                complain(str(exc))
                sys.exit(2)

        return wrapped

    return wrap


def complain(text: str) -> None:
    """One line on stderr."""
    click.echo(f"asynch: {' '.join(text.split())}", err=True)
