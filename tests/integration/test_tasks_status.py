"""Asking for one task: where it stands and when it will be done, ETags, waiting for a change, and how often one may ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest

from asynch import db
from asynch.service import documents
from asynch.store.tasks import tell_pace
from tests.database import all_rows
from tests.live import MakeParts, serving
from tests.rows import ago, bend, row_of
from tests.task_api import Api, Hand, problem
from tests.waiting import until


def know_pace(pool: db.Pool, task_id: str, seconds: float) -> None:
    with db.transaction(pool) as conn:
        tell_pace(conn, {row_of(pool, int(task_id))["lane_id"]: (1, seconds)})


@contextmanager
def soon(work: Callable[[], object], after_s: float = 0.3) -> Iterator[None]:
    """Do this in another thread, a little later."""
    timer = threading.Timer(after_s, work)
    timer.start()
    try:
        yield
    finally:
        timer.join()


# -- its place -----------------------------------------------------------------------------------------------------


def test_a_waiting_task_tells_its_place_in_the_order_of_its_lane(api: Api) -> None:
    api.model()
    first, second = api.fill(2)
    urgent = api.create(priority=9)
    later = api.create(delaySeconds=60)

    assert [api.status(task)["queuePosition"] for task in (urgent, first, second, later)] == [1, 2, 3, None]
    assert "queuePositionCapped" not in api.status(second)


def test_a_place_far_behind_is_told_as_the_least_it_can_be(
    api: Api, monkeypatch: pytest.MonkeyPatch, pool: db.Pool
) -> None:
    monkeypatch.setattr("asynch.service.tasks.MOST_AHEAD", 5)
    api.model()
    *_, last = api.fill(8)
    know_pace(pool, last, 10.0)
    told = api.status(last)

    assert (told["queuePosition"], told["queuePositionCapped"], told["etaSeconds"]) == (6, True, None)


def test_nobody_guesses_when_no_call_has_ended_yet(api: Api) -> None:
    api.model()
    answer = api.get(api.create())

    assert answer.json()["etaSeconds"] is answer.json()["estimatedCompletion"] is None
    assert answer.headers["Retry-After"] == "2"


def test_the_pace_of_the_lane_says_when_it_will_be_done(api: Api, pool: db.Pool, hand: Hand) -> None:
    api.model(maxConcurrency=2)
    tasks = api.fill(5)
    know_pace(pool, tasks[0], 10.0)

    assert [api.status(task)["etaSeconds"] for task in tasks] == [10, 10, 20, 20, 30]
    assert api.get(tasks[4]).headers["Retry-After"] == "30"
    hand.take(tasks[0])
    bend(pool, [int(tasks[0])], started_at=ago(4))
    running = api.status(tasks[0])
    assert running["queuePosition"] is None
    assert 5 <= running["etaSeconds"] <= 6
    assert api.post("createTask", {"modelName": "m"}).headers["Retry-After"] == "10"


# -- ETag ----------------------------------------------------------------------------------------------------------


def test_an_etag_changes_with_what_readers_see_and_with_nothing_else(api: Api, hand: Hand, pool: db.Pool) -> None:
    api.model()
    task = api.create()
    tags = [api.get(task).headers["ETag"]]
    all_rows(pool, "UPDATE asynch_task SET version = version + 1, updater = 'x' RETURNING 1")
    assert api.get(task).headers["ETag"] == tags[0]
    (claim,) = hand.take(task)
    tags.append(api.get(task).headers["ETag"])
    for change in ({"progress": 5.0}, {"message": "half"}):
        bend(pool, [int(task)], **change)
        tags.append(api.get(task).headers["ETag"])
    hand.deliver(claim)
    tags.append(api.get(task).headers["ETag"])

    assert len(set(tags)) == len(tags) == 5
    assert all(tag.startswith('W/"') for tag in tags)


@pytest.mark.parametrize("sent", ["{}", '"other", {}', "*", "strong"])
def test_who_has_it_already_is_told_so(api: Api, sent: str) -> None:
    api.model()
    task = api.create()
    tag = api.get(task).headers["ETag"]
    header = tag.removeprefix("W/") if sent == "strong" else sent.format(tag)
    answer = api.get(task, headers={"If-None-Match": header})

    assert (answer.status_code, answer.text, answer.headers["ETag"]) == (304, "", tag)


# -- waiting -------------------------------------------------------------------------------------------------------


def test_a_preferred_wait_ends_with_the_task(api: Api, hand: Hand) -> None:
    api.model()
    task = api.create()
    with soon(lambda: hand.succeed(task)):
        began = monotonic()
        answer = api.get(task, headers={"Prefer": "respond-async, wait=20"})

    assert answer.json()["status"] == "completed"
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert monotonic() - began < 5
    assert "Retry-After" not in answer.headers


def test_a_preferred_wait_ends_with_its_time(api: Api) -> None:
    api.model()
    began = monotonic()
    answer = api.get(api.create(), headers={"Prefer": 'Wait="1"'})

    assert answer.json()["status"] == "pending"
    assert 1.0 <= monotonic() - began < 3


@pytest.mark.parametrize(
    ("given", "applied"), [("wait=100000", "wait=60"), ("wait=x", None), ("handling=strict", None)]
)
def test_a_wait_is_bounded_and_nonsense_is_none(api: Api, hand: Hand, given: str, applied: str | None) -> None:
    api.model()
    task = api.create()
    hand.succeed(task)

    assert api.get(task, headers={"Prefer": given}).headers.get("Preference-Applied") == applied


def test_who_has_the_latest_waits_for_any_change(api: Api, hand: Hand) -> None:
    api.model()
    task = api.create()
    tag = api.get(task).headers["ETag"]
    headers = {"Prefer": "wait=20", "If-None-Match": tag}
    with soon(lambda: hand.take(task)):
        answer = api.get(task, headers=headers)

    assert (answer.status_code, answer.json()["status"]) == (200, "processing")
    began = monotonic()
    assert api.get(task, headers=headers).status_code == 200  # it is another one already
    assert monotonic() - began < 2


def test_a_batch_is_waited_for_until_all_are_final(api: Api, hand: Hand) -> None:
    api.model()
    tasks = api.fill(3)
    hand.succeed(tasks[0])
    with soon(lambda: hand.succeed(tasks[1], tasks[2])):
        began = monotonic()
        found = api.collect(*tasks, "17", waitSeconds=20)

    assert {item["status"] for item in found["list"]} == {"completed"}
    assert monotonic() - began < 5


def test_waiting_leaves_threads_to_the_others(make_parts: MakeParts) -> None:
    with serving(make_parts(server={"threads": 2})) as live:  # half of them may wait
        api = Api(live)
        api.model()
        task = api.create()
        waiting = threading.Thread(target=api.get, args=(task,), kwargs={"headers": {"Prefer": "wait=2"}})
        waiting.start()
        parts = live.parts
        until(lambda: not parts.tasks.seats._value)  # it has its seat
        began = monotonic()
        Api(type(live)(live.url, parts)).get(task, headers={"Prefer": "wait=2"})

        assert monotonic() - began < 1.5
        waiting.join()


# -- how often -----------------------------------------------------------------------------------------------------


def test_reads_have_a_limit_of_their_own(make_parts: MakeParts) -> None:
    with serving(make_parts(limits={"reads_per_minute": 3, "creates_per_minute": 2})) as live:
        api = Api(live)
        api.model()
        task = api.create()
        reads = [api.get(task), api.get(f"{task}/result"), api.post("listTask", {}), api.get(task)]
        refused = reads[3]

        assert [answer.status_code for answer in reads[:3]] == [200, 202, 200]
        assert [answer.headers["RateLimit"].partition(";t=")[0] for answer in reads] == [
            f'"reads";r={left}' for left in (2, 1, 0, 0)
        ]
        assert problem(refused) == (429, "too_many_requests")
        assert refused.headers["RateLimit-Policy"] == '"reads";q=3;w=60'
        assert 1 <= int(refused.headers["Retry-After"]) <= 61
        assert api.of(9).get("17").status_code == 404  # another tenant has its own
        assert api.post("createTask", {"modelName": "m"}).status_code == 202
        assert problem(api.post("createTask", {"modelName": "m"})) == (429, "too_many_requests")


def test_what_is_refused_asks_the_database_nothing(make_parts: MakeParts, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(make_parts(limits={"reads_per_minute": 1})) as live:
        api = Api(live)
        api.get("17")

        def never(*_: Any, **__: Any) -> None:
            pytest.fail("asked the database")

        monkeypatch.setattr(db, "_taken", never)
        assert problem(api.get("17")) == (429, "too_many_requests")


def test_a_retry_after_is_a_second_at_least_and_a_minute_at_most() -> None:
    assert [documents.ask_again(seconds) for seconds in (None, 0.0, 0.2, 7.1, 4000.0)] == ["2", "1", "1", "8", "60"]
