from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import sleep
from typing import Any

import pytest
import requests

from asynch import db
from asynch.domain.principal import Caller, Principal, Role
from asynch.errors import QueueFull
from asynch.service.creation import Creation
from asynch.store.creation import Entry, Made, Otherwise, Request, create_tasks
from asynch.store.tasks import NewTask
from asynch.web import Parts
from tests.database import all_rows
from tests.live import Live, MakeParts, serving
from tests.rows import add_tasks, bend
from tests.task_api import Api, Hand, problem, put_back
from tests.waiting import until

LIMIT = 50
DEPTH = "SELECT count(*) AS n FROM asynch_task WHERE state IN (0, 1)"


@pytest.fixture
def second(dsn: str, make_parts: MakeParts) -> Iterator[Live]:
    """Another API process on the same database: its own application, pool and memory."""
    first = make_parts()
    with (
        db.open_pool(dsn, size=8, name="tests-2") as pool,
        serving(Parts(first.settings, pool, first.box, first.storage)) as live,
    ):
        yield live


def depth(pool: db.Pool) -> int:
    return int(all_rows(pool, DEPTH)[0]["n"])


def creators(lives: list[Live], count: int, work: Callable[[Api, int], None]) -> None:
    """Run `work` in so many threads at once, in turns on each application."""
    start = threading.Barrier(count)

    def run(n: int) -> None:
        live = lives[n % len(lives)]
        api = Api(Live(live.url, live.parts))
        start.wait()
        work(api, n)

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(run, range(count)))


def test_a_full_queue_is_429_with_its_numbers(api: Api) -> None:
    api.model(queueLimit=3)
    api.fill(3)
    answer = api.post("createTask", {"modelName": "m"})

    assert problem(answer) == (429, "queue_full")
    assert (answer.json()["queueLimit"], answer.json()["queueDepth"]) == (3, 3)
    assert int(answer.headers["Retry-After"]) > 0


def test_a_batch_is_filled_up_to_the_limit_and_the_rest_is_told_so(api: Api) -> None:
    api.model(queueLimit=5)
    api.create()
    listed = api.batch(*[{"modelName": "m"}] * 7)

    assert ["taskId" in entry for entry in listed] == [True] * 4 + [False] * 3
    assert {(e["error"]["code"], e["error"]["queueLimit"], e["error"]["queueDepth"]) for e in listed[4:]} == {
        ("queue_full", 5, 5)
    }


def test_one_full_lane_does_not_keep_a_batch_from_the_others(api: Api) -> None:
    api.model("full", queueLimit=1)
    api.model("wide")
    listed = api.batch(*[{"modelName": name} for name in ("full", "wide", "full", "wide")])

    assert ["taskId" in entry for entry in listed] == [True, True, False, True]


@pytest.mark.parametrize("round_", range(3))
def test_sixteen_creators_on_two_processes_fill_the_queue_exactly(
    live: Live, second: Live, pool: db.Pool, round_: int
) -> None:
    api = Api(live)
    api.model(queueLimit=LIMIT)
    made: list[str] = []
    depths: list[int] = []

    def create(mine: Api, n: int) -> None:
        for step in range(6):
            if (n + step) % 3 == 0:
                answer = mine.batch(*[{"modelName": "m"}] * (n % 4 + 2))
                made.extend(entry["taskId"] for entry in answer if "taskId" in entry)
                depths.extend(entry["error"]["queueDepth"] for entry in answer if "error" in entry)
            else:
                single = mine.post("createTask", {"modelName": "m"})
                assert single.status_code in (202, 429), single.text
                if single.status_code == 202:
                    made.append(single.json()["taskId"])
                else:
                    depths.append(single.json()["queueDepth"])

    creators([live, second], 16, create)

    assert len(set(made)) == len(made) == LIMIT
    assert depth(pool) == LIMIT
    assert set(depths) == {LIMIT}


def test_the_limit_holds_while_workers_claim_and_settle(live: Live, second: Live, hand: Hand, pool: db.Pool) -> None:
    api = Api(live)
    api.model(queueLimit=10, maxConcurrency=100)
    lane = all_rows(pool, "SELECT lane_id FROM asynch_models")[0]["lane_id"]
    over, ended = threading.Event(), threading.Event()

    def work() -> None:
        while not ended.is_set():
            if claims := hand.worker.claim(lane, 3):
                hand.deliver(*claims)

    def look() -> None:
        while not ended.is_set():
            if depth(pool) > 10:
                over.set()

    accepted: list[int] = []

    def create(mine: Api, n: int) -> None:
        for _ in range(12):
            if n % 2:
                accepted.append(sum("taskId" in entry for entry in mine.batch(*[{"modelName": "m"}] * 4)))
            else:
                accepted.append(mine.post("createTask", {"modelName": "m"}).status_code == 202)

    others = [threading.Thread(target=work), threading.Thread(target=look)]
    for thread in others:
        thread.start()
    creators([live, second], 16, create)
    ended.set()
    for thread in others:
        thread.join()

    assert not over.is_set()
    assert sum(accepted) > 20, "workers made room, and nobody used it"
    assert sum(accepted) == all_rows(pool, "SELECT count(*) AS n FROM asynch_task")[0]["n"]


CALLER = Caller(Principal(0, "eva", Role.ADMIN))


def creates(creation: Creation, count: int) -> int:
    """How many of so many were taken."""
    if count == 1:
        with suppress(QueueFull):
            creation.create(CALLER, NewTask("m"), None)
            return 1
        return 0
    made = creation.create_batch(CALLER, [NewTask("m")] * count, None)
    return sum(isinstance(result, int) for result in made.results)


@pytest.mark.parametrize("seed", range(4))
def test_after_any_history_exactly_what_fits_is_taken(live: Live, second: Live, hand: Hand, seed: int) -> None:
    """Two processes in turns, each with its own idea of the room, against a count before each creation."""
    api, pool, dice = Api(live), live.parts.pool, random.Random(seed)
    limit = 8
    api.model(queueLimit=limit, retryTimes=9, retryBackoffSeconds=3600)

    def some(where: str, most: int) -> list[str]:
        found = all_rows(
            pool, f"SELECT task_id FROM asynch_task WHERE {where} ORDER BY rank, enqueue_at, id LIMIT {most}"
        )
        return [row["task_id"] for row in found]

    for step in range(120):
        match dice.choice(["create"] * 5 + ["succeed", "fail", "return", "cancel", "rerun", "limit"]):
            case "create":
                creation, wanted = dice.choice([live, second]).parts.creation, dice.choice([1, 1, 1, 2, 5, 12])
                room = max(0, limit - depth(pool))
                assert creates(creation, wanted) == min(room, wanted), f"step {step}"
            case "succeed" if ids := some("state = 0", dice.randint(1, 4)):
                hand.succeed(*ids)
            case "fail" if ids := some("state = 0", dice.randint(1, 3)):
                hand.fail(*ids)
            case "return" if ids := some("state = 3", dice.randint(1, 5)):
                bend(pool, [int(i) for i in ids], wake_at="2020-01-01")
                assert put_back(pool) == len(ids)
                bend(pool, [int(i) for i in ids], enqueue_at="2020-01-01")
            case "cancel" if ids := some("NOT final", dice.randint(1, 3)):
                api.post("cancelBatch", {"taskIds": ids})
            case "rerun" if ids := some("state = 5", dice.randint(1, 3)):
                assert api.post("retryBatch", {"taskIds": ids}).json()["changed"] == len(ids)
            case "limit":
                limit = dice.choice([1, 4, 8, 20])
                Api(dice.choice([live, second])).change_model(queueLimit=limit)


def test_what_was_counted_in_a_later_database_is_not_believed(api: Api, pool: db.Pool) -> None:
    """As after a restore of a backup, beneath an API that goes on."""
    api.model(queueLimit=2)
    all_rows(pool, "SELECT setval('asynch_id', 1000)")
    api.create()
    lane = all_rows(pool, "DELETE FROM asynch_task RETURNING lane_id")[0]["lane_id"]
    all_rows(pool, "SELECT setval('asynch_id', 1)")
    add_tasks(pool, lane, 2, tenant_id=0)

    answer = api.post("createTask", {"modelName": "m"})
    assert (problem(answer), answer.json()["queueDepth"]) == ((429, "queue_full"), 2)


# With an Idempotency-Key


def keyed(api: Api, of: Live) -> requests.Response:
    """A creation with the same key each time, over a connection of its own."""
    own = Api(Live(of.url, of.parts), api.tenant)
    return own.post("createTask", {"modelName": "m"}, headers={"Idempotency-Key": "k"})


@contextmanager
def held(pool: db.Pool) -> Iterator[None]:
    """Nobody gets into any lane within the block; the first that waits for one comes first."""
    with db.transaction(pool) as conn:
        conn.execute("SELECT pg_advisory_xact_lock(lane_id, -1) FROM asynch_models")
        yield


def until_waiting(pool: db.Pool, count: int = 1) -> None:
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    until(lambda: len(all_rows(pool, waiting)) == count)


def test_a_key_limits_no_other_wait(live: Live, pool: db.Pool) -> None:
    api = Api(live)
    api.model()
    api.create()
    with ThreadPoolExecutor(1) as threads:
        with held(pool):
            answer = threads.submit(keyed, api, live)
            until_waiting(pool)
            sleep(2.5)
        assert answer.result().status_code == 202


def test_who_counts_and_who_need_not_do_not_wait_for_each_other(live: Live, second: Live, pool: db.Pool) -> None:
    """Both with the same key; the one that counts was first in line for the lane."""
    api = Api(live)
    api.model()
    api.create()
    with ThreadPoolExecutor(2) as threads:
        with held(pool):
            counts = threads.submit(keyed, api, second)
            until_waiting(pool)
            need_not = threads.submit(keyed, api, live)
            sleep(0.3)
        answers = [counts.result(), need_not.result()]

    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({answer.json()["taskId"] for answer in answers}) == 1


def test_batches_that_count_do_not_wait_for_each_other_for_what_they_refuse(
    live: Live, second: Live, pool: db.Pool
) -> None:
    for name in ("a", "b"):
        Api(live).model(name, httpMethod="GET")

    def create(of: Live, good: str, bad: str) -> list[bool]:
        tasks = [{"modelName": good}, {"modelName": bad, "requestPayload": [1]}]
        return ["taskId" in entry for entry in Api(of).batch(*tasks)]

    with ThreadPoolExecutor(2) as threads:
        with held(pool):
            made = [threads.submit(create, live, "a", "b"), threads.submit(create, second, "b", "a")]
            until_waiting(pool, 2)

        assert [of.result() for of in made] == [[True, False]] * 2


# What counts


def test_delayed_running_and_saved_tasks_count(api: Api, hand: Hand) -> None:
    api.model(queueLimit=4)
    running, saved, *_ = api.fill(3)
    api.create(delaySeconds=600)
    hand.take(running, saved)
    bend(hand.pool, [int(saved)], state=0, phase=1, tmp_file="f", tmp_host="h")

    answer = api.post("createTask", {"modelName": "m"})
    assert (problem(answer), answer.json()["queueDepth"]) == ((429, "queue_full"), 4)


def test_final_tasks_and_failures_that_wait_for_their_retry_do_not_count(api: Api, hand: Hand) -> None:
    api.model(queueLimit=3, retryTimes=1, retryBackoffSeconds=600)
    done, retrying, cancelled = api.fill(3)
    hand.succeed(done)
    hand.fail(retrying)
    api.post(f"{cancelled}/cancel")

    api.fill(3)
    assert problem(api.post("createTask", {"modelName": "m"})) == (429, "queue_full")


def test_retries_always_re_enter_and_then_count(api: Api, hand: Hand) -> None:
    api.model(queueLimit=2, retryTimes=1, retryBackoffSeconds=600)
    retrying, _ = api.fill(2)
    hand.fail(retrying)
    api.create()
    bend(hand.pool, [int(retrying)], wake_at="2020-01-01")

    assert put_back(hand.pool) == 1
    answer = api.post("createTask", {"modelName": "m"})
    assert (problem(answer), answer.json()["queueDepth"]) == ((429, "queue_full"), 3)


def test_a_rerun_enters_a_full_queue_and_then_counts(api: Api) -> None:
    api.model(queueLimit=2)
    again, _ = api.fill(2)
    api.post(f"{again}/cancel")
    api.create()

    assert api.post(f"{again}/retry").status_code == 200
    assert api.post("createTask", {"modelName": "m"}).json()["queueDepth"] == 3


def test_a_lowered_limit_holds_at_once_and_a_raised_one_too(live: Live, second: Live) -> None:
    api, other = Api(live), Api(second)
    api.model(queueLimit=100)
    api.fill(5)
    other.change_model(queueLimit=5)
    assert problem(api.post("createTask", {"modelName": "m"})) == (429, "queue_full")

    other.change_model(queueLimit=6)
    api.create()
    assert api.post("createTask", {"modelName": "m"}).json()["queueLimit"] == 6


# Creators and a model that goes


@pytest.mark.parametrize("round_", range(3))
def test_a_deletion_among_creators_leaves_no_task_in_the_deleted_lane(
    live: Live, second: Live, pool: db.Pool, round_: int
) -> None:
    model_id = Api(live).model()
    Api(live).fill(5)
    statuses: set[int] = set()

    def work(mine: Api, n: int) -> None:
        if n == 0:
            answer = mine.call("DELETE", f"/model/deleteModel?id={model_id}&force=true")
            assert answer.status_code == 200, answer.text
            return
        for _ in range(4):
            body: dict[str, Any] = {"modelName": "m"}
            if n % 2:
                assert mine.post("createTaskBatch", {"tasks": [body] * 3}).status_code == 202
            else:
                statuses.add(mine.post("createTask", body).status_code)
            mine.post("retryBatch", {"modelName": "m"})

    creators([live, second], 8, work)

    assert statuses <= {202, 404}
    assert all_rows(pool, "SELECT * FROM asynch_task WHERE NOT final") == []


def test_a_tenants_limit_is_filled_exactly_over_its_lanes_by_many_creators(
    live: Live, second: Live, pool: db.Pool
) -> None:
    api = Api(live)
    for name in ("a", "b"):
        api.model(name)
    answer = api.of(api.tenant, "admin").call("PUT", "/tenant/updateTenant", {"queueLimit": LIMIT})
    assert answer.status_code == 200
    api.of(99).model("a")
    told: list[tuple[int, int]] = []

    def create(mine: Api, n: int) -> None:
        for step in range(6):
            name = "ab"[(n + step) % 2]
            if step == 3:
                mine.batch(*[{"modelName": name}] * 3)
            elif (refused := mine.post("createTask", {"modelName": name})).status_code == 429:
                told.append((refused.json()["queueLimit"], refused.json()["queueDepth"]))

    creators([live, second], 16, create)

    assert depth(pool) == LIMIT
    assert set(told) == {(LIMIT, LIMIT)}
    assert api.of(99).post("createTask", {"modelName": "a"}).status_code == 202


@pytest.mark.parametrize("lane", ["a", "b"])
def test_who_is_in_flight_while_a_tenant_gets_its_limit_is_counted(live: Live, pool: db.Pool, lane: str) -> None:
    api = Api(live)
    for name in ("a", "b"):
        api.model(name)
    request = Request(Caller(Principal(api.tenant, "eva", Role.USER)), 3600.0, "UTC", log_payloads=True)
    with ThreadPoolExecutor(1) as threads:
        with db.transaction(pool) as conn:
            found = create_tasks(conn, request, [], Entry(["a"]))
            assert isinstance(found, Otherwise)
            made = create_tasks(conn, request, [(found.lanes[0], NewTask("a"))], Entry(["a"], found.lanes))
            assert isinstance(made, Made)
            api.of(api.tenant, "admin").call("PUT", "/tenant/updateTenant", {"queueLimit": 1})
            after = threads.submit(Api(Live(live.url, live.parts)).post, "createTask", {"modelName": lane})
            until_waiting(pool)
        assert problem(after.result()) == (429, "queue_full")

    assert depth(pool) == 1


def test_the_limit_of_all_tenants_is_each_ones_that_has_none_of_its_own(make_parts: MakeParts) -> None:
    with serving(make_parts(limits={"tenant_queue_limit": 3})) as live:
        api, other = Api(live), Api(live).of(98)
        for each in (api, other):
            each.model("m")
        api.of(api.tenant, "admin").call("PUT", "/tenant/updateTenant", {"queueLimit": 5})

        assert ["taskId" in made for made in api.batch(*[{"modelName": "m"}] * 7)] == [True] * 5 + [False] * 2
        assert ["taskId" in made for made in other.batch(*[{"modelName": "m"}] * 4)] == [True] * 3 + [False]
