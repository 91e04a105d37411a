"""The command line: an operator's mistake ends in one clear line and exit code 2, never in a traceback."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import psycopg
import pytest
from click.testing import CliRunner
from cryptography.fernet import Fernet

from asynch import db
from asynch.cli import cli
from asynch.service import keys, schema
from asynch.service.keys import KeyRing
from tests.database import all_rows
from tests.programs import REPOSITORY, environ, refused, run
from tests.rows import add_model
from tests.waiting import until


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody else gets and that refuses connections."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def nobody(port: int) -> str:
    return f"postgresql://u:hidden-word@127.0.0.1:{port}/none"


# -- help ----------------------------------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    """Every command and group, as what is typed."""
    found: list[list[str]] = [[]]
    ctx = click.Context(cli)
    for name in cli.list_commands(ctx):
        found.append([name])
        found += [[name, sub] for sub in getattr(cli.get_command(ctx, name), "commands", ())]
    return found


@pytest.mark.parametrize("argv", commands(), ids=" ".join)
def test_every_command_explains_itself(argv: list[str]) -> None:
    answer = CliRunner().invoke(cli, [*argv, "--help"])

    assert answer.exit_code == 0
    usage, _, told = answer.output.partition("\n\n")
    assert usage.startswith("Usage:")
    assert told.strip()[0].isupper()  # a sentence, before the options


@pytest.mark.parametrize("group", [[], ["key"], ["secrets"], ["model"], ["task"]], ids=" ".join)
def test_a_group_lists_its_commands_in_whole_sentences(group: list[str]) -> None:
    _, _, listed = CliRunner().invoke(cli, [*group, "--help"]).output.partition("Commands:\n")

    assert [line for line in listed.splitlines() if not line.endswith(".") or line.endswith("...")] == []


def test_revoking_says_how_long_it_takes() -> None:
    told = CliRunner().invoke(cli, ["key", "revoke", "--help"]).output

    assert f"within {keys.BELIEVED_S:g} seconds" in told


def test_a_command_that_is_none_ends_with_2(tmp_path: Path) -> None:
    answer = run("nonsense", env=environ(tmp_path))

    assert answer.returncode == 2
    assert "No such command 'nonsense'" in answer.stderr


# -- configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["up", "api", "worker"])
def test_a_wrong_configuration_is_named(tmp_path: Path, role: str) -> None:
    config = tmp_path / "c.yml"
    config.write_text("server: {prot: 1}\n")

    refused(run(role, "--config", config, env=environ(tmp_path)), r"server\.prot")


def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    refused(run("check", "--config", tmp_path / "none.yml", env=environ(tmp_path)), "none.yml")


@pytest.mark.parametrize("role", ["api", "worker"])
def test_a_role_alone_needs_a_database(tmp_path: Path, role: str) -> None:
    refused(run(role, env=environ(tmp_path)), r"database\.dsn is empty")


@pytest.mark.parametrize("argv", [["migrate"], ["key", "list"]], ids=" ".join)
def test_a_command_without_any_database_says_where_it_looked(tmp_path: Path, argv: list[str]) -> None:
    refused(run(*argv, env=environ(tmp_path)), re.escape(str(tmp_path / "dsn")))


def test_commands_reach_the_embedded_database_through_the_data_directory(tmp_path: Path, dsn: str) -> None:
    (tmp_path / "dsn").write_text(dsn)

    assert run("migrate", env=environ(tmp_path)).returncode == 0


def test_a_worker_that_is_switched_off_does_not_start(tmp_path: Path, dsn: str) -> None:
    refused(run("worker", env=environ(tmp_path, dsn, ASYNCH_WORKER__ENABLED="false")), r"worker\.enabled")


@pytest.mark.parametrize("role", ["api", "worker"])
def test_a_role_alone_makes_no_key_of_its_own(tmp_path: Path, dsn: str, role: str) -> None:
    env = environ(tmp_path, dsn)
    del env["ASYNCH_SECRETS__KEYS"]

    refused(run(role, env=env), "secret.key")
    assert not (tmp_path / "secret.key").exists()


def test_a_worker_with_other_keys_than_the_databases_does_not_start(tmp_path: Path, dsn: str) -> None:
    assert run("check", env=environ(tmp_path, dsn)).returncode == 0  # leaves the canary
    env = environ(tmp_path, dsn)
    env["ASYNCH_SECRETS__KEYS"] = f'["{Fernet.generate_key().decode()}"]'
    try:
        refused(run("worker", env=env), "cannot read")
    finally:
        with psycopg.connect(dsn) as conn:
            conn.execute("DELETE FROM asynch_meta WHERE key <> 'schema_version'")


# -- a database that does not answer -------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["migrate"], ["key", "list"], ["key", "revoke", "x"], ["up"]], ids=" ".join)
def test_a_dead_database_is_told_in_one_line(tmp_path: Path, closed_port: int, argv: list[str]) -> None:
    more = ["--port", "0"] if argv == ["up"] else []

    answer = run(*argv, *more, env=environ(tmp_path, nobody(closed_port)))

    refused(answer, "[Cc]onnection refused")
    assert "hidden-word" not in answer.stderr


def test_check_names_what_fails_and_ends_with_1(tmp_path: Path, closed_port: int) -> None:
    answer = run("check", env=environ(tmp_path, nobody(closed_port)))

    assert (answer.returncode, answer.stderr) == (1, "")
    failed = [line.split()[1] for line in answer.stdout.splitlines() if line.startswith("FAIL")]
    assert failed == ["database", "schema", "locks"]  # and not the others


def test_check_of_what_works_ends_with_0(tmp_path: Path, dsn: str) -> None:
    answer = run("check", env=environ(tmp_path, dsn))

    assert answer.returncode == 0, answer.stdout
    assert {line.split()[0] for line in answer.stdout.splitlines()} == {"ok"}
    assert len({line.split()[1] for line in answer.stdout.splitlines()}) >= 6
    with psycopg.connect(dsn) as conn:
        conn.execute("DELETE FROM asynch_meta WHERE key <> 'schema_version'")


def test_check_says_in_a_line_each_that_a_database_has_no_schema(tmp_path: Path, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA IF NOT EXISTS bare")

    answer = run("check", env=environ(tmp_path, f"{dsn} options='-c search_path=bare'"))

    failed = [line for line in answer.stdout.splitlines() if not line.startswith("ok ")]
    assert [line.split()[:2] for line in failed] == [["FAIL", "schema"], ["FAIL", "locks"]]
    assert all("run `asynch migrate`" in line for line in failed)


def test_check_tells_the_version_of_ffmpeg(tmp_path: Path, closed_port: int) -> None:
    answer = run("check", env=environ(tmp_path, nobody(closed_port)))

    assert re.search(r"^ok +ffmpeg +version \S+ in /", answer.stdout, re.M), answer.stdout


def test_check_finds_an_ffmpeg_that_does_not_run(tmp_path: Path, closed_port: int) -> None:
    (broken := tmp_path / "ffmpeg").write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)

    answer = run("check", env=environ(tmp_path, nobody(closed_port), PATH=f"{tmp_path}:{os.defpath}"))

    assert re.search(r"^FAIL +ffmpeg .*it ended with 3$", answer.stdout, re.M), answer.stdout


def test_check_finds_more_slots_than_the_database_has_locks_for(tmp_path: Path, pool: db.Pool, dsn: str) -> None:
    add_model(pool, max_concurrency=10_000_000)

    answer = run("check", env=environ(tmp_path, dsn))

    assert answer.returncode == 1
    assert "FAIL  locks" in answer.stdout
    assert "max_locks_per_transaction" in answer.stdout


def test_a_worker_waits_for_its_database_and_says_so(tmp_path: Path, closed_port: int) -> None:
    errors = tmp_path / "errors"
    with errors.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "asynch", "worker"],
            env=environ(tmp_path, nobody(closed_port)), cwd=REPOSITORY, stderr=out,
        )  # fmt: skip
    try:
        until(lambda: errors.read_text().count("the database does not answer yet") >= 2, 30.0)
        assert process.poll() is None
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()

    assert "Traceback" not in errors.read_text()
    assert "hidden-word" not in errors.read_text()


# -- migrate -------------------------------------------------------------------------------------------------------


def test_migrate_may_be_repeated(tmp_path: Path, dsn: str) -> None:
    answers = [run("migrate", env=environ(tmp_path, dsn)) for _ in range(2)]

    assert [(a.returncode, a.stdout, a.stderr) for a in answers] == [
        (0, f"schema version {schema.SCHEMA_VERSION}\n", "")
    ] * 2


def test_migrate_refuses_what_is_not_its_own(tmp_path: Path, server_dsn: str, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA other; CREATE TABLE other.asynch_task (id bigint)")
        try:
            refused(run("migrate", env=environ(tmp_path, f"{dsn} options='-c search_path=other'")), "model-asynch")
        finally:
            conn.execute("DROP SCHEMA other CASCADE")


def test_what_the_database_forbids_is_one_line(tmp_path: Path, dsn: str) -> None:
    read_only = f"{dsn} options='-c default_transaction_read_only=on'"

    refused(run("key", "create", "--tenant", "1", "--name", "n", env=environ(tmp_path, read_only)), "read-only")


# -- keys ----------------------------------------------------------------------------------------------------------


def create_key(tmp_path: Path, dsn: str, *more: str) -> tuple[str, str]:
    answer = run("key", "create", "--tenant", "7", "--name", "ci", *more, env=environ(tmp_path, dsn))
    assert answer.returncode == 0, answer.stderr
    said = dict(line.split() for line in answer.stdout.splitlines())
    return said["id"], said["token"]


def ring(pool: db.Pool) -> KeyRing:
    return KeyRing(pool, clock=lambda: 0.0)


@pytest.mark.parametrize(("more", "admin"), [([], False), (["--admin"], True)])
def test_a_created_key_is_believed(tmp_path: Path, pool: db.Pool, dsn: str, more: list[str], admin: bool) -> None:
    _, token = create_key(tmp_path, dsn, *more)

    principal = ring(pool).principal_of(token)
    assert principal is not None
    assert (principal.tenant_id, principal.is_admin) == (7, admin)


def test_the_secret_of_a_key_is_told_once_and_stored_nowhere(tmp_path: Path, pool: db.Pool, dsn: str) -> None:
    key_id, token = create_key(tmp_path, dsn)
    secret = token.removeprefix(f"ak_{key_id}_")

    listed = run("key", "list", env=environ(tmp_path, dsn)).stdout

    assert key_id in listed
    assert secret not in listed
    assert secret not in str(all_rows(pool, "SELECT * FROM asynch_key"))


def test_a_list_tells_each_keys_tenant_role_state_and_name(tmp_path: Path, pool: db.Pool, dsn: str) -> None:
    ids = [keys.create_key(pool, 7, "ci")[0], keys.create_key(pool, 8, "op", admin=True)[0]]
    keys.revoke_key(pool, ids[0])

    listed = run("key", "list", env=environ(tmp_path, dsn)).stdout

    assert [line.split() for line in listed.splitlines()] == [
        [ids[0], "tenant", "7", "user", "revoked", "ci"],
        [ids[1], "tenant", "8", "admin", "active", "op"],
    ]


def test_a_revoked_key_is_not_believed(tmp_path: Path, pool: db.Pool, dsn: str) -> None:
    key_id, token = keys.create_key(pool, 7, "ci")

    assert run("key", "revoke", key_id, env=environ(tmp_path, dsn)).stdout == f"revoked {key_id}\n"

    assert ring(pool).principal_of(token) is None


def test_only_a_living_key_can_be_revoked(tmp_path: Path, dsn: str) -> None:
    refused(run("key", "revoke", "none", env=environ(tmp_path, dsn)), "no key 'none'")


@pytest.mark.parametrize(
    ("tenant", "name", "why"), [("9223372036854775808", "n", "a 64-bit number"), ("1", "", "needs a name")]
)
def test_a_key_that_cannot_be_is_refused(tmp_path: Path, dsn: str, tenant: str, name: str, why: str) -> None:
    refused(run("key", "create", "--tenant", tenant, "--name", name, env=environ(tmp_path, dsn)), why)


def test_keys_need_a_schema(tmp_path: Path, server_dsn: str) -> None:
    refused(run("key", "list", env=environ(tmp_path, server_dsn)), "run `asynch migrate`")
