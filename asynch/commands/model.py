"""`asynch model`: the registered targets, from the command line."""

from __future__ import annotations

from typing import Any

import click

from asynch.commands.remote import Remote, given_fields, remote
from asynch.commands.shown import show
from asynch.errors import UserError

_COLUMNS = ("id", "modelName", "enabled", "maxConcurrency", "queueLimit", "baseUrl", "route")


@click.group("model")
def group() -> None:
    """Models: the services that do the work."""


@group.command("create")
@click.argument("model_name", metavar="NAME")
@click.argument("base_url")
@click.option("--route", help="Joined to the base URL.")
@click.option("--http-method", type=click.Choice(["GET", "POST"]), help="How it is called.")
@click.option("--api-key", help="Header bindings, e.g. 'X-Api-Key:secret'.")
@click.option("--enabled/--disabled", default=None, help="A disabled model takes no tasks.")
@click.option("--max-concurrency", type=int, help="Calls at once.")
@click.option("--queue-limit", type=int, help="Tasks that may wait or run.")
@click.option("--timeout-seconds", type=int, help="Of one call.")
@click.option("--retry-times", type=int, help="How often a failed call is made again.")
@click.option("--retry-queue-max-seconds", type=int, help="Age from which a retry goes to the head; -1 never.")
@click.option("--retry-on", type=click.Choice(["any", "transient"]), help="Which failures are retried.")
@click.option("--retry-backoff-seconds", type=int, help="Pause before a retry.")
@click.option("--auto-clean-seconds", type=int, help="How long a fetched result stays.")
@click.option("--max-result-bytes", type=int, help="Of one answer.")
@click.option("--remark", help="For people.")
@remote
def create(to: Remote, **values: Any) -> None:
    """Register BASE_URL as the model NAME; prints its id."""
    model_id = to.client.create_model(**given_fields(values))
    if to.as_json:
        show([{"id": model_id}], ["id"], as_json=True)
    else:
        click.echo(model_id)


@group.command("list")
@click.argument("name", default="")
@remote
def list_(to: Remote, name: str) -> None:
    """All models, or those whose name contains NAME."""
    show(to.client.list_models(name), _COLUMNS, as_json=to.as_json)


@group.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Cancel its tasks that are not final.")
@remote
def delete(to: Remote, name: str, force: bool) -> None:
    """Delete the model of this name, or with this id."""
    known = {model["modelName"]: model["id"] for model in to.client.list_models(name)}
    if name not in known and not name.isdigit():
        raise UserError(f"there is no model {name!r}")
    model_id = known.get(name, name)
    to.client.delete_model(model_id, force=force)
    if to.as_json:
        show([{"id": model_id}], ["id"], as_json=True)
    else:
        click.echo(f"deleted {name}")
