"""The creator's headers on their way: from the request, sealed in the row, to the upload, and nowhere else."""

from __future__ import annotations

import json
import logging
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from asynch import checks, db, wiring
from asynch.settings import build
from asynch.store import queue
from tests.database import all_rows
from tests.leaks import dump, shapes_of
from tests.live import KEY, MakeParts, serving
from tests.model_server import ModelServer
from tests.rows import add_model, add_task, ago, bend, row_of, save, worker
from tests.task_api import Api, working
from tests.upload_service import Mood, UploadService
from tests.waiting import until

TOKEN = "s3cr3t-of-the-creator"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
#: what tests.task_api.Api sends for tenant 0
EVA = json.dumps({"tenantId": 0, "userName": "eva", "role": "admin"})


@pytest.fixture
def storage_section(uploads: UploadService) -> dict[str, Any]:
    places = {"upload_url": f"{uploads.url}/upload", "delete_url": f"{uploads.url}/files"}
    return {"backend": "http", "http": places}


@pytest.fixture
def api(make_parts: MakeParts, storage_section: dict[str, Any]) -> Iterator[Api]:
    """The API of an installation whose results go to the upload service, with a model `m`."""
    parts = make_parts(storage=storage_section)
    parts = replace(parts, storage=wiring.make_storage(parts.settings, parts.box))
    with serving(parts) as live, ModelServer() as model:
        api = Api(live)
        api.model(baseUrl=model.url)
        yield api


def create(api: Api, **headers: str) -> str:
    """A task whose creator sends these headers too."""
    answer = api.post("createTask", {"modelName": "m", "requestPayload": {"kind": "wav"}}, headers=BEARER | headers)
    assert answer.status_code == 202, answer.text
    task_id: str = answer.json()["taskId"]
    return task_id


def told(text: str) -> set[str]:
    return {shape for shape in shapes_of(TOKEN) if shape in text}


def test_the_dump_would_show_a_secret() -> None:
    assert told(f"x {TOKEN}")
    for before in ("", "a", "ab"):
        assert told(b64encode(f"{before}Bearer {TOKEN}; more".encode()).decode())


def test_a_result_is_uploaded_on_behalf_of_its_creator(
    api: Api, dsn: str, uploads: UploadService, storage_section: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pool, task_id = api.live.parts.pool, create(api)
    assert row_of(pool, int(task_id))["upload_headers"]
    assert not told(dump(pool))

    with working(api.live, dsn, storage=storage_section):
        (item,) = api.collect(task_id, waitSeconds=20)["list"]

    assert [seen.identity for seen in uploads.seen] == [(BEARER["Authorization"], EVA)]
    assert item["ossFile"] == f"{uploads.url}/files/{task_id}-1.wav"
    assert list(uploads.kept) == [f"{task_id}-1.wav"]
    status = api.status(task_id)
    assert (status["result"]["url"], status["result"]["urlExpiresAt"]) == (item["ossFile"], None)
    assert api.get(f"{task_id}/result").headers["Location"] == item["ossFile"]
    assert row_of(pool, int(task_id))["upload_headers"] == ""
    assert not told(dump(pool) + json.dumps(status) + "".join(str(vars(record)) for record in caplog.records))


def test_all_tasks_of_a_batch_are_their_creators(
    api: Api, dsn: str, uploads: UploadService, storage_section: dict[str, Any]
) -> None:
    api.batch(*[{"modelName": "m"}] * 3, headers=BEARER)

    with working(api.live, dsn, storage=storage_section):
        until(lambda: len(uploads.kept) == 3, 20)

    assert [seen.identity for seen in uploads.seen] == [(BEARER["Authorization"], EVA)] * 3


def test_a_key_of_ours_stays_here(api: Api, dsn: str, uploads: UploadService, storage_section: dict[str, Any]) -> None:
    create(api, Authorization="Bearer ak_0123456789abcdef_secret")

    with working(api.live, dsn, storage=storage_section):
        until(lambda: uploads.kept, 20)

    assert [seen.identity for seen in uploads.seen] == [(None, EVA)]


def test_other_storages_are_given_no_headers(make_parts: MakeParts) -> None:
    with serving(make_parts()) as live:
        api = Api(live)
        api.model()

        assert row_of(live.parts.pool, int(create(api)))["upload_headers"] == ""


def test_a_refused_upload_tells_no_secret_and_keeps_what_it_needs_for_the_next(
    api: Api, dsn: str, uploads: UploadService, storage_section: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    uploads.allows = lambda seen: False  # with a 401 that repeats who came
    pool, task_id = api.live.parts.pool, create(api)

    with working(api.live, dsn, storage=storage_section):
        until(lambda: row_of(pool, int(task_id))["state"] == 3, 20)
        status = api.status(task_id)
        uploads.allows = lambda seen: True
        bend(pool, [int(task_id)], state=0, enqueue_at=ago(1))
        until(lambda: row_of(pool, int(task_id))["state"] == 2, 20)

    assert (status["error"]["code"], "HTTP 401" in status["error"]["detail"]) == ("storage_error", True)
    assert {seen.identity for seen in uploads.seen} == {(BEARER["Authorization"], EVA)}
    assert len({seen.filename for seen in uploads.seen}) == 1
    assert not told(dump(pool) + json.dumps(status) + "".join(str(vars(record)) for record in caplog.records))


def test_headers_that_cannot_be_opened_fail_the_upload_only(
    api: Api, dsn: str, uploads: UploadService, storage_section: dict[str, Any]
) -> None:
    pool, task_id = api.live.parts.pool, create(api)
    bend(pool, [int(task_id)], upload_headers="sealed by another")

    with working(api.live, dsn, storage=storage_section):
        until(lambda: row_of(pool, int(task_id))["state"] == 3, 20)

    row = row_of(pool, int(task_id))
    assert (row["phase"], row["final"], row["error_code"]) == (1, False, "storage_error")
    assert "headers cannot be read" in row["error_msg"]
    assert uploads.seen == []


def beats(api: Api) -> Any:
    """When the worker last said that it lives."""
    return all_rows(api.live.parts.pool, "SELECT max(seen_at) AS at FROM asynch_worker")[0]["at"]


def test_a_task_cancelled_during_its_upload_leaves_no_file(
    api: Api, dsn: str, uploads: UploadService, storage_section: dict[str, Any]
) -> None:
    held = threading.Event()
    uploads.moods.append(Mood(held=held))
    task_id = create(api)

    with working(api.live, dsn, storage=storage_section):
        until(lambda: uploads.seen, 20)
        api.post(f"{task_id}/cancel")
        for _ in range(2):  # a beat that began after the cancellation has told the worker of it before the next
            beaten = beats(api)
            until(lambda beaten=beaten: beats(api) > beaten, 20)  # type: ignore[misc]
        held.set()
        until(lambda: api.status(task_id)["final"], 20)
        until(lambda: "DELETE" in uploads.asked, 20)

    row = row_of(api.live.parts.pool, int(task_id))
    assert (row["state"], row["upload_headers"], uploads.kept) == (5, "", {})


def test_a_row_names_its_object_by_key_until_it_is_delivered_and_by_its_address_then(pool: db.Pool, dsn: str) -> None:
    task = add_task(pool, add_model(pool))
    save(pool, task)
    with worker(dsn) as me:
        (claim,) = me.claim_upload()

    def named(oss_file: str, address: str) -> bool:
        bend(pool, [task], oss_file=oss_file)
        with db.connection(pool) as conn:
            return queue.names_object(conn, claim, address)

    assert named(f"k/{task}", "http://files/1")
    assert named("http://files/1", "http://files/1")
    assert not named("http://files/2", "http://files/1")


def test_check_says_what_it_did_with_the_service(
    uploads: UploadService, storage_section: dict[str, Any], tmp_path: Any
) -> None:
    chosen = build({"data_dir": str(tmp_path), "storage": storage_section, "secrets": {"keys": [KEY]}})

    found = {finding.part: finding for finding in checks.findings(chosen)}

    assert (found["storage"].good, found["storage"].detail) == (True, "http: wrote, read and deleted an object")


def test_readyz_asks_the_service(api: Api, uploads: UploadService) -> None:
    assert api.call("GET", "/readyz").json()["checks"]["storage"] == "ok"
    assert [seen.headers.get("authorization") for seen in uploads.seen] == [None]
    assert uploads.kept == {}
