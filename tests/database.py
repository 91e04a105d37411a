"""A real Postgres for tests: one private server a session, one database a module or test, copied from a migrated template.

TEST_DATABASE_DSN names another server (as a superuser) to use instead of the private one.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from asynch import db
from asynch.embedded import EmbeddedPostgres
from asynch.service import schema


@pytest.fixture(scope="session")
def server_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A superuser's DSN of the server all tests of this session share."""
    given = os.environ.get("TEST_DATABASE_DSN")
    if given:
        yield given
        return
    private = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    server = private.start()
    with psycopg.connect(server, autocommit=True) as conn:  # nothing here outlives the session
        conn.execute("ALTER SYSTEM SET fsync = off")
        conn.execute("ALTER SYSTEM SET scram_iterations = 1")  # else a connection costs both sides 5 ms of hashing
        conn.execute("SELECT pg_reload_conf()")
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(sql.SQL("ALTER ROLE CURRENT_USER PASSWORD {}").format(conn.info.password))
    yield server
    private.stop()


@pytest.fixture(scope="session")
def template(server_dsn: str) -> Iterator[str]:
    """The name of a database with the schema in it, to be copied."""
    name = f"asynch_template_{uuid.uuid4().hex[:12]}"
    run_on(server_dsn, "CREATE DATABASE {}", name)
    with db.open_pool(make_conninfo(server_dsn, dbname=name), size=1, name="tests") as pool:
        schema.migrate(pool)
    yield name
    run_on(server_dsn, "DROP DATABASE {} WITH (FORCE)", name)


@contextmanager
def database(server_dsn: str, original: str) -> Iterator[str]:
    """A copy of a database while the block runs; its DSN."""
    name = f"asynch_test_{uuid.uuid4().hex[:12]}"
    run_on(server_dsn, "CREATE DATABASE {} TEMPLATE {}", name, original)
    yield make_conninfo(server_dsn, dbname=name)
    run_on(server_dsn, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture
def own_dsn(server_dsn: str, template: str) -> Iterator[str]:
    """A database of this test's own, with the schema in it."""
    with database(server_dsn, template) as made:
        yield made


@pytest.fixture(scope="module")
def module_dsn(server_dsn: str, template: str) -> Iterator[str]:
    """A database for all tests of a module: making one takes longer than most of them."""
    with database(server_dsn, template) as made:
        yield made


@pytest.fixture(scope="module")
def emptying(module_dsn: str) -> Iterator[Callable[[], None]]:
    """Deletes all rows of the module's database but those of asynch_meta, each time in the same session.

    A new one opens two hundred files for it, which takes longer than many a test.
    """
    conn = psycopg.connect(module_dsn, autocommit=True)
    tables = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    deletes = "; ".join(f"DELETE FROM {name}" for (name,) in tables if name != "asynch_meta").encode()

    def delete() -> None:
        nonlocal conn
        try:
            conn.execute(deletes)
        except psycopg.OperationalError:
            if not conn.closed:  # by a test that has ended all sessions
                raise
            conn = psycopg.connect(module_dsn, autocommit=True)
            conn.execute(deletes)

    yield delete
    conn.close()


@pytest.fixture
def emptied_dsn(module_dsn: str, emptying: Callable[[], None]) -> str:
    """The module's database without a row but those of asynch_meta."""
    emptying()
    return module_dsn


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    """A database without a row; modules and directories whose tests need their own override this with `own_dsn`."""
    return emptied_dsn


@pytest.fixture
def pool(dsn: str) -> Iterator[db.Pool]:
    """A pool on this test's database."""
    with db.open_pool(dsn, size=8, name="tests") as opened:
        yield opened


#: The calls that were counted, whether the cleaner has added them up or not; as a table.
CALLS = """(
    SELECT day, tenant_id, creator, model_name, sum(request_count)::int AS request_count FROM (
        SELECT day, tenant_id, creator, model_name, request_count FROM asynch_model_stat
        UNION ALL SELECT day, tenant_id, creator, model_name, request_count FROM asynch_model_tally) c
    GROUP BY day, tenant_id, creator, model_name) AS calls"""


def run_on(server_dsn: str, statement: str, *names: str) -> None:
    """Run a statement about databases; none of them may run in a transaction."""
    with psycopg.connect(server_dsn, autocommit=True) as conn:
        conn.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def all_rows(pool: db.Pool, statement: str, *params: object) -> list[db.Row]:
    """The rows of a test's own question to the database."""
    with db.connection(pool) as conn:
        return conn.execute(statement, params).fetchall()
