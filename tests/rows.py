"""Rows as tests need them: lanes and tasks by the product's own inserts, then bent into any state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import sql

from asynch import db
from asynch.db import Row
from asynch.domain.principal import Caller, Principal, Role
from asynch.domain.retry import RetryOn, RetryRule
from asynch.domain.states import Phase, State
from asynch.store import queue, slots, workers
from asynch.store.creation import Entry, Made, Request, create_tasks
from asynch.store.models import ModelSpec, insert_model
from asynch.store.queue import Claim, Saved, Target
from asynch.store.slots import Slot
from asynch.store.tasks import NewTask, TaskLane
from asynch.store.webhooks import find_lanes

TENANT = 1
HOST = "host-a"  #: a tmp_host
QUEUE_TIMEOUT_S = 3600.0


def add_model(pool: db.Pool, name: str = "m", *, tenant_id: int = TENANT, **spec: Any) -> int:
    """A model; its lane id."""
    with db.transaction(pool) as conn:
        chosen = ModelSpec(**{"model_name": name, "base_url": "http://127.0.0.1:1", **spec})
        insert_model(conn, tenant_id=tenant_id, creator="tests", spec=chosen)
        return find_lanes(conn, tenant_id=tenant_id, names=[name])[name]


def add_tasks(
    pool: db.Pool, lane_id: int, count: int = 1, *, tenant_id: int = TENANT, creator: str = "tests", **fields: Any
) -> list[int]:
    """Tasks of a lane, in one transaction; their ids in order of creation."""
    task = NewTask(**{"model_name": "m", "payload": "{}", **fields})
    request = Request(Caller(Principal(tenant_id, creator, Role.USER)), QUEUE_TIMEOUT_S, "UTC", log_payloads=True)
    lane = TaskLane("m", lane_id, enabled=True, method="POST", queue_limit=0)
    with db.connection(pool) as conn:
        made = create_tasks(conn, request, [(lane, task)] * count, Entry())
    assert isinstance(made, Made)
    return made.ids


def add_task(pool: db.Pool, lane_id: int, **fields: Any) -> int:
    """One task; its id."""
    return add_tasks(pool, lane_id, **fields)[0]


def bend(pool: db.Pool, ids: Sequence[int], **columns: Any) -> None:
    """Overwrite columns of tasks, as no product code may; a value may be an SQL expression."""
    parts = [
        sql.SQL("{} = {}").format(sql.Identifier(name), value if isinstance(value, sql.SQL) else sql.Literal(value))
        for name, value in columns.items()
    ]
    statement = sql.SQL("UPDATE asynch_task SET {} WHERE id = ANY({})").format(
        sql.SQL(", ").join(parts), sql.Literal(list(ids))
    )
    with db.transaction(pool) as conn:
        conn.execute(statement)


def ago(seconds: float) -> sql.SQL:
    """A time in the past, by the database's clock."""
    return sql.SQL(f"now() - interval '{float(seconds)} s'")  # type: ignore[arg-type]  # a number


def rows_of(pool: db.Pool, ids: Sequence[int] | None = None) -> dict[int, Row]:
    """Whole rows by id; all there are, or those of `ids`."""
    with db.connection(pool) as conn:
        found = conn.execute("SELECT * FROM asynch_task ORDER BY id").fetchall()
    return {r["id"]: r for r in found if ids is None or r["id"] in ids}


def row_of(pool: db.Pool, task_id: int) -> Row:
    """One whole row."""
    return rows_of(pool, [task_id])[task_id]


def state_of(pool: db.Pool, task_id: int) -> State:
    """The state of one task."""
    return State(row_of(pool, task_id)["state"])


def a_claim(**changes: Any) -> Claim:
    """A claim of no row: task 5 of the tenant, called ten seconds ago."""
    now = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
    fields: dict[str, Any] = {
        "tenant_id": TENANT,
        "id": 5,
        "attempt": 2,
        "worker_id": 7,
        "lane_id": 3,
        "phase": Phase.CALL,
        "rank": 15,
        "retry_count": 0,
        "upload_failures": 0,
        "payload": "{}",
        "input_ref": None,
        "saved": Saved(),
        "creator": "tests",
        "model_name": "m",
        "started_at": now - timedelta(seconds=10),
        "claimed_at": now,
        "waited_s": 1.0,
        "age_s": 20.0,
        "target": a_target(),
    }
    return Claim(**fields | changes)


def a_target(**rule: Any) -> Target:
    """A model's terms; `rule` says what of its retry rule is not the default."""
    wishes = RetryRule(**{"times": 1, "on": RetryOn.ANY, "backoff_s": 0.0, "queue_max_s": 0, **rule})
    return Target("http://127.0.0.1:1", "", "POST", "", timeout_s=1.0, max_bytes=100, retry=wishes)


@dataclass
class Worker:
    """A registered worker with its claim session, and no threads."""

    session: db.Connection
    id: int

    def claim(self, lane_id: int, count: int = 1) -> list[Claim]:
        """Claim without slots and whoever has died: the statement alone."""
        dead = slots.find_dead(self.session, worker_id=self.id)
        return queue.claim(self.session, counts={lane_id: count}, worker_id=self.id, timezone="UTC", known_dead=dead)

    def claim_one(self, lane_id: int) -> Claim:
        """The one task of a lane."""
        (claim,) = self.claim(lane_id)
        return claim

    def claim_upload(self, *, tmp_host: str = HOST, most: int = 1) -> list[Claim]:
        """Claim saved results of a host."""
        return queue.claim_uploads(self.session, tmp_host=tmp_host, most=most, worker_id=self.id)

    def win(
        self, lane_id: int, wanted: int, tries: Sequence[int], give_back: Sequence[Slot] = ()
    ) -> tuple[list[Slot], dict[int, bool]]:
        """One exchange of slots, and a look for the dead."""
        won = slots.swap_slots(self.session, give_back=give_back, wants=[(lane_id, wanted, tries)])
        return won, slots.find_dead(self.session, worker_id=self.id)

    def locks(self) -> int:
        """How many advisory locks its session holds, its own included."""
        return int(db.one(self.session, "own_locks")["locks"])


@contextmanager
def worker(dsn: str, *, tmp_host: str = HOST, host: str = "tests") -> Iterator[Worker]:
    """A worker that lives while the block runs; its session ends without a word."""
    session = db.open_session(dsn, name="asynch-worker")
    try:
        worker_id = workers.register(session, host=host, pid=1, tmp_host=tmp_host, threads=1)
        session.execute("SELECT set_config('application_name', %s, false)", (f"asynch-worker-{worker_id}",))
        yield Worker(session, worker_id)
    finally:
        session.close()


def save(pool: db.Pool, task_id: int, *, tmp_host: str = HOST) -> None:
    """Make a task one whose result is saved and waits for its upload."""
    bend(
        pool,
        [task_id],
        phase=int(Phase.UPLOAD),
        started_at=datetime.now(UTC),
        tmp_file=f"1_{task_id}_1",
        tmp_host=tmp_host,
        oss_file=f"k/{task_id}",
    )
