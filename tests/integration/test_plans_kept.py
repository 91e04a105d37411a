"""Which sessions keep plans: those whose backend stays theirs."""

from __future__ import annotations

import re

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from asynch import db
from asynch.domain.principal import Caller, Principal, Role
from asynch.store import slots
from asynch.store import tasks as store
from asynch.store.creation import Once, begin_once
from asynch.store.oplog import Operation, insert_op_logs
from tests.proxy import Proxy
from tests.rows import TENANT, add_model, add_tasks

#: BackendKeyData of the protocol's version 3.0 or 3.2: its length, the backend's pid, a key of 4 or 32 bytes
_KEY_DATA = re.compile(rb"K(\x00\x00\x00[\x0c\x28])....", re.DOTALL)


def plans_kept(dsn: str) -> int:
    """How many plans a session has, once tasks were created on it."""
    with db.open_pool(dsn, size=1, name="tests") as pool:
        add_tasks(pool, add_model(pool))
        with db.connection(pool) as conn:
            (row,) = conn.execute("SELECT count(*) AS n FROM pg_prepared_statements").fetchall()
    return int(row["n"])


def test_a_direct_session_keeps_the_plans_of_creation(dsn: str) -> None:
    assert plans_kept(dsn) > 0


def test_a_plan_that_may_be_kept_is_kept(dsn: str) -> None:
    """The planner keeps one after five uses only if plans for the parameters at hand do not look cheaper to it."""
    caller = Caller(Principal(TENANT, "tests", Role.USER))
    with db.open_pool(dsn, size=1, name="tests") as pool:
        lane = add_model(pool)
        for _ in range(8):
            with db.transaction(pool) as conn:
                store.share_lanes(conn, [lane], tenant_id=TENANT)
                store.draw_ids(conn, 1)
                begin_once(conn, TENANT, Once("/", "key", "hash"))
                insert_op_logs(conn, caller, "createTask", [Operation(model_name="m")])
            add_tasks(pool, lane)
        with db.connection(pool) as conn:
            found = conn.execute("SELECT statement, custom_plans, generic_plans FROM pg_prepared_statements").fetchall()
    assert len(found) == 5  # of tenant_key none
    assert [
        row for row in found if row["custom_plans"] > 5 or (row["custom_plans"] == 5 and not row["generic_plans"])
    ] == []


def test_a_workers_session_looks_at_no_parameters_from_the_first_use_on(dsn: str) -> None:
    with db.open_session(dsn, name="tests") as conn:
        slots.scan_lanes(conn, after=0, most=64)
        found = conn.execute("SELECT custom_plans, generic_plans FROM pg_prepared_statements").fetchall()

    assert found == [{"custom_plans": 0, "generic_plans": 1}]


def test_a_session_whose_key_is_none_of_its_backends_keeps_no_plan(dsn: str) -> None:
    """As a transaction pooler hands out keys of its own, and may serve the next transaction by another backend."""
    told = conninfo_to_dict(dsn)
    target = (str(told["host"]), int(told["port"] or 0))
    with Proxy(target, bend=lambda said: _KEY_DATA.sub(rb"K\1none", said)) as pooler:
        assert plans_kept(make_conninfo(dsn, host="127.0.0.1", port=pooler.port)) == 0
