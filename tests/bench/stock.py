"""What is in the tables before a measurement, inserted by the server itself: a million rows in seconds."""

from __future__ import annotations

from collections.abc import Sequence

from asynch import db
from tests.bench.place import Site

#: of every lane
QUEUE_LIMIT = 2_000_000_000

_LANES = """
    INSERT INTO asynch_models (tenant_id, model_name, base_url, route, max_concurrency, queue_limit, timeout_seconds,
        max_result_bytes)
    SELECT CASE WHEN %(each)s THEN %(tenant)s + n ELSE %(tenant)s END, %(name)s || '-' || n, %(url)s, %(route)s,
           %(slots)s, %(queue_limit)s, 3600, 1::bigint << 40
    FROM generate_series(0, %(count)s - 1) AS n ORDER BY n RETURNING lane_id"""

_TASKS = """
    INSERT INTO asynch_task (id, created_at, tenant_id, lane_id, model_name, creator, updater, biz_name, request_payload,
        wake_at, state, final, finished_at, expire_at, oss_file, file_type, content_type, file_size, sha256, attempt)
    SELECT asynch_new_id() - ((%(age_s)s * 1000)::bigint << 22), now() - make_interval(secs => %(age_s)s), m.tenant_id,
           m.lane_id, m.model_name, 'bench', 'bench', %(biz_name)s, '{"n": 1}',
           now() + make_interval(secs => %(wake_in_s)s), %(state)s, %(state)s <> 0,
           CASE WHEN %(state)s <> 0 THEN now() END,
           CASE WHEN %(state)s = 4 THEN now() + make_interval(secs => %(wake_in_s)s) END,
           CASE WHEN %(state)s <> 0 THEN m.tenant_id || '/2026/01/01/' || n || '-1.json' ELSE '' END,
           CASE WHEN %(state)s <> 0 THEN 'json' ELSE '' END,
           CASE WHEN %(state)s <> 0 THEN 'application/json' ELSE '' END,
           CASE WHEN %(state)s <> 0 THEN 15 END,
           CASE WHEN %(state)s <> 0 THEN repeat('0', 64) ELSE '' END,
           CASE WHEN %(state)s <> 0 THEN 2 ELSE 0 END
    FROM generate_series(0, %(count)s - 1) AS n
    JOIN asynch_models m ON m.lane_id = (%(lanes)s::int[])[1 + (n + %(from)s) %% cardinality(%(lanes)s::int[])]"""


def add_lanes(
    site: Site,
    count: int = 1,
    *,
    slots: int,
    url: str = "http://127.0.0.1:9",
    route: str = "",
    tenant: int = 1,
    tenant_each: bool = False,
    name: str = "m",
) -> list[int]:
    """Lanes of one tenant (or one tenant each, from `tenant` on), named `name`-0 and so on; their ids."""
    params = {"count": count, "slots": slots, "url": url, "route": route, "tenant": tenant, "each": tenant_each}
    with db.transaction(site.pool) as conn:
        return [
            row["lane_id"]
            for row in conn.execute(_LANES, {**params, "name": name, "queue_limit": QUEUE_LIMIT}).fetchall()
        ]


def add_tasks(
    site: Site,
    lanes: Sequence[int],
    count: int,
    *,
    state: int = 0,
    wake_in_s: float = 86400.0,
    first: int = 0,
    age_s: float = 0.0,
    biz_name: str = "",
) -> None:
    """So many tasks, in turn over the lanes from the `first` on: pending ones, or results with no file behind.

    They are this old, and counted nowhere.
    """
    params = {"lanes": list(lanes), "count": count, "state": state, "wake_in_s": wake_in_s, "from": first}
    with db.transaction(site.pool) as conn:
        conn.execute(_TASKS, {**params, "age_s": age_s, "biz_name": biz_name})


def settle_down(site: Site) -> None:
    """What autovacuum would do in the middle of a measurement, and a checkpoint that it need not pay for."""
    with db.connection(site.pool) as conn:
        conn.commit()
        conn.autocommit = True
        conn.execute("VACUUM ANALYZE")
        conn.execute("CHECKPOINT")
        conn.autocommit = False
