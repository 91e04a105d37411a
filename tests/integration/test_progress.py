"""Progress that models post: who may, what is taken, when it is written, and that it changes nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from asynch import db
from asynch.secretbox import SecretBox
from asynch.service import progress
from asynch.store.progress import Note, write_progress
from asynch.store.queue import Claim
from asynch.worker import outcomes
from tests.database import all_rows
from tests.live import Live
from tests.model_server import ModelServer
from tests.rows import bend, row_of
from tests.task_api import TERMS, Api, Hand, problem, working
from tests.waiting import until


@pytest.fixture
def running(api: Api, hand: Hand) -> Claim:
    """A task whose model is being called."""
    api.model()
    (claim,) = hand.take(api.create())
    return claim


def link(live: Live, claim: Claim, *, box: SecretBox | None = None, until_s: float = 60.0, **changes: int) -> str:
    fields = {"tenant_id": claim.tenant_id, "task_id": claim.id, "attempt": claim.call_attempt, **changes}
    return progress.link(box or live.parts.box, live.url, until=time.time() + until_s, **fields)


def post(url: str, body: Any = None, **options: Any) -> requests.Response:
    """As a model does: without any principal."""
    return requests.post(url, json={"progress": 50} if body is None else body, timeout=10, **options)


# -- what is told of it --------------------------------------------------------------------------------------------


def test_every_reader_sees_what_the_model_said(api: Api, live: Live, running: Claim) -> None:
    answer = post(link(live, running), {"progress": 12.5, "message": "half of a quarter"})

    assert (answer.status_code, answer.content) == (204, b"")
    task_id = running.task_id
    items = (api.status(task_id), api.collect(task_id)["list"][0], api.listed()["list"][0])
    assert [(item["progress"], item["message"]) for item in items] == [(12.5, "half of a quarter")] * 3


def test_what_is_not_said_stays(api: Api, live: Live, running: Claim, no_pause: None) -> None:
    url = link(live, running)
    post(url, {"progress": 10, "message": "a"})
    post(url, {"progress": 20})
    post(url, {"message": "b", "progress": None})

    told = api.status(running.task_id)
    assert (told["progress"], told["message"]) == (20, "b")


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PAUSE_S", 0.0)


def test_nothing_else_of_the_row_changes(live: Live, running: Claim) -> None:
    before = row_of(live.parts.pool, running.id)

    assert post(link(live, running), {"progress": 100, "message": "m"}).status_code == 204

    after = row_of(live.parts.pool, running.id)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"progress", "message", "progress_at", "version", "updated_at"}
    assert not all_rows(live.parts.pool, "SELECT 1 FROM asynch_op_log WHERE op_type <> ALL('{createTask,createModel}')")


def test_a_new_attempt_begins_without_progress(api: Api, live: Live, hand: Hand, running: Claim) -> None:
    old = link(live, running)
    post(old, {"progress": 80, "message": "nearly"})
    hand.settle(outcomes.released(TERMS, running, "x"))
    (again,) = hand.take(running.task_id)

    told = api.status(running.task_id)
    assert (told["progress"], told["message"]) == (None, "")
    assert problem(post(old)) == (409, "call_over")
    assert api.status(running.task_id)["progress"] is None
    assert post(link(live, again)).status_code == 204


# -- who may -------------------------------------------------------------------------------------------------------


def test_a_link_is_good_for_its_own_task_and_attempt_alone(api: Api, live: Live, hand: Hand, running: Claim) -> None:
    (other,) = hand.take(api.create())
    url = link(live, running)

    for bent in (
        url.replace(running.task_id, other.task_id),
        url.replace("tenant=0", "tenant=1"),
        url.replace("attempt=1", "attempt=2"),
        url.replace("expires=", "expires=9"),
        url.replace("signature=", "signature=x"),
        url.partition("&signature")[0],
        url.partition("?")[0],
        link(live, running, box=SecretBox(["B" * 43 + "="])),
    ):
        assert problem(post(bent)) == (403, "link_invalid"), bent
    assert problem(post(link(live, running, until_s=-100))) == (403, "link_expired")
    assert [row_of(live.parts.pool, c.id)["progress"] for c in (running, other)] == [None, None]


def test_a_link_of_a_former_key_is_good_after_a_rotation(live: Live, running: Claim) -> None:
    former = SecretBox(["B" * 43 + "="])
    object.__setattr__(live.parts, "box", SecretBox(["A" * 43 + "=", "B" * 43 + "="]))

    assert post(link(live, running, box=former)).status_code == 204


def test_a_link_outlives_its_call_by_a_minute_for_clocks_that_differ(live: Live, running: Claim) -> None:
    assert post(link(live, running, until_s=-50)).status_code == 204


@pytest.mark.parametrize("end", ["saved", "cancelled", "released", "failed"])
def test_a_call_that_is_over_has_nothing_to_say(api: Api, live: Live, hand: Hand, running: Claim, end: str) -> None:
    url = link(live, running)
    assert post(url, {"progress": 1}).status_code == 204
    match end:
        case "saved":
            hand.save(running)
        case "cancelled":
            hand.settle(outcomes.cancelled(TERMS, running))
        case "released":
            hand.settle(outcomes.released(TERMS, running, "x"))
        case "failed":
            bend(live.parts.pool, [running.id], state=3, final=True)
    before = row_of(live.parts.pool, running.id)

    refused = problem(post(url, {"progress": 2}))  # at once: what waits half a second is asked about too

    assert refused == ((410, "task_final") if end in ("cancelled", "failed") else (409, "call_over"))
    assert row_of(live.parts.pool, running.id) == before


def test_a_task_that_is_gone_is_not_found(live: Live, running: Claim) -> None:
    with db.connection(live.parts.pool) as conn:
        conn.execute("DELETE FROM asynch_task")

    assert problem(post(link(live, running))) == (404, "not_found")


def test_a_model_that_works_on_may_go_on_telling_whoever_asks_it(live: Live, hand: Hand, running: Claim) -> None:
    url = link(live, running)
    hand.settle(outcomes.deferred(TERMS, running, "http://127.0.0.1:9/jobs/1"))
    assert post(url, {"progress": 1}).status_code == 204
    bend(live.parts.pool, [running.id], state=0)  # its worker was stopped
    time.sleep(progress._PAUSE_S)
    assert post(url, {"progress": 2}).status_code == 204

    (next_one,) = hand.take(running.task_id)

    assert (next_one.attempt, next_one.call_attempt, next_one.poll_url) == (2, 1, "http://127.0.0.1:9/jobs/1")
    assert next_one.started_at == running.started_at
    time.sleep(progress._PAUSE_S)
    assert post(url, {"progress": 3}).status_code == 204
    assert row_of(live.parts.pool, running.id)["progress"] == 3


# -- what is taken -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"progress": None},
        {"progress": -0.1},
        {"progress": 100.1},
        {"progress": "50"},
        {"progress": True},
        {"progress": 1, "extra": 1},
        {"message": "m" * 1025},
        {"message": "a\0b"},
        {"message": 5},
    ],
)
def test_other_bodies_are_refused(live: Live, running: Claim, body: Any) -> None:
    assert problem(post(link(live, running), body))[0] == 422
    assert row_of(live.parts.pool, running.id)["progress_at"] is None


@pytest.mark.parametrize(
    ("text", "status"),
    [("{", 400), ("[1]", 400), ('{"progress": NaN}', 400), ('{"message": "' + "m" * 20000 + '"}', 413), ("", 400)],
)
def test_broken_and_long_bodies_are_refused(live: Live, running: Claim, text: str, status: int) -> None:
    answer = requests.post(
        link(live, running), data=text.encode(), headers={"Content-Type": "application/json"}, timeout=10
    )

    assert answer.status_code == status, answer.text


def test_a_form_is_not_taken(live: Live, running: Claim) -> None:
    assert requests.post(link(live, running), data={"progress": 1}, timeout=10).status_code == 415
    assert requests.get(link(live, running), timeout=10).status_code == 405


# -- how often it is written ---------------------------------------------------------------------------------------


def test_many_words_are_few_writes_and_the_last_one_counts(live: Live, running: Claim) -> None:
    url, began = link(live, running), time.monotonic()
    with requests.Session() as session:
        for n in range(100):
            assert session.post(url, json={"progress": n, "message": f"step {n}"}, timeout=10).status_code == 204
    took_s = time.monotonic() - began

    until(lambda: row_of(live.parts.pool, running.id)["progress"] == 99, 3.0)
    row = row_of(live.parts.pool, running.id)
    assert row["message"] == "step 99"
    writes = row["version"] - 2  # created, claimed
    assert 2 <= writes <= 2 + took_s / progress._PAUSE_S + 1


def test_a_word_that_waited_does_not_take_the_place_of_a_newer_one(live: Live, running: Claim) -> None:
    pool = live.parts.pool
    with db.connection(pool) as conn:
        (then,) = conn.execute("SELECT now() - interval '1 ms' AS at").fetchall()
        fields = (running.tenant_id, running.id, running.call_attempt)
        assert write_progress(conn, [Note(*fields, 60.0, "newer")])
        assert not write_progress(conn, [Note(*fields, 50.0, "older", then["at"])])

    assert (row_of(pool, running.id)["progress"], row_of(pool, running.id)["message"]) == (60.0, "newer")


def test_merged_words_lose_nothing(live: Live, running: Claim) -> None:
    url = link(live, running)
    post(url, {"progress": 1})
    post(url, {"message": "kept"})
    post(url, {"progress": 2})

    until(lambda: row_of(live.parts.pool, running.id)["progress"] == 2, 3.0)
    assert row_of(live.parts.pool, running.id)["message"] == "kept"


def test_a_database_that_is_away_for_a_moment_costs_no_word(
    live: Live, running: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = progress.write_progress, iter([True, True])

    def moody(conn: db.Connection, notes: Any) -> Any:
        if notes[0].said_at is not None and next(failures, False):
            raise progress.DatabaseDown("away")
        return real(conn, notes)

    monkeypatch.setattr(progress, "write_progress", moody)
    url = link(live, running)
    post(url, {"progress": 1})
    post(url, {"progress": 2})

    until(lambda: row_of(live.parts.pool, running.id)["progress"] == 2, 5.0)
    assert next(failures, None) is None


# -- the whole way -------------------------------------------------------------------------------------------------


@contextmanager
def at_work(api: Api, live: Live, dsn: str) -> Iterator[ModelServer]:
    with ModelServer() as model, working(live, dsn, server={"public_url": live.url}):
        api.model(baseUrl=model.url, timeoutSeconds=50)
        yield model


def test_a_call_brings_the_link_that_its_model_may_use(api: Api, live: Live, dsn: str) -> None:
    with at_work(api, live, dsn) as model:
        task_id = api.create(requestPayload={"later": {"looks": 10**6, "retry_after": 0}})
        until(lambda: model.jobs.of(task_id))
        (job,) = model.jobs.of(task_id)
        until(lambda: job.looks)
        url = job.headers["X-Asynch-Progress-Url"]

        assert url.startswith(f"{live.url}/task/{task_id}/progress?")
        assert post(url, {"progress": 7, "message": "from the model itself"}).status_code == 204
        assert api.status(task_id)["message"] == "from the model itself"
        assert all("X-Asynch-Progress-Url" not in headers for _, _, headers in job.looks)
        job.steer = {}
        until(lambda: api.status(task_id)["final"])
        assert problem(post(url)) == (410, "task_final")
