"""The schema's life: applied by many at once, repeatable, refused where it does not belong."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import asynch
from asynch import binaries, db
from asynch.domain.retry import rank_of
from asynch.embedded import EmbeddedPostgres
from asynch.errors import UserError
from asynch.secretbox import SecretBox
from asynch.service import indexes, schema
from asynch.store import facts
from tests.database import all_rows, run_on
from tests.live import KEY
from tests.waiting import until

REPOSITORY = Path(asynch.__file__).parents[1]
OTHER_KEY = "B" * 43 + "="
#: the tables of the contract's §10, and ours
TABLES = {
    "asynch_models", "asynch_task", "asynch_op_log", "asynch_model_stat", "asynch_worker", "asynch_meta",
    "asynch_host", "asynch_key", "asynch_idempotency", "asynch_biz_stat", "asynch_biz_tally", "asynch_model_tally",
    "asynch_tenant",
    "asynch_service",
    "asynch_pace",
    "asynch_breaker",
    "asynch_webhook_key",
    "asynch_file", "asynch_upload",
    "asynch_pre_action", "asynch_pre_action_version", "asynch_action", "asynch_action_log",
    "asynch_message", "asynch_unneeded",
}  # fmt: skip
#: every column that the model-asynch schema has, as the contract lists them
COLUMNS = {
    "asynch_models": "model_name base_url route http_method api_key enabled max_concurrency queue_limit "
    "timeout_seconds retry_times retry_queue_max_seconds auto_clean_seconds remark",
    "asynch_task": "model_name task_id state oss_file file_type file_size error_msg started_at finished_at expire_at "
    "retry_count enqueue_at phase tmp_file input_ref request_payload",
    "asynch_op_log": "ip user_agent api_path http_method biz_name model_name task_id op_type success error_msg cost_ms "
    "request_payload response_payload",
    "asynch_model_stat": "day tenant_id creator model_name request_count",
}
COMMON = "id tenant_id creator created_at updater updated_at deleted_at"


#: the oldest Postgres of this machine that asynch takes, besides the embedded one
SYSTEM = [found for found in binaries._installations() if not found.movable and found.major >= binaries.OLDEST_MAJOR][
    -1:
]


@pytest.fixture
def dsn(own_dsn: str) -> str:
    return own_dsn


@pytest.fixture
def blank(server_dsn: str) -> Iterator[str]:
    """A database with nothing in it."""
    name = f"asynch_blank_{uuid.uuid4().hex[:12]}"
    run_on(server_dsn, "CREATE DATABASE {}", name)
    yield make_conninfo(server_dsn, dbname=name)
    run_on(server_dsn, "DROP DATABASE {} WITH (FORCE)", name)


def migrate(dsn: str) -> None:
    with db.open_pool(dsn, size=1, name="tests") as pool:
        schema.migrate(pool)


def run(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statement.encode())


def described(dsn: str) -> list[tuple[object, ...]]:
    """Tables, columns, indexes, constraints and facts, in a form that compares."""
    with psycopg.connect(dsn) as conn:
        return [
            *conn.execute(
                "SELECT table_name::text, column_name::text, data_type::text, column_default::text, is_nullable::text "
                "FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position"
            ),
            *conn.execute("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"),
            *conn.execute("SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint ORDER BY 1, 2"),
            *conn.execute("SELECT proname::text, prosrc FROM pg_proc WHERE proname LIKE 'asynch%' ORDER BY 1"),
        ]


def waits(dsn: str, table: str) -> bool:
    """Whether somebody waits for the table."""
    asked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    with psycopg.connect(dsn) as conn:
        return conn.execute(asked, (table,)).fetchone() != (0,)


def at_once(*todo: Callable[[], object]) -> None:
    with ThreadPoolExecutor(len(todo)) as threads:
        for future in [threads.submit(each) for each in todo]:
            future.result()


def test_it_may_be_applied_again(blank: str) -> None:
    migrate(blank)
    first = described(blank)
    migrate(blank)

    assert described(blank) == first


def test_it_may_be_applied_again_over_rows(blank: str) -> None:
    migrate(blank)
    run(blank, "INSERT INTO asynch_models (tenant_id, model_name, base_url) VALUES (1, 'm', 'http://x')")
    migrate(blank)

    with psycopg.connect(blank) as conn:
        assert conn.execute("SELECT count(*) FROM asynch_models").fetchone() == (1,)


def test_tasks_of_version_1_get_what_came_later(blank: str) -> None:
    migrate(blank)
    now = described(blank)
    run(
        blank,
        "ALTER TABLE asynch_task DROP COLUMN upload_headers, DROP COLUMN call_attempt, DROP COLUMN progress_at, "
        "DROP COLUMN callback_lane, DROP COLUMN timeout_seconds, DROP COLUMN retry_schedule, DROP COLUMN entry",
    )
    run(blank, "DROP INDEX asynch_task_polled, asynch_task_children, asynch_task_notice")
    run(blank, "UPDATE asynch_meta SET value = '1' WHERE key = 'schema_version'")
    run(blank, "INSERT INTO asynch_task (id, tenant_id, lane_id, model_name) VALUES (1, 1, 1, 'm')")

    migrate(blank)

    assert described(blank) == now
    with psycopg.connect(blank) as conn:
        assert conn.execute("SELECT upload_headers FROM asynch_task").fetchall() == [("",)]


def test_many_hosts_may_apply_it_at_once(blank: str) -> None:
    at_once(*[lambda: migrate(blank)] * 4)

    assert {row[0] for row in described(blank)} >= TABLES


def test_a_migration_gives_way_to_who_uses_the_tables(blank: str) -> None:
    """A worker has tasks and wants their models, while a migration has the models and wants the tasks."""
    migrate(blank)
    with psycopg.connect(blank) as worker, ThreadPoolExecutor(1) as threads:
        worker.execute("UPDATE asynch_task SET rank = rank")
        migration = threads.submit(migrate, blank)
        until(lambda: waits(blank, "asynch_task"))
        worker.execute("SELECT FROM asynch_models FOR UPDATE")
        worker.commit()
        migration.result()


def test_a_migration_that_never_gets_the_tables_says_so(blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_PATIENCE_S", 0.1)
    migrate(blank)
    with psycopg.connect(blank) as backup:
        backup.execute("SELECT FROM asynch_task")
        with pytest.raises(UserError, match="in use all the time"):
            migrate(blank)


NAMED = "CREATE INDEX CONCURRENTLY asynch_task_named ON asynch_task (id)"  # where another one belongs


@contextmanager
def large(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """A database without an index of a table that counts as large; somebody has written to it and not yet committed."""
    monkeypatch.setattr(indexes, "_LARGE_BYTES", 0)
    migrate(dsn)
    run(dsn, "DROP INDEX asynch_task_named")
    with psycopg.connect(dsn) as writer:
        writer.execute("INSERT INTO asynch_task (id, tenant_id, lane_id, model_name) VALUES (1, 1, 1, 'm')")
        yield writer


def valid(dsn: str) -> list[bool]:
    with psycopg.connect(dsn) as conn:
        found = conn.execute(
            "SELECT i.indisvalid FROM pg_index i WHERE i.indexrelid = to_regclass('asynch_task_named') "
            "AND pg_get_indexdef(i.indexrelid) LIKE '%model_name%'"
        )
        return [bool(valid) for (valid,) in found]


def test_while_an_index_of_a_large_table_is_built_others_write_to_it(
    blank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with large(blank, monkeypatch) as writer, ThreadPoolExecutor(1) as threads:
        migration = threads.submit(migrate, blank)
        until(lambda: valid(blank) == [False])
        run(blank, "SET statement_timeout = '5s'; UPDATE asynch_task SET rank = rank; INSERT INTO asynch_task "
            "(id, tenant_id, lane_id, model_name) VALUES (2, 1, 1, 'm')")  # fmt: skip
        writer.commit()
        migration.result()

    assert valid(blank) == [True]


def test_many_hosts_may_build_it_at_once(blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with large(blank, monkeypatch) as writer:
        writer.commit()
        at_once(*[lambda: migrate(blank)] * 4)

    assert valid(blank) == [True]


def test_a_half_built_index_is_built_again(blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with large(blank, monkeypatch) as writer:
        with psycopg.connect(blank, autocommit=True) as conn:
            conn.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                conn.execute(NAMED)
        writer.commit()
        migrate(blank)

    assert valid(blank) == [True]


def test_who_keeps_an_index_from_being_built_is_named(blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(indexes, "_WAIT_S", 0.1)
    with large(blank, monkeypatch) as writer:
        with pytest.raises(UserError, match=rf"asynch_task_named cannot be built .*pid {writer.info.backend_pid}, "):
            migrate(blank)
        writer.commit()
        migrate(blank)

    assert valid(blank) == [True]


def test_an_index_over_a_new_column_waits_for_the_column(blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "_LARGE_BYTES", 0)
    migrate(blank)
    now = described(blank)
    run(blank, "ALTER TABLE asynch_task DROP COLUMN entry")  # and asynch_task_open with it
    migrate(blank)

    assert sorted(map(str, described(blank))) == sorted(map(str, now))


def test_a_migration_that_fails_changes_nothing(blank: str) -> None:
    run(blank, "CREATE VIEW asynch_model_stat AS SELECT 1 AS id")  # in the way, and met late
    before = described(blank)

    with pytest.raises((psycopg.Error, UserError)):
        migrate(blank)

    assert described(blank) == before


@pytest.mark.parametrize("table", sorted(COLUMNS))
def test_tables_of_model_asynch_are_refused_and_left_as_they_are(blank: str, table: str) -> None:
    run(blank, f"CREATE TABLE {table} (id bigint PRIMARY KEY, model_name text)")
    before = described(blank)

    with pytest.raises(UserError, match=f"model-asynch .*{table}.* nothing was changed"):
        migrate(blank)

    assert described(blank) == before


def test_a_newer_schema_is_refused_and_left_as_it_is(blank: str) -> None:
    migrate(blank)
    run(blank, f"UPDATE asynch_meta SET value = '{schema.SCHEMA_VERSION + 1}' WHERE key = 'schema_version'")
    run(blank, "DROP TABLE asynch_key")

    with pytest.raises(UserError, match="newer"):
        migrate(blank)

    with psycopg.connect(blank) as conn:
        assert conn.execute("SELECT to_regclass('asynch_key')").fetchone() == (None,)


@pytest.mark.parametrize(("version", "said"), [("0", "run `asynch migrate`"), ("99", "newer than this program's")])
def test_a_program_does_not_start_on_another_version(dsn: str, version: str, said: str) -> None:
    run(dsn, f"UPDATE asynch_meta SET value = '{version}' WHERE key = 'schema_version'")

    with db.open_session(dsn, name="tests") as conn, pytest.raises(UserError, match=said):
        schema.check_version(conn)


def test_a_program_does_not_start_without_a_schema(blank: str) -> None:
    with db.open_session(blank, name="tests") as conn, pytest.raises(UserError, match="run `asynch migrate`"):
        schema.check_version(conn)


def test_the_version_in_the_file_is_the_programs() -> None:
    stated = re.findall(r"'schema_version', '(\d+)'", schema.update_sql())

    assert stated == [str(schema.SCHEMA_VERSION)]


def test_the_file_of_the_package_is_the_file_of_the_repository() -> None:
    assert schema.update_sql() == (REPOSITORY / "update.sql").read_text(encoding="utf-8")


def test_it_has_every_table_and_column_of_the_contract(pool: db.Pool) -> None:
    found = all_rows(
        pool, "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    )
    there = {(r["table_name"], r["column_name"]) for r in found}

    assert {table for table, _ in there} == TABLES
    assert {(t, c) for t, own in COLUMNS.items() for c in f"{own} {COMMON}".split()} <= there


def test_every_time_is_with_time_zone(pool: db.Pool) -> None:
    assert all_rows(
        pool,
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND data_type = 'timestamp without time zone'",
    ) == []  # fmt: skip


def test_tasks_have_these_indexes_and_no_other(pool: db.Pool) -> None:
    found = all_rows(pool, "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'asynch_task' ORDER BY 1")

    assert [(r["indexname"], r["indexdef"].partition(" USING ")[2]) for r in found] == [
        ("asynch_task_children", "btree (tenant_id, parent_id) WHERE (parent_id IS NOT NULL)"),
        ("asynch_task_named", "btree (tenant_id, model_name, biz_name, state, id) WHERE (tenant_id >= 0)"),
        (
            "asynch_task_notice",
            "btree ((((wake_at AT TIME ZONE 'UTC'::text) - make_interval(secs => "
            "(expire_notice_seconds)::double precision)))) WHERE (final AND (expire_notice_seconds > 0))",
        ),
        ("asynch_task_open", "btree (lane_id, entry) WHERE (NOT final)"),
        ("asynch_task_pkey", "btree (tenant_id, id)"),
        (
            "asynch_task_polled",
            "btree (lane_id, enqueue_at) WHERE ((state = 0) AND (phase = 0) AND (poll_url <> ''::text))",
        ),
        ("asynch_task_queue", "btree (lane_id, rank, enqueue_at, id) WHERE ((state = 0) AND (phase = 0))"),
        ("asynch_task_running", "btree (lane_id, worker_id) WHERE (state = 1)"),
        ("asynch_task_upload", "btree (tmp_host, enqueue_at) WHERE ((state = 0) AND (phase = 1))"),
        ("asynch_task_wake", "btree (state, final, wake_at) WHERE (state <> 1)"),
    ]


def test_a_tenant_has_one_living_model_of_a_name(dsn: str) -> None:
    insert = "INSERT INTO asynch_models (tenant_id, model_name, base_url) VALUES ({}, 'm', 'http://x')"
    run(dsn, insert.format(1))
    run(dsn, insert.format(2))
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(dsn, insert.format(1))

    run(dsn, "UPDATE asynch_models SET deleted_at = now()")
    run(dsn, insert.format(1))


def test_ids_rise_and_never_meet_over_many_sessions(dsn: str) -> None:
    drawn: list[list[int]] = []

    def draw() -> None:
        with psycopg.connect(dsn) as conn:
            drawn.append([n for (n,) in conn.execute("SELECT asynch_new_id() FROM generate_series(1, 2000)")])

    at_once(*[draw] * 4)

    assert all(ids == sorted(ids) for ids in drawn)
    assert len({n for ids in drawn for n in ids}) == 8000


def test_the_rank_of_a_plain_task_is_the_default_of_the_table(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        (default,) = conn.execute(
            "SELECT column_default::int FROM information_schema.columns "
            "WHERE table_name = 'asynch_task' AND column_name = 'rank'"
        ).fetchone() or (None,)

    assert default == rank_of(0)


def test_a_database_is_read_only_with_the_keys_that_wrote_it(pool: db.Pool) -> None:
    schema.check_canary(pool, SecretBox([KEY]))
    schema.check_canary(pool, SecretBox([OTHER_KEY, KEY]))  # rotated

    with pytest.raises(UserError, match="cannot read"):
        schema.check_canary(pool, SecretBox([OTHER_KEY]))


def test_a_database_keeps_to_its_local_store(pool: db.Pool) -> None:
    schema.check_store_id(pool, "here")
    schema.check_store_id(pool, "here")

    with pytest.raises(UserError, match=r"storage\.local\.dir"):
        schema.check_store_id(pool, "elsewhere")


def test_a_fact_is_remembered_as_it_was_first_told(pool: db.Pool) -> None:
    with db.transaction(pool) as conn:
        assert [facts.remember(conn, "k", value) for value in ("first", "second")] == ["first", "first"]
        assert facts.find_fact(conn, "unknown") is None


if SYSTEM:  # else there is nothing to test

    def test_the_oldest_postgres_of_this_machine_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(binaries, "_installations", lambda: iter(SYSTEM))
        with EmbeddedPostgres(tmp_path / "data") as server:
            dsn = (server.data_dir / "dsn").read_text()
            at_once(lambda: migrate(dsn), lambda: migrate(dsn))
            migrate(dsn)

            with psycopg.connect(dsn) as conn:
                assert conn.info.server_version // 10000 == SYSTEM[0].major
            assert {row[0] for row in described(dsn)} >= TABLES
