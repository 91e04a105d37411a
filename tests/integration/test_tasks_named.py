"""listTask by names: merged from a search by each name, or searched for among all, the answer is the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from asynch import db
from asynch.domain.states import State
from asynch.store import tasks as store
from asynch.store.tasks import TaskFilter

START = datetime(2026, 1, 1, tzinfo=UTC)
MIDDLE = START + timedelta(hours=300)
LIMIT, OFFSET, CAP = 4, 3, 40

FILL = """
INSERT INTO asynch_task (id, tenant_id, lane_id, model_name, biz_name, state, final, expire_at, created_at)
SELECT asynch_id_at(k.at) + n, CASE WHEN mod(n, 7) = 0 THEN 2 ELSE 1 END, 1,
       (ARRAY['a', 'b', 'ab', 'b''c'])[1 + mod(n, 4)], (ARRAY['', 'x', 'xy'])[1 + mod(n, 3)], k.state,
       k.state IN (2, 4, 5) OR k.state = 3 AND mod(n, 2) = 0,
       CASE mod(n, 11) WHEN 0 THEN now() - interval '1 s' WHEN 1 THEN now() + interval '1 h' END, k.at
FROM generate_series(1, 600) AS n CROSS JOIN LATERAL (
    SELECT %(start)s::timestamptz + make_interval(hours => n) AS at, mod(mod(n * n, 53), 6) AS state) k
"""


@pytest.fixture(scope="module")
def rows(module_dsn: str) -> Iterator[tuple[db.Connection, list[db.Row]]]:
    """Tasks of two tenants with all there is of names, states and times."""
    with db.open_pool(module_dsn, size=1, name="tests") as pool, db.connection(pool) as conn:
        conn.execute(FILL, {"start": START})
        yield conn, conn.execute("SELECT *, expire_at <= now() AS gone FROM asynch_task ORDER BY id DESC").fetchall()


def meant(wanted: TaskFilter, row: db.Row) -> bool:
    return (
        row["tenant_id"] == 1
        and not row["gone"]
        and (wanted.model_name or "") in row["model_name"]
        and (wanted.biz_name or "") in row["biz_name"]
        and wanted.state in (None, row["state"])
        and wanted.final in (None, row["final"])
        and (wanted.created_from or row["created_at"]) <= row["created_at"]
        and (wanted.created_to is None or row["created_at"] < wanted.created_to)
    )


@pytest.mark.parametrize("merged", [store._MOST_MERGED, 3])
@pytest.mark.parametrize("sought", [store._MOST_NAMES, 0])
@pytest.mark.parametrize("model", [None, "a", "b", "b'", "nothing"])
@pytest.mark.parametrize("biz", [None, "x", "xy"])
def test_a_search_by_names_finds_what_is_meant(
    rows: tuple[db.Connection, list[db.Row]],
    monkeypatch: pytest.MonkeyPatch,
    merged: int,
    sought: int,
    model: str | None,
    biz: str | None,
) -> None:
    monkeypatch.setattr(store, "_MOST_MERGED", merged)
    monkeypatch.setattr(store, "_MOST_NAMES", sought)
    conn, all_rows = rows
    times = [(None, None), (MIDDLE, None), (MIDDLE - timedelta(hours=200), MIDDLE)]
    for state, final, (since, until) in product([None, *State], [None, True, False], times):
        wanted = TaskFilter(None, model, biz, state, final, since, until)
        ids = [row["id"] for row in all_rows if meant(wanted, row)]
        for offset in (0, OFFSET):
            found = store.list_tasks(conn, tenant_id=1, wanted=wanted, limit=LIMIT, offset=offset, cap=CAP)
            assert found == (ids[offset : offset + LIMIT], min(len(ids), CAP)), (wanted, offset)
