"""Plans: every hot query goes through the index it was written for, whatever the planner believes of the table.

A worker's sessions are pinned, so theirs hold on an empty table too; the API's statements are planned each time anew,
so theirs must hold wherever there are rows, even when ANALYZE last saw none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import psycopg
import pytest

from asynch import db, sql
from asynch.db import Row
from asynch.domain.principal import Caller, Principal, Role
from asynch.domain.retry import RetryOn, RetryRule
from asynch.domain.states import Phase, State
from asynch.store import actions, files, oplog, queue, rules, sealed, slots, stats, survey, webhooks, workers
from asynch.store import models as model_store
from asynch.store import tasks as store
from asynch.store.actions import End, LogFilter, NewAction
from asynch.store.creation import Entry, Made, Once, Request, create_tasks
from asynch.store.oplog import OpFilter
from asynch.store.progress import Note, find_call, write_progress
from asynch.store.queue import Claim, Saved, Target
from asynch.store.stats import StatFilter
from asynch.store.tasks import NewTask, TaskFilter, TaskLane
from asynch.store.webhooks import DeliveryFilter
from asynch.worker import outcomes
from tests.database import database

LANES, ROWS = 1000, 50_000
KEEP = workers.Retention(60.0, 60.0)
TERMS = outcomes.Terms("tests", 60.0, 60.0)

KEY, QUEUE, POLLED, UPLOAD, RUNNING, OPEN, WAKE, NOTICE, CHILDREN, NAMED = (
    f"asynch_task_{name}"
    for name in ("pkey", "queue", "polled", "upload", "running", "open", "wake", "notice", "children", "named")
)  # fmt: skip

#: 1,000 lanes of 10 tenants; of each 50 tasks 20 wait, 5 run, 5 are saved, 5 failed, 10 are fetched, 5 cancelled
FILL = f"""
INSERT INTO asynch_models (tenant_id, model_name, base_url)
SELECT n % 10, 'm' || n, 'http://x' FROM generate_series(1, {LANES}) AS n;
INSERT INTO asynch_task (id, tenant_id, lane_id, model_name, state, phase, final, wake_at, worker_id, tmp_file, tmp_host,
    attempt, enqueue_at)
SELECT n, n % 10, 1 + (n - 1) % {LANES}, 'm', k.state, k.phase, k.final, now() - interval '1 min', n % 7,
       CASE k.phase WHEN 1 THEN 'f' ELSE '' END, CASE k.phase WHEN 1 THEN 'host-' || n % 3 ELSE '' END, 1,
       now() - make_interval(secs => n % 1000)
FROM generate_series(1, {ROWS}) AS n
CROSS JOIN LATERAL (SELECT
    CASE WHEN i < 25 THEN 0 WHEN i < 30 THEN 1 WHEN i < 35 THEN 3 WHEN i < 45 THEN 4 ELSE 5 END AS state,
    CASE WHEN i >= 20 AND i < 25 THEN 1 ELSE 0 END AS phase, i >= 35 OR i = 34 AS final
    FROM (SELECT (n - 1) / {LANES} AS i) x) k;
INSERT INTO asynch_op_log (id, tenant_id, created_at, op_type, task_id, success)
SELECT asynch_id_at(k.at) + n, n % 2, k.at,
       CASE WHEN n % 999 = 0 THEN 'updateModel' WHEN n % 4 < 2 THEN 'createTask' ELSE 'purgeTask' END, n::text,
       CASE WHEN n % 997 = 0 THEN 0 ELSE 1 END
FROM generate_series(1, {ROWS}) AS n CROSS JOIN LATERAL (SELECT now() - make_interval(mins => {ROWS} - n) AS at) k;
INSERT INTO asynch_model_stat (day, tenant_id, model_name, request_count)
SELECT date '2025-01-01' + n % 500, n % 10, 'm' || n, n FROM generate_series(1, {ROWS} / 2) AS n;
INSERT INTO asynch_biz_stat (day, tenant_id, biz_name, request_count)
SELECT date '2025-01-01' + n % 500, n % 10, 'b' || n, n FROM generate_series(1, {ROWS} / 2) AS n;
INSERT INTO asynch_file (id, tenant_id, sha256, size, stored_size, key, parent)
SELECT n, n % 10, md5(n::text), n, n, 'k' || n, CASE WHEN n % 5 = 0 THEN n - 10 END FROM generate_series(1, {ROWS} / 2) AS n;
INSERT INTO asynch_upload (id, tenant_id, "user", status)
SELECT n, n % 10, 'u' || n % 100, CASE WHEN n % 50 = 0 THEN 'received' ELSE 'completed' END
FROM generate_series(1, {ROWS} / 2) AS n;
INSERT INTO asynch_action (id, tenant_id, file_id, rule_id, version, execute_mode)
SELECT n, n % 10, n / 3, n % 3, 1, 3 FROM generate_series(1, {ROWS} / 2) AS n ON CONFLICT DO NOTHING;
INSERT INTO asynch_action_log (id, tenant_id, task_id, file_id, rule_id, version, attempt, outcome)
SELECT n, n % 10, n, n, n, 1, 1, 'completed' FROM generate_series(1, {ROWS} / 2) AS n;
INSERT INTO asynch_pre_action (id, tenant_id, version, action_name, execute_mode, target_url, status, after_id, deleted_at)
SELECT n, n % 10, 3, 'r' || n, 3, 'video.cover', CASE WHEN n % 7 = 0 THEN 9 ELSE 1 END, CASE WHEN n % 50 = 0 THEN n - 10 END,
       CASE WHEN n % 3 = 0 THEN now() END
FROM generate_series(1, {ROWS} / 5) AS n;
INSERT INTO asynch_pre_action_version (tenant_id, id, version, spec)
SELECT n % 10, n, v, '{{}}' FROM generate_series(1, {ROWS} / 5) AS n, generate_series(1, 3) AS v
"""


class Explainer:
    """Stands where a store function expects its connection, and has each query explained instead of run."""

    def __init__(self, conn: db.Connection) -> None:
        self._conn = conn
        self.prepare_threshold = None  # it keeps none
        self.plans: list[dict[str, Any]] = []

    def execute(self, query: Any, params: Any = None, *, prepare: bool = False) -> Explainer:
        if not query.lstrip().startswith("SET"):
            (row,) = self._conn.execute(f"EXPLAIN (FORMAT JSON) {query}".encode(), params).fetchall()
            self.plans.append(row["QUERY PLAN"][0]["Plan"])
        return self

    def pipeline(self) -> nullcontext[None]:
        return nullcontext()

    def fetchall(self) -> list[Row]:
        return []

    def fetchone(self) -> None:
        return None

    rowcount = 0


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def claim(task_id: int) -> Claim:
    target = Target("http://x", "", "POST", "", 1.0, 1, RetryRule(0, RetryOn.ANY, 0.0, 0))
    now = datetime.now(UTC)
    return Claim(
        1, task_id, 1, 1, 1, Phase.CALL, 19, 0, 0, None, None, Saved(), "c", "m", now, now, 0.0, 0.0, target,
    )  # fmt: skip


Use = Callable[[db.Connection], object]
IDS = list(range(1, 200))
AGO = datetime.now(UTC) - timedelta(days=20)
FIFTH = sealed.Sealed(5, 0)
WANTED = TaskFilter(model_name="m", state=0)

#: what a worker asks, with the indexes of asynch_task that may answer
OF_WORKERS: dict[str, tuple[Use, set[str]]] = {
    "claim": (lambda c: queue.claim(c, counts={1: 3, 2: 1, 900: 9}, worker_id=1, timezone="UTC"), {QUEUE, POLLED, KEY}),
    "claim of many lanes": (
        lambda c: queue.claim(c, counts=dict.fromkeys(range(64), 1), worker_id=1, timezone="UTC"), {QUEUE, POLLED, KEY},
    ),
    "claim_uploads": (
        lambda c: queue.claim_uploads(c, tmp_host="host-1", most=32, worker_id=1), {UPLOAD, KEY},
    ),
    "settle": (
        lambda c: queue.settle(c, [outcomes.delivered(TERMS, claim(i)) for i in range(500)], queue_timeout_s=1.0), {KEY},
    ),
    "scan_lanes": (lambda c: slots.scan_lanes(c, after=0, most=64), {QUEUE, POLLED}),
    "scan_lanes with marks": (
        lambda c: slots.scan_lanes(c, after=0, most=64, starts={n: {19: AGO} for n in IDS[::3]}), {QUEUE, POLLED},
    ),
    "lanes_named": (lambda c: slots.lanes_named(c, [1, 2, 900]), {POLLED}),
    "lanes_in_mourning": (lambda c: slots.lanes_in_mourning(c, [1, 2], [1, 2, 3]), {RUNNING}),
    "polled_waiting": (lambda c: slots.polled_waiting(c, 5), {POLLED}),
    "write_progress": (lambda c: write_progress(c, [Note(1, i, 1, 5.0, "m") for i in IDS]), {KEY}),
    "rescue": (
        lambda c: workers.rescue(
            c, workers=[3], host="h", charged=True, max_crashes=3, keep=KEEP, most=1000
        ),
        {RUNNING, KEY},
    ),
    "retry_due": (lambda c: queue.retry_due(c, most=1000, queue_timeout_s=1.0), {WAKE, KEY}),
    "expire_queue": (lambda c: queue.expire_queue(c, most=1000, failed_retention_s=1.0), {WAKE, KEY}),
    "lose_silent_hosts": (
        lambda c: queue.lose_silent_hosts(c, most=1000, grace_s=1.0, queue_timeout_s=1.0), {UPLOAD, KEY},
    ),
    "purge": (lambda c: [queue.purge(c, state=s, most=1000) for s in (2, 3, 4, 5)], {WAKE, KEY}),
    "purge of some": (lambda c: queue.purge(c, state=4, most=1000, ids=IDS), {WAKE, KEY}),
    "purgeable": (lambda c: queue.purgeable(c, state=4, most=1000), {WAKE}),
    "waiting": (survey.waiting, {QUEUE}),
    "in_hand": (survey.in_hand, {RUNNING, UPLOAD, WAKE}),
    "cancelled_claims": (
        lambda c: workers.cancelled_claims(c, worker_id=1, tasks=[(1, i) for i in IDS]), {KEY},
    ),
    "known_files": (lambda c: workers.known_files(c, {f"1_{i}_1": (1, i, 1) for i in range(1000)}), {KEY}),
    "find_attempt": (lambda c: workers.find_attempt(c, tenant_id=1, task_id=5, attempt=1), {KEY}),
    "notify_expiring": (lambda c: webhooks.notify_expiring(c, most=1000), {NOTICE, KEY}),
    "names_object": (lambda c: queue.names_object(c, claim(1), "k"), {KEY}),
}  # fmt: skip

#: what a request asks
OF_REQUESTS: dict[str, tuple[Use, set[str]]] = {
    "write_progress": (lambda c: write_progress(c, [Note(1, 5, 1, 5.0, "m")]), {KEY}),
    "find_call": (lambda c: find_call(c, tenant_id=1, task_id=5, attempt=1), {KEY}),
    "fetch": (lambda c: store.fetch(c, tenant_id=1, ids=IDS, mark=True), {KEY}),
    "fetch without a mark": (lambda c: store.fetch(c, tenant_id=1, ids=IDS, mark=False), {KEY}),
    "get_tasks": (lambda c: store.get_tasks(c, tenant_id=1, ids=IDS), {KEY}),
    "unfinished": (lambda c: store.unfinished(c, tenant_id=1, ids=IDS), {KEY}),
    "versions": (lambda c: store.versions(c, [(1, i) for i in IDS]), {KEY}),
    "place": (lambda c: store.find_place(c, tenant_id=1, task_id=5, most=1000), {KEY, QUEUE}),
    "tenant_depth": (lambda c: store.tenant_depth(c, 1), {OPEN}),
    "cancel": (lambda c: store.cancel(c, tenant_id=1, ids=IDS, updater="u", failed_retention_s=1.0), {KEY}),
    "rerun": (lambda c: store.rerun(c, tenant_id=1, ids=IDS, updater="u", queue_timeout_s=1.0), {KEY}),
    "lane_depth": (lambda c: store.lane_depth(c, 500), {OPEN}),
    "list_tasks": (
        lambda c: store.list_tasks(
            c, tenant_id=1, wanted=TaskFilter(model_name="m", final=False), limit=10, offset=0, cap=100
        ),
        {KEY},
    ),
    "list_tasks of a name": (
        lambda c: store.list_tasks(c, tenant_id=1, wanted=WANTED, limit=10, offset=10, cap=100), {NAMED},
    ),
    "list_tasks of a name and a time": (
        lambda c: store.list_tasks(
            c, tenant_id=1, wanted=TaskFilter(biz_name="b", created_from=AGO, created_to=AGO, final=True),
            limit=10, offset=10, cap=100,
        ),
        {NAMED},
    ),
    "list_task_ids": (
        lambda c: store.list_task_ids(c, tenant_id=1, wanted=WANTED, among=(0, 1), after=100, before=10**6, most=10),
        {KEY},
    ),
    "sealed tasks": (
        lambda c: [sealed.list_sealed(c, kind, after=FIFTH, most=500) for kind in sealed.KINDS if kind.name == "tasks"],
        {KEY},
    ),
    "list_deliveries": (
        lambda c: webhooks.list_deliveries(c, tenant_id=~1, wanted=DeliveryFilter(), limit=10, offset=0, cap=100), {KEY},
    ),
    "list_deliveries of a task": (
        lambda c: webhooks.list_deliveries(c, tenant_id=~1, wanted=DeliveryFilter(5), limit=10, offset=0, cap=100),
        {CHILDREN, KEY},
    ),
    "open_tasks": (lambda c: model_store.open_tasks(c, a_model()), {OPEN}),
}  # fmt: skip


def a_model() -> model_store.Model:
    now = datetime.now(UTC)
    spec = model_store.ModelSpec("m", "http://x")
    return model_store.Model(1, 1, 500, "model", "c", now, "u", now, spec)


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


@pytest.fixture(scope="module")
def empty(module_dsn: str) -> str:
    """No rows, and the planner knows it."""
    execute(module_dsn, "ANALYZE")
    return module_dsn


@pytest.fixture(scope="module")
def surprised(server_dsn: str, template: str) -> Iterator[str]:
    """Full, but ANALYZE saw it empty."""
    with database(server_dsn, template) as dsn:
        execute(dsn, "ALTER TABLE asynch_task SET (autovacuum_enabled = off)", "VACUUM ANALYZE", FILL)
        yield dsn


@pytest.fixture(scope="module")
def filled(server_dsn: str, surprised: str) -> Iterator[str]:
    """Full, and the planner knows it."""
    with copy_of(server_dsn, surprised) as dsn:
        execute(dsn, "VACUUM ANALYZE")
        yield dsn


def copy_of(server_dsn: str, dsn: str) -> AbstractContextManager[str]:
    return database(server_dsn, str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]))


@pytest.fixture(scope="module")
def worn(server_dsn: str, filled: str) -> Iterator[str]:
    """A copy for what is really run: what is undone leaves dead rows behind, and these make other plans look cheaper."""
    with copy_of(server_dsn, filled) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def worn_surprised(server_dsn: str, surprised: str) -> Iterator[str]:
    with copy_of(server_dsn, surprised) as dsn:
        yield dsn


@pytest.fixture(params=["empty", "worn_surprised", "worn"])
def table(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture(params=["worn_surprised", "worn"])
def worn_table(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture(params=["surprised", "filled"])
def full_table(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def ways(conn: db.Connection, use: Use, table: str = "asynch_task") -> set[tuple[str, str]]:
    """How the plans of a store function get at a table: (kind of scan, index).

    A pinned session plans without a look at the parameters, which EXPLAIN has: there the statements are run.
    """
    (found,) = conn.execute("SHOW plan_cache_mode").fetchall()
    plans = explained(conn, use) if found["plan_cache_mode"] == "auto" else plans_within(conn, use)
    assert plans
    return {(kind, index) for name, kind, index in met_by(plans) if name == table}


def explained(conn: db.Connection, use: Use) -> list[dict[str, Any]]:
    """The plans of the statements of a store function, none of which is run."""
    explainer = Explainer(conn)
    with suppress(LookupError):  # of functions that cannot do without a row
        use(cast(db.Connection, explainer))
    return explainer.plans


def met_by(plans: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """How plans get at tables: (table, kind of scan, index)."""
    return {
        (node["Relation Name"], node["Node Type"].replace(" Only", ""), node.get("Index Name", ""))
        for plan in plans
        for node in nodes(plan)
        if "Relation Name" in node and node["Node Type"] != "ModifyTable"
    }


@pytest.mark.parametrize("name", OF_WORKERS)
def test_a_workers_pool_goes_through_the_index(table: str, name: str) -> None:
    use, indexes = OF_WORKERS[name]
    with db.open_pool(table, size=1, name="tests", pinned=True) as pool, db.connection(pool) as conn:
        assert ways(conn, use) == {("Index Scan", index) for index in indexes}


KEPT = [name for name in OF_WORKERS if sql.plan_is_kept(name.partition(" ")[0])]


@pytest.mark.parametrize("name", KEPT)
def test_a_plan_that_a_worker_keeps_goes_through_the_index(table: str, name: str) -> None:
    """By the server's own account of what ran: it is made without a look at the parameters."""
    use, indexes = OF_WORKERS[name]
    with db.open_session(table, name="tests") as conn:
        plans = plans_within(conn, use)

    assert {(kind, index) for met, kind, index in met_by(plans) if met == "asynch_task"} == {
        ("Index Scan", index) for index in indexes
    }


def test_a_plan_made_for_a_small_table_is_not_kept_for_a_large_one(dsn: str) -> None:
    """Which nobody has analyzed meanwhile. A plan that reads it whole goes through its key too."""
    use, _ = OF_WORKERS["settle"]
    few = f"INSERT INTO asynch_task (id, tenant_id, lane_id, model_name) SELECT {ROWS} + n, 1, 1, 'm' FROM generate_series(1, 1000) n"
    execute(dsn, "ALTER TABLE asynch_task SET (autovacuum_enabled = off)", few, "VACUUM ANALYZE")
    with db.open_session(dsn, name="tests") as conn:
        use(conn)
        execute(dsn, FILL)
        conn.planned_at -= db.PLANS_KEPT_S
        plans = plans_within(conn, use)

    by_key = [node for plan in plans for node in nodes(plan) if node.get("Index Name") == KEY]
    assert by_key
    assert [node for node in by_key if "Index Cond" not in node] == []


@pytest.mark.parametrize("name", ["claim", "claim of many lanes", "scan_lanes", "lanes_named", "lanes_in_mourning"])
def test_the_claim_session_goes_through_the_index(table: str, name: str) -> None:
    use, indexes = OF_WORKERS[name]
    with db.open_session(table, name="tests") as conn:
        assert ways(conn, use) == {("Index Scan", index) for index in indexes}


@pytest.mark.parametrize("name", OF_REQUESTS)
def test_a_request_goes_through_an_index(full_table: str, name: str) -> None:
    use, indexes = OF_REQUESTS[name]
    with db.open_pool(full_table, size=1, name="tests") as pool, db.connection(pool) as conn:
        used = ways(conn, use)

    assert {kind for kind, _ in used} <= {"Index Scan", "Bitmap Heap Scan"}
    assert {index for kind, index in used if kind == "Index Scan"} <= indexes


#: what is asked of files and uploads, by table, with the indexes that may answer
OF_FILES: dict[str, tuple[str, Use, set[str]]] = {
    "find_by_content": (
        "file", lambda c: files.find_by_content(c, tenant_id=1, sha256="x"), {"asynch_file_content"},
    ),
    "find_file": ("file", lambda c: files.find_file(c, tenant_id=1, file_id=1), {"asynch_file_pkey"}),
    "list_children": (
        "file", lambda c: files.list_children(c, tenant_id=1, file_id=1), {"asynch_file_children"},
    ),
    "find_upload": (
        "upload", lambda c: files.find_upload(c, tenant_id=1, upload_id=1), {"asynch_upload_pkey"},
    ),
    "lock_upload": (
        "upload", lambda c: files.lock_upload(c, tenant_id=1, upload_id=1), {"asynch_upload_pkey"},
    ),
    "end_upload": (
        "upload", lambda c: files.end_upload(c, tenant_id=1, upload_id=1, status="failed"), {"asynch_upload_pkey"},
    ),
    "known_incoming": (
        "upload", lambda c: files.known_incoming(c, {str(n): (n % 10, n) for n in IDS}), {"asynch_upload_pkey"},
    ),
    "pending_uploads": (
        "upload", lambda c: files.pending_uploads(c, [(n % 10, n) for n in IDS]), {"asynch_upload_pkey"},
    ),
    "expire_uploads": (
        "upload", lambda c: files.expire_uploads(c, ttl_s=60.0, most=10),
        {"asynch_upload_pending", "asynch_upload_pkey"},
    ),
    "note_received": (
        "upload", lambda c: files.note_received(c, tenant_id=1, upload_id=1, content_type="x"), {"asynch_upload_pkey"},
    ),
    "put_cover": ("file", lambda c: files.put_cover(c, tenant_id=1, task_id=1, key="k"), {"asynch_file_pkey"}),
    "list_uploads": (
        "upload", lambda c: files.list_uploads(c, tenant_id=1, user="u1", limit=10, offset=0, cap=100),
        {"asynch_upload_user"},
    ),
}  # fmt: skip


OF_FILES |= {
    "insert_actions": (
        "action", lambda c: actions.insert_actions(c, tenant_id=1, actions=[NewAction(1, 2, 3, "", 3, "")]), set(),
    ),
    "lock_action": ("action", lambda c: actions.lock_action(c, tenant_id=1, action_id=1), {"asynch_action_pkey"}),
    "expire_actions": ("action", lambda c: actions.expire_actions(c, most=10), {"asynch_action_awaiting", "asynch_action_pkey"}),
    "note_result": (
        "action",
        lambda c: actions.note_result(c, tenant_id=1, action_id=1, output=None, error=""),
        {"asynch_action_pkey"},
    ),
    "await_result": ("action", lambda c: actions.await_result(c, tenant_id=1, action_id=1), {"asynch_action_pkey"}),
    "add_tags": ("file", lambda c: files.add_tags(c, tenant_id=1, file_id=1, tags=["t"], most=9), {"asynch_file_pkey"}),
    "list_actions": ("action", lambda c: actions.list_actions(c, tenant_id=1, file_id=1), {"asynch_action_once"}),
    "list_completed": (
        "action", lambda c: actions.list_completed(c, tenant_id=1, file_id=1), {"asynch_action_once"},
    ),
    "end_action": (
        "action", lambda c: actions.end_action(c, tenant_id=1, action_id=1, end=End("failed")), {"asynch_action_pkey"},
    ),
    "forget_action_log": (
        "action_log", lambda c: actions.forget_tries(c, retention_s=60.0, most=10), {"asynch_action_log_pkey"},
    ),
    "list_tries": (
        "action_log", lambda c: actions.list_tries(c, tenant_id=1, wanted=LogFilter(), limit=10, offset=0, cap=100),
        {"asynch_action_log_pkey"},
    ),
}  # fmt: skip


#: what only a worker asks, whose sessions are pinned, and what only a request does
ONLY = {True: {"known_incoming", "pending_uploads"}, False: {"list_children", "list_actions", "list_uploads"}}


@pytest.mark.parametrize(
    ("name", "pinned"), [(name, way) for name in OF_FILES for way in (True, False) if name not in ONLY[not way]]
)
def test_a_look_at_files_goes_through_an_index(filled: str, worn: str, name: str, pinned: bool) -> None:
    table, use, indexes = OF_FILES[name]
    with (
        db.open_pool(worn if pinned else filled, size=1, name="tests", pinned=pinned) as pool,
        db.connection(pool) as conn,
    ):
        used = ways(conn, use, f"asynch_{table}")
        tasks = ways(conn, use)

    assert {kind for kind, _ in used} <= {"Index Scan", "Bitmap Heap Scan"}
    assert {index for kind, index in used if kind == "Index Scan"} == indexes
    assert tasks <= {("Index Scan", KEY)}


A_RULE = rules.Rule(
    1, 1, 1, "c", AGO, "u", AGO, rules.RuleSpec(action_name="r", execute_mode=3, target_url="video.cover")
)  # fmt: skip
#: what is asked of rules, with the indexes that may answer
OF_RULES: dict[str, tuple[Use, set[str]]] = {
    "list_live": (lambda c: rules.list_live(c, 1), {"there", "name"}),
    "find_rule": (lambda c: rules.find_rule(c, tenant_id=1, rule_id=1), {"pkey", "there"}),
    "find_version": (lambda c: rules.find_version(c, tenant_id=1, rule_id=1, version=1), {"version_pkey"}),
    "list_rules": (
        lambda c: rules.list_rules(c, tenant_id=1, wanted=rules.RuleFilter("r", 3, 1), limit=10, offset=0),
        {"there", "name"},
    ),
    "parents": (lambda c: rules.parents(c, 1), {"after"}),
    "has_followers": (lambda c: rules.has_followers(c, A_RULE), {"after"}),
    "update_rule": (lambda c: rules.update_rule(c, A_RULE, updater="u", spec=A_RULE.spec), {"pkey", "there"}),
    "delete_rule": (lambda c: rules.delete_rule(c, A_RULE, updater="u"), {"pkey", "there"}),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_RULES)
def test_a_look_at_rules_goes_through_an_index(full_table: str, name: str) -> None:
    use, indexes = OF_RULES[name]
    with db.open_pool(full_table, size=1, name="tests") as pool, db.connection(pool) as conn:
        used = ways(conn, use, "asynch_pre_action") | ways(conn, use, "asynch_pre_action_version")

    assert {kind for kind, _ in used} <= {"Index Scan", "Bitmap Heap Scan"}
    assert {index for _, index in used if index} <= {f"asynch_pre_action_{index}" for index in indexes}
    assert used


#: searches of the op log with the indexes that may answer
OF_THE_LOG: dict[str, tuple[OpFilter, set[str]]] = {
    "all": (OpFilter(), {"pkey"}),
    "of a task": (OpFilter(task_id="777"), {"later", "purged", "pkey"}),
    "of a kind that is rare": (OpFilter(op_type="Model"), {"rare"}),
    "refused": (OpFilter(success=0), {"refused"}),
    "a minute long ago": (
        OpFilter(created_from=AGO, created_to=AGO + timedelta(minutes=1), creator="x"), {"pkey", "age"},
    ),
    "before a time long ago": (OpFilter(created_to=AGO), {"pkey", "age"}),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_THE_LOG)
def test_a_search_of_the_op_log_goes_through_an_index(full_table: str, name: str) -> None:
    wanted, indexes = OF_THE_LOG[name]
    with db.open_pool(full_table, size=1, name="tests") as pool, db.connection(pool) as conn:
        used = ways(
            conn, lambda c: oplog.list_op_logs(c, tenant_id=1, wanted=wanted, limit=10, offset=10, cap=100),
            "asynch_op_log",
        )  # fmt: skip

    assert {kind for kind, _ in used} <= {"Index Scan", "Bitmap Heap Scan"}
    assert {index for kind, index in used if kind == "Index Scan"} <= {f"asynch_op_log_{index}" for index in indexes}


@pytest.mark.parametrize("name", sorted(OF_THE_LOG.keys() - {"all"}))
def test_a_search_of_the_op_log_reads_little_of_it(filled: str, name: str) -> None:
    wanted, _ = OF_THE_LOG[name]
    with db.open_pool(filled, size=1, name="tests") as pool, db.connection(pool) as conn:
        touched = blocks(
            conn, lambda c: oplog.list_op_logs(c, tenant_id=1, wanted=wanted, limit=10, offset=10, cap=100)
        )

    assert touched < 100  # of 1,000


@pytest.mark.parametrize("kind", ["model", "biz"])
def test_the_statistics_of_a_week_read_no_other_days(filled: str, kind: str) -> None:
    find = {"model": stats.list_model_stats, "biz": stats.list_biz_stats}[kind]
    week = StatFilter(date(2025, 6, 1), date(2025, 6, 7))
    with db.open_pool(filled, size=1, name="tests") as pool, db.connection(pool) as conn:
        used = ways(
            conn, lambda c: find(c, tenant_id=1, wanted=week, limit=10, offset=10, cap=100), f"asynch_{kind}_stat"
        )
        touched = blocks(conn, lambda c: find(c, tenant_id=1, wanted=week, limit=10, offset=10, cap=100))

    assert {kind for kind, _ in used} <= {"Index Scan", "Bitmap Heap Scan"}
    assert touched < 100  # of 500


def test_creation_meets_keys_and_lanes_by_their_index_and_no_task(table: str) -> None:
    """By the server's own account of what runs within its function."""
    lane = TaskLane("m", 1, enabled=True, method="POST", queue_limit=1)
    once = Once("/", "key", "hash")
    asked = Request(Caller(Principal(1, "c", Role.USER)), 1.0, "UTC", log_payloads=True, once=once)

    def use(conn: db.Connection) -> None:
        made = create_tasks(conn, asked, [(lane, NewTask("m"))] * 1000, Entry(names=["no model"]))
        assert isinstance(made, Made)

    with db.open_pool(table, size=1, name="tests") as pool, db.connection(pool) as conn:
        plans = plans_within(conn, use)

    assert met_by(plans) == {
        ("asynch_idempotency", "Index Scan", "asynch_idempotency_pkey"),
        ("asynch_models", "Index Scan", "asynch_models_name"),
        ("asynch_tenant", "Index Scan", "asynch_tenant_pkey"),
    }


def plans_within(conn: db.Connection, use: Use) -> list[dict[str, Any]]:
    """The plans of all statements that a store function runs, those within functions too; what it does is undone.

    By the server's own account: EXPLAIN knows the parameters, where a session may plan without them.
    """
    found: list[dict[str, Any]] = []

    def noted(told: psycopg.errors.Diagnostic) -> None:
        _, mark, plan = (told.message_primary or "").partition("plan:\n")
        if mark:
            found.append(json.loads(plan)["Plan"])

    conn.add_notice_handler(noted)
    with conn.transaction(force_rollback=True):
        conn.execute("LOAD 'auto_explain'")
        conn.execute("SET LOCAL auto_explain.log_min_duration = 0")
        conn.execute("SET LOCAL auto_explain.log_analyze = on")
        conn.execute("SET LOCAL auto_explain.log_buffers = on")
        conn.execute("SET LOCAL auto_explain.log_timing = off")
        conn.execute("SET LOCAL auto_explain.log_nested_statements = on")
        conn.execute("SET LOCAL auto_explain.log_format = json")
        conn.execute("SET LOCAL auto_explain.log_level = notice")
        with suppress(LookupError):  # of functions that cannot do without a row
            use(conn)
    conn.remove_notice_handler(noted)
    return found


@pytest.mark.parametrize("name", ["settle", "cancel", "rerun", "fetch", "write_progress"])
def test_a_write_to_named_tasks_meets_them_by_their_key_alone(worn_table: str, name: str) -> None:
    """Under the pins as well as without: a partial index on the state would be read again at every change."""
    use, _ = {**OF_WORKERS, **OF_REQUESTS}[name]
    for pinned in (True, False):
        with db.open_pool(worn_table, size=1, name="tests", pinned=pinned) as pool, db.connection(pool) as conn:
            assert {index for _, index in ways(conn, use) if index} == {KEY}


def blocks(conn: db.Connection, use: Use) -> int:
    """How many blocks the statements of a store function touch; nothing of what they do stays."""
    return sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans_within(conn, use))


@pytest.fixture(scope="module")
def deep(worn: str) -> str:
    """One more lane with 20,000 tasks that wait and 20,000 of the highest priority that are not due for a day."""
    execute(
        worn,
        "INSERT INTO asynch_models (tenant_id, lane_id, model_name, base_url) VALUES (77, 7777, 'deep', 'http://x')",
        "INSERT INTO asynch_task (id, tenant_id, lane_id, model_name, rank, enqueue_at) "
        "SELECT 1000000 + n, 77, 7777, 'deep', CASE WHEN n % 2 = 0 THEN 19 ELSE 1 END, "
        "now() + CASE WHEN n % 2 = 0 THEN interval '-1 hour' ELSE interval '1 day' END "
        "FROM generate_series(1, 40000) AS n",
        "VACUUM ANALYZE asynch_task",
    )
    return worn


def test_a_claim_reads_as_much_of_a_deep_lane_as_of_a_shallow_one(deep: str) -> None:
    with db.open_session(deep, name="tests") as conn:
        touched = blocks(conn, lambda c: queue.claim(c, counts={7777: 1}, worker_id=1, timezone="UTC"))

    assert touched < 200  # 20 ranks of a few blocks each, one row changed in five indexes


def test_a_claim_that_begins_at_a_mark_does_not_read_what_lies_before_it(deep: str) -> None:
    with db.open_session(deep, name="tests") as conn, psycopg.connect(deep) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM asynch_models")  # from now on nothing dead can be removed
        mine = "lane_id = 7777 AND rank = 19 AND state = 0"
        conn.execute(f"UPDATE asynch_task SET state = 4, final = true WHERE {mine} AND id < 1035000".encode())
        conn.execute(f"UPDATE asynch_task SET enqueue_at = now() - interval '1 min' WHERE {mine}".encode())
        starts = {7777: {19: datetime.now(UTC) - timedelta(minutes=2)}}

        terms: dict[str, Any] = {"counts": {7777: 1}, "worker_id": 1, "timezone": "UTC"}
        from_mark = blocks(conn, lambda c: queue.claim(c, starts=starts, **terms))
        whole = blocks(conn, lambda c: queue.claim(c, **terms))

    assert from_mark < 200
    assert whole > 400


def test_a_count_that_begins_where_the_last_one_found_somebody_does_not_read_what_is_over(dsn: str) -> None:
    with db.open_session(dsn, name="tests") as conn, psycopg.connect(dsn) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM asynch_models")  # from now on nothing dead can be removed
        conn.execute(
            b"INSERT INTO asynch_task (id, tenant_id, lane_id, model_name) "
            b"SELECT 2000000 + n, 78, 7778, 'worn' FROM generate_series(1, 20000) AS n"
        )
        conn.execute(b"UPDATE asynch_task SET state = 4, final = true WHERE lane_id = 7778 AND id <= 2019900")
        found = store.lane_depth(conn, 7778)
        assert (found.depth, store.lane_depth(conn, 7778, since=found.first or 0)) == (100, found)

        from_there = blocks(conn, lambda c: store.lane_depth(c, 7778, since=found.first or 0))
        whole = blocks(conn, lambda c: store.lane_depth(c, 7778))

    assert from_there < 50
    assert whole > 400


def test_a_scan_passes_a_deep_lane_in_one_step(deep: str) -> None:
    with db.open_session(deep, name="tests") as conn:
        touched = blocks(conn, lambda c: slots.scan_lanes(c, after=7000, most=64))

    assert touched < 40


def test_a_scan_that_begins_at_a_mark_does_not_read_what_lies_before_it(dsn: str) -> None:
    with db.open_session(dsn, name="tests") as conn, psycopg.connect(dsn) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM asynch_models")  # from now on nothing dead can be removed
        conn.execute(
            b"INSERT INTO asynch_task (id, tenant_id, lane_id, model_name, enqueue_at) "
            b"SELECT 3000000 + n, 79, 7779, 'worn', now() - interval '1 hour' FROM generate_series(1, 20000) AS n"
        )
        conn.execute(b"UPDATE asynch_task SET state = 4, final = true WHERE lane_id = 7779")
        conn.execute(b"INSERT INTO asynch_task (id, tenant_id, lane_id, model_name) VALUES (4000000, 79, 7779, 'worn')")
        starts = {7779: {19: datetime.now(UTC) - timedelta(minutes=1)}}

        from_mark = blocks(conn, lambda c: slots.scan_lanes(c, after=7778, most=64, starts=starts))
        whole = blocks(conn, lambda c: slots.scan_lanes(c, after=7778, most=64))

    assert from_mark < 60
    assert whole > 400


def test_settling_one_task_reads_a_few_blocks(worn: str) -> None:
    with db.open_pool(worn, size=1, name="tests", pinned=True) as pool, db.connection(pool) as conn:
        (row,) = conn.execute(
            "SELECT id, worker_id FROM asynch_task WHERE state = 1 AND tenant_id = 1 LIMIT 1"
        ).fetchall()
        held = [outcomes.released(TERMS, claim(row["id"])._replace(worker_id=row["worker_id"]), "x")]
        touched = blocks(conn, lambda c: queue.settle(c, held, queue_timeout_s=1.0))

    assert touched < 60


#: tables that grow with use
LARGE = {
    f"asynch_{name}" for name in ("task", "op_log", "upload", "file", "action", "action_log", "model_stat", "biz_stat")
}


def without_values(text: str) -> str:
    """A query with numbers in place of its parameters' names."""
    for number, name in enumerate(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)), 1):
        text = text.replace(f"%({name})s", f"${number}")
    return text.replace("%%", "%")


#: a plan depends on how long ago, or how many: they are explained above, with values
BY_VALUES = {"forget_action_log", "expire_queue", "lose_silent_hosts", "purge", "purgeable"}


@pytest.mark.parametrize("name", sorted(sql.catalogue().keys() - BY_VALUES))
def test_no_query_of_the_catalogue_reads_a_large_table_whole(filled: str, name: str) -> None:
    pinned = sql.plan_is_kept(name)  # as where it is asked most
    with db.open_pool(filled, size=1, name="tests", pinned=pinned) as pool, db.connection(pool) as conn:
        if conn.info.server_version < 160000:
            pytest.skip("this server explains nothing without values")
        found = conn.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {without_values(sql.query(name))}".encode())
        (row,) = found.fetchall()

    read = {
        node.get("Relation Name") for node in nodes(row["QUERY PLAN"][0]["Plan"]) if node["Node Type"] == "Seq Scan"
    }
    assert read & LARGE == set()


def test_states_of_the_filled_table_are_what_the_plans_are_about(filled: str) -> None:
    with psycopg.connect(filled) as conn:
        found = conn.execute("SELECT DISTINCT state FROM asynch_task").fetchall()

    assert {State(state) for (state,) in found} == set(State) - {State.SUCCEEDED}
