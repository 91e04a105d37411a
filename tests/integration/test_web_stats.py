"""Statistics over HTTP: what is counted, when, under which day, and who may see it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from asynch import db
from asynch.cleaner.fold import fold
from asynch.store import stats
from tests.database import all_rows
from tests.live import MakeParts, serving
from tests.rows import add_tasks
from tests.task_api import CLEANER, Api, Hand, pointers, problem

MODEL, BIZ = "listModelStat", "listBizStat"
NAME = {MODEL: "modelName", BIZ: "bizName"}


def told(api: Api, path: str, **body: Any) -> dict[str, Any]:
    answer = api.call("POST", f"/stat/{path}", body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def listed(api: Api, path: str, **body: Any) -> list[tuple[str, str, str, int]]:
    """(day, creator, name, count) in the order told."""
    return [
        (row["day"], row["creator"], row[NAME[path]], row["requestCount"]) for row in told(api, path, **body)["list"]
    ]


def counts(api: Api, path: str, **body: Any) -> dict[str, int]:
    """Count by name of a list with one row a name."""
    found = listed(api, path, **body)
    by_name = {name: count for _, _, name, count in found}
    assert len(by_name) == len(found)
    return by_name


def have(pool: db.Pool, path: str, *rows: tuple[str, int, str, str, int]) -> None:
    """Have counted (day, tenant, creator, name, count)."""
    table, column = ("asynch_model_stat", "model_name") if path == MODEL else ("asynch_biz_stat", "biz_name")
    statement = f"INSERT INTO {table} (day, tenant_id, creator, {column}, request_count) VALUES (%s, %s, %s, %s, %s)"
    with db.transaction(pool) as conn:
        conn.cursor().executemany(statement.encode(), rows)


def today(pool: db.Pool, zone: str = "UTC") -> str:
    (row,) = all_rows(pool, "SELECT (now() AT TIME ZONE %s)::date::text AS day", zone)
    return str(row["day"])


both = pytest.mark.parametrize("path", [MODEL, BIZ])


# What is told


@both
def test_rows_are_by_day_then_count_then_name_and_creator(api: Api, pool: db.Pool, path: str) -> None:
    have(
        pool, path,
        ("2026-01-01", 0, "a", "x", 9), ("2026-01-02", 0, "a", "x", 1), ("2026-01-02", 0, "a", "y", 5),
        ("2026-01-02", 0, "b", "x", 5), ("2026-01-02", 0, "a", "z", 5), ("2026-01-02", 0, "c", "x", 5),
    )  # fmt: skip

    expected = [
        ("2026-01-02", "b", "x", 5), ("2026-01-02", "c", "x", 5), ("2026-01-02", "a", "y", 5),
        ("2026-01-02", "a", "z", 5), ("2026-01-02", "a", "x", 1), ("2026-01-01", "a", "x", 9),
    ]  # fmt: skip
    assert listed(api, path) == expected
    assert [listed(api, path, page={"pageNum": n, "pageSize": 4}) for n in (1, 2, 3)] == [
        expected[:4],
        expected[4:],
        [],
    ]
    assert told(api, path, page={"pageNum": 3, "pageSize": 4})["total"] == 6


@both
def test_both_days_are_included(api: Api, pool: db.Pool, path: str) -> None:
    have(pool, path, *[(f"2026-01-0{n}", 0, "a", "x", n) for n in range(1, 6)])

    def found(**body: Any) -> list[int]:
        rows = told(api, path, **body)
        assert rows["total"] == len(rows["list"])
        return [row["requestCount"] for row in rows["list"]]

    assert found(startDay="2026-01-02", endDay="2026-01-04") == [4, 3, 2]
    assert found(startDay="2026-01-04") == [5, 4]
    assert found(endDay="2026-01-02") == [2, 1]
    assert found(startDay="2026-01-03", endDay="2026-01-03") == [3]
    assert found(startDay="2026-01-04", endDay="2026-01-02") == []
    assert found(startDay="0001-01-01", endDay="9999-12-31") == [5, 4, 3, 2, 1]


NAMES = ["a%b", "a_b", "axb", "a\\b", "a'b", "%", "A", "ä", "😀", ""]


@both
@pytest.mark.parametrize("text", ["%", "_", "a%b", "\\", "A", "😀", "%s"])
def test_text_filters_mean_contains_and_nothing_else(api: Api, pool: db.Pool, path: str, text: str) -> None:
    have(pool, path, *[("2026-01-01", 0, f"by {name}", name, n + 1) for n, name in enumerate(NAMES)])
    expected = sorted(name for name in NAMES if text in name)

    assert sorted(counts(api, path, **{NAME[path]: text})) == expected
    assert sorted(counts(api, path, creator=f" {text}")) == sorted(name for name in NAMES if name.startswith(text))
    assert told(api, path, **{NAME[path]: text})["total"] == len(expected)


@both
def test_null_and_empty_texts_narrow_nothing(api: Api, pool: db.Pool, path: str) -> None:
    have(pool, path, ("2026-01-01", 0, "a", "x", 1))
    nothing = dict.fromkeys(("startDay", "endDay", "tenantId"))

    assert counts(api, path, **nothing, **{"creator": "", NAME[path]: ""}) == {"x": 1}


@both
def test_a_user_sees_its_own_tenant_and_an_admin_the_one_it_names(api: Api, pool: db.Pool, path: str) -> None:
    have(pool, path, ("2026-01-01", 7, "a", "mine", 1), ("2026-01-01", 8, "a", "theirs", 1))
    user, admin = api.of(7), api.of(8, "admin")

    assert counts(user, path) == counts(user, path, tenantId="7") == {"mine": 1}
    assert problem(user.call("POST", f"/stat/{path}", {"tenantId": 8})) == (403, "forbidden")
    assert counts(admin, path) == {"theirs": 1}
    (row,) = told(admin, path, tenantId=7)["list"]
    assert (row[NAME[path]], row["tenantId"]) == ("mine", "7")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"startDay": "2026-1-1"}, "#/startDay"), ({"startDay": "20260101"}, "#/startDay"),
        ({"startDay": "2026-W01-1"}, "#/startDay"), ({"endDay": "2026-02-30"}, "#/endDay"),
        ({"endDay": "0000-01-01"}, "#/endDay"), ({"endDay": "2026-01-01T00:00:00Z"}, "#/endDay"),
        ({"endDay": 20260101}, "#/endDay"), ({"startDay": ""}, "#/startDay"), ({"startDay": "２０２６-01-01"}, "#/startDay"),
        ({"creator": 1}, "#/creator"), ({"creator": "\0"}, "#/creator"), ({"tenantId": "x"}, "#/tenantId"),
        ({"page": {"pageSize": 1001}}, "#/page/pageSize"), ({"day": "2026-01-01"}, "#/day"),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_is_refused_at_its_place(api: Api, body: dict[str, Any], pointer: str) -> None:
    for path in NAME:
        assert pointers(api.call("POST", f"/stat/{path}", body)) == [pointer]


@both
def test_each_list_has_its_own_name_to_narrow_by(api: Api, path: str) -> None:
    other = NAME[BIZ if path == MODEL else MODEL]

    assert pointers(api.call("POST", f"/stat/{path}", {other: "x"})) == [f"#/{other}"]


# What is counted


def test_a_call_counts_when_it_starts_once_an_attempt(api: Api, hand: Hand, pool: db.Pool) -> None:
    api.model(retryTimes=1, retryBackoffSeconds=600)
    failed, running, _ = api.fill(3)
    hand.fail(failed)
    hand.take(running)

    assert listed(api, MODEL) == [(today(pool), "eva", "m", 2)]


def test_tasks_count_when_they_are_created(api: Api, pool: db.Pool) -> None:
    api.model()
    api.create(bizName="one")
    api.create()
    api.fill(3, bizName="three")
    api.batch({"modelName": "m", "bizName": "one"}, {"modelName": "unknown", "bizName": "refused"}, {"bizName": "bad"})

    assert counts(api, BIZ) == {"one": 2, "": 1, "three": 3}
    assert {row[:2] for row in listed(api, BIZ)} == {(today(pool), "eva")}


def test_what_was_refused_is_not_counted(api: Api) -> None:
    api.model(queueLimit=2)
    assert [item.get("taskId") is not None for item in api.batch(*[{"modelName": "m", "bizName": "b"}] * 3)].count(
        True
    ) == 2
    assert problem(api.post("createTask", {"modelName": "m", "bizName": "b"})) == (429, "queue_full")
    assert problem(api.post("createTask", {"modelName": "unknown", "bizName": "b"})) == (404, "model_not_found")

    assert counts(api, BIZ) == {"b": 2}


def test_the_same_request_again_counts_once(api: Api) -> None:
    api.model()
    for _ in range(3):
        api.post("createTask", {"modelName": "m", "bizName": "b"}, headers={"Idempotency-Key": "k"})

    assert counts(api, BIZ) == {"b": 1}


def test_running_again_is_no_creation(api: Api, hand: Hand) -> None:
    api.model()
    task_id = api.create(bizName="b")
    hand.fail(task_id)
    assert api.post(f"{task_id}/retry").status_code == 200

    assert counts(api, BIZ) == {"b": 1}


def test_tasks_of_the_system_count_for_nobody(api: Api, pool: db.Pool) -> None:
    api.model()
    task = api.create(bizName="b", callbackUrl="http://127.0.0.1:9/hook")
    api.post(f"{task}/cancel")

    assert len(all_rows(pool, "SELECT id FROM asynch_task WHERE parent_id IS NOT NULL")) == 1
    assert counts(api, BIZ) == {"b": 1}


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])  # never the same day
def test_the_day_is_the_servers(make_parts: MakeParts, pool: db.Pool, zone: str) -> None:
    before = today(pool, zone)
    with serving(make_parts(server={"timezone": zone})) as live:
        api = Api(live)
        api.model()
        api.create(bizName="b")

        assert listed(api, BIZ)[0][0] in (before, today(pool, zone))


# Adding up


def test_folding_changes_no_number(api: Api, pool: db.Pool) -> None:
    api.model()
    api.fill(3, bizName="b")
    api.of(9).model()
    api.of(9).fill(2, bizName="b")
    api.create(bizName="c")
    before = listed(api, BIZ)
    assert fold(pool, CLEANER) == 3
    assert fold(pool, CLEANER) == 0
    assert listed(api, BIZ) == before

    api.create(bizName="b")  # one part folded, one not
    assert counts(api, BIZ) == {"b": 4, "c": 1}
    assert told(api, BIZ)["total"] == 2
    assert fold(pool, CLEANER) == 1
    assert counts(api, BIZ) == {"b": 4, "c": 1}
    assert counts(api.of(9), BIZ) == {"b": 2}
    assert all_rows(pool, "SELECT count(*) AS n FROM asynch_biz_stat") == [{"n": 3}]


def test_a_fold_takes_no_more_than_a_batch(api: Api, pool: db.Pool) -> None:
    api.model()
    for _ in range(5):
        api.create(bizName="b")

    assert [fold(pool, replace(CLEANER, batch=2)) for _ in range(4)] == [2, 2, 1, 0]
    assert counts(api, BIZ) == {"b": 5}


def test_a_creation_that_commits_behind_a_fold_is_still_counted(api: Api, pool: db.Pool) -> None:
    lane = int(all_rows(pool, "SELECT lane_id FROM asynch_models WHERE id = %s", int(api.model()))[0]["lane_id"])
    with db.transaction(pool) as early:
        early.execute("INSERT INTO asynch_biz_tally VALUES ((now() AT TIME ZONE 'UTC')::date, 0, 'tests', 'b', 1)")
        add_tasks(pool, lane, 2, tenant_id=0, biz_name="b")
        assert fold(pool, CLEANER) == 1
        assert counts(api, BIZ) == {"b": 2}

    assert counts(api, BIZ) == {"b": 3}
    assert fold(pool, CLEANER) == 1
    assert counts(api, BIZ) == {"b": 3}


def test_sixteen_creators_and_two_folders_count_exactly(api: Api, pool: db.Pool) -> None:
    """And no reader ever sees the sum shrink, which it would between a fold's two halves."""
    lane = int(all_rows(pool, "SELECT lane_id FROM asynch_models WHERE id = %s", int(api.model()))[0]["lane_id"])
    done, seen = threading.Event(), [0]

    def create() -> None:
        for _ in range(15):
            add_tasks(pool, lane, 2, tenant_id=0, biz_name="b")

    def folding() -> None:
        while not done.is_set():
            fold(pool, replace(CLEANER, batch=7))

    def reading() -> None:
        while not done.is_set():
            with db.connection(pool) as conn:
                rows, _ = stats.list_biz_stats(conn, tenant_id=0, wanted=stats.StatFilter(), limit=9, offset=0, cap=9)
            seen.append(sum(row["request_count"] for row in rows))

    with ThreadPoolExecutor(19) as threads:
        others = [threads.submit(folding), threads.submit(folding), threads.submit(reading)]
        for creator in [threads.submit(create) for _ in range(16)]:
            creator.result()
        done.set()
        for other in others:
            other.result()

    assert seen == sorted(seen)
    assert sum(counts(api, BIZ).values()) == 16 * 15 * 2


@pytest.mark.parametrize("kind", ["model", "biz"])
def test_a_page_and_a_total_are_the_same_however_much_is_added_up_yet(pool: db.Pool, kind: str) -> None:
    """Days, creators and names, some added up, some tallied, some both; each page of them, and a total at its cap."""
    find, name = {"model": (stats.list_model_stats, "model_name"), "biz": (stats.list_biz_stats, "biz_name")}[kind]
    columns = f"(day, tenant_id, creator, {name}, request_count)"
    rows = "SELECT date '2026-01-01' + mod(n, 9), 1, 'c' || mod(n, 2), 'n' || mod(n, 5), n FROM generate_series(1, 90) AS n"
    with db.connection(pool) as conn:
        conn.execute(f"INSERT INTO asynch_{kind}_stat {columns} {rows} WHERE mod(n, 9) < 7".encode())
        conn.execute(f"INSERT INTO asynch_{kind}_tally {columns} {rows} WHERE mod(n, 9) > 5".encode())
        conn.execute(f"INSERT INTO asynch_{kind}_tally {columns} {rows} WHERE mod(n, 9) > 5".encode())
        for wanted in (
            stats.StatFilter(),
            stats.StatFilter(creator="1", name="n3"),
            stats.StatFilter(date(2026, 1, 7)),
        ):
            whole, total = find(conn, tenant_id=1, wanted=wanted, limit=1000, offset=0, cap=1000)
            assert total == len(whole) > 0
            for offset in range(0, total + 4, 3):
                page, counted = find(conn, tenant_id=1, wanted=wanted, limit=3, offset=offset, cap=5)
                assert [{**row, "total": total} for row in page] == whole[offset : offset + 3]
                assert counted == min(total, 5)
