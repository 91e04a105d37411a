"""The command line: reads the settings, wires the parts, runs a role; an operator's mistake ends in one line."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from asynch import cores, db, log, metrics, spans, wiring
from asynch.commands.plain import config_option, plain_errors
from asynch.errors import AsynchError, DatabaseDown, UserError
from asynch.service import keys, rotation, schema
from asynch.settings import Settings, load
from asynch.systemd import Manager

T = TypeVar("T")


def main() -> None:
    """The console script."""
    cli()


class _Commands(click.Group):
    """Brings the clients' groups when they are named: a role needs nothing of theirs, and starts sooner without."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "model", "task"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        match cmd_name:
            case "model":
                from asynch.commands import model

                return model.group
            case "task":
                from asynch.commands import task

                return task.group
            case _:
                return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A durable queue in front of slow HTTP model services."""


_plain_errors = plain_errors(AsynchError, db.Error)


def _settings(config: Path | None, **overrides: Any) -> Settings:
    settings = load(config, os.environ, overrides)
    log.configure(settings.log.level, settings.log.format)
    return settings


def _on_signals(stop: Callable[[], None]) -> None:
    """Have SIGTERM and SIGINT call `stop`, in a thread: the main one may just hold the lock of what it waits for."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=stop).start())


@cli.command()
@config_option
@click.option("--data-dir", help="Where the database, files and keys live.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 picks one.")
@_plain_errors
def up(config: Path | None, data_dir: str | None, host: str | None, port: int | None) -> None:
    """Run API, worker and cleaner in the foreground.

    With a private Postgres under the data directory, unless database.dsn is set.
    """
    from asynch.supervisor import Supervisor

    settings = _settings(config, data_dir=data_dir, server={"host": host, "port": port})
    spans.check(settings.tracing.otlp_endpoint)
    supervisor = Supervisor(settings, config=config, environ=os.environ)
    _on_signals(supervisor.stop)
    supervisor.run(lambda url: click.echo(f"ready {url}"))


@cli.command()
@config_option
@click.option("--fd", type=int, hidden=True, help="A listening socket to serve on.")
@_plain_errors
def api(config: Path | None, fd: int | None) -> None:
    """Run the HTTP API alone; needs database.dsn."""
    from asynch.web.app import create_app
    from asynch.web.server import serve

    manager = Manager(os.environ)
    settings = _settings(config)
    wiring.configured_dsn(settings)
    wiring.open_box(settings)
    spans.check(settings.tracing.otlp_endpoint)
    serve(lambda: create_app(wiring.api_parts(settings)), settings, fd=fd, manager=manager)


@cli.command()
@config_option
@_plain_errors
def worker(config: Path | None) -> None:
    """Run a worker (with its cleaner) alone; needs database.dsn."""
    from asynch.wiring.worker import worker_setup
    from asynch.worker.incarnation import run

    manager = Manager(os.environ)
    settings = _settings(config)
    if not settings.worker.enabled:
        raise UserError("worker.enabled is false")
    spans.check(settings.tracing.otlp_endpoint)
    if settings.worker.metrics_port:
        metrics.serve_worker(settings.worker.metrics_port)
    stop = threading.Event()
    _on_signals(stop.set)
    setup = _patiently(lambda: worker_setup(settings), stop)
    if setup is not None:
        cores.keep_to_one(stop)
        gc.collect()
        gc.freeze()  # what is there by now stays: to look through it for garbage takes tens of milliseconds
        run(setup, stop, manager)


def _patiently(make: Callable[[], T], stop: threading.Event) -> T | None:
    """A database that is not there yet is waited for; None when told to stop meanwhile."""
    while not stop.is_set():
        try:
            return make()
        except DatabaseDown as exc:
            click.echo(f"asynch: the database does not answer yet: {exc}", err=True)
            stop.wait(1.0)
    return None


@cli.command()
@config_option
@_plain_errors
def migrate(config: Path | None) -> None:
    """Apply update.sql; safe to repeat."""
    settings = _settings(config)
    with db.open_small_pool(wiring.any_dsn(settings), name="asynch-migrate") as pool:
        schema.migrate(pool)
    click.echo(f"schema version {schema.SCHEMA_VERSION}")


@cli.command()
@config_option
@_plain_errors
def check(config: Path | None) -> None:
    """Say of each part whether it works; exit code 1 if one does not."""
    from asynch import checks

    settings = _settings(config)
    good = True
    for finding in checks.findings(settings):
        good &= finding.good
        click.echo(f"{'ok  ' if finding.good else 'FAIL'}  {finding.part:<14} {finding.detail}")
    sys.exit(0 if good else 1)


@cli.group()
def key() -> None:
    """API keys."""


@key.command("create")
@config_option
@click.option("--tenant", type=int, required=True, help="Tenant id.")
@click.option("--name", required=True, help="What the key is for.")
@click.option("--admin", is_flag=True, help="May also see and do what only admins may.")
@_plain_errors
def key_create(config: Path | None, tenant: int, name: str, admin: bool) -> None:
    """Make a key; its secret is shown this once."""
    with _pool(_settings(config)) as pool:
        key_id, token = keys.create_key(pool, tenant, name, admin=admin)
    click.echo(f"id      {key_id}\ntoken   {token}")


@key.command("list")
@config_option
@_plain_errors
def key_list(config: Path | None) -> None:
    """All keys, without their secrets."""
    with _pool(_settings(config)) as pool:
        for found in keys.list_keys(pool):
            state = "revoked" if found.revoked_at else "active"
            click.echo(f"{found.id}  tenant {found.tenant_id}  {found.role.value:<5}  {state:<7}  {found.name}")


@key.command("revoke")
@config_option
@click.argument("key_id")
@_plain_errors
def key_revoke(config: Path | None, key_id: str) -> None:
    """Make a key useless, within 15 seconds."""
    with _pool(_settings(config)) as pool:
        keys.revoke_key(pool, key_id)
    click.echo(f"revoked {key_id}")


@cli.group()
def secrets() -> None:
    """Stored secrets."""


@secrets.command("rotate")
@config_option
@_plain_errors
def secrets_rotate(config: Path | None) -> None:
    """Encrypt all of them with the first of secrets.keys.

    Exit code 1 if one cannot be read with any of the keys. Safe to repeat, and while everything runs.
    """
    settings = _settings(config)
    box, good = wiring.open_box(settings), True
    with _pool(settings) as pool:
        for count in rotation.rotate(pool, box):
            good &= count.good
            told = f"{count.rotated} rotated, {count.current} already current, {len(count.unreadable)} unreadable"
            click.echo(f"{count.name:<8} {told}")
            for lost in count.unreadable:
                click.echo(f"asynch: {count.name} {lost.id} of tenant {lost.tenant_id}: unreadable", err=True)
            if count.unsettled:
                click.echo(f"asynch: {count.name}: {count.unsettled} changed meanwhile: run this again", err=True)
    sys.exit(0 if good else 1)


@contextmanager
def _pool(settings: Settings) -> Iterator[db.Pool]:
    with db.open_small_pool(wiring.any_dsn(settings), name="asynch-key") as pool:
        with db.connection(pool) as conn:
            schema.check_version(conn)
        yield pool


@cli.command()
@click.option("--keep", is_flag=True, help="Keep the data directory and say where it is.")
@click.option("--files", is_flag=True, help="Upload a film and pictures too, each in its way, with rules that fire.")
@_plain_errors
def demo(keep: bool, files: bool) -> None:
    """Show the main job on real data.

    24 texts become speech, for three tenants; the sound files are in ./asynch-demo/ then. It brings all that it needs,
    reads no configuration, and leaves nothing running.
    """
    from asynch.demo.stage import run

    sys.exit(run(keep=keep, with_files=files))
