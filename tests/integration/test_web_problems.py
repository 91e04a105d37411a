from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from urllib.parse import urlsplit

import psycopg
import pytest

from asynch import db
from asynch.service import schema
from asynch.web import health
from tests.database import run_on
from tests.live import Live, MakeParts, serving


def test_an_unknown_path_is_a_problem_document(live: Live) -> None:
    answer = live.call("GET", "/no/such/path")

    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"
    assert answer.json()["requestId"] == answer.headers["X-Request-Id"]


def test_a_wrong_method_says_which_are_allowed(live: Live) -> None:
    answer = live.call("GET", "/model/createModel")

    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert "POST" in answer.headers["Allow"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\ufeff{}", '{"a": NaN}', "{} x"])
def test_a_body_that_is_not_one_json_object_is_400(live: Live, text: str) -> None:
    answer = live.call("POST", "/model/listModel", data=text.encode(), headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_body")


def test_bytes_that_are_not_utf8_are_400(live: Live) -> None:
    answer = live.call(
        "POST", "/model/listModel", data=b'{"modelName":"\xff"}', headers={"Content-Type": "application/json"}
    )

    assert answer.status_code == 400


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_without_authentication_only_json_is_read(live: Live, media_type: str | None) -> None:
    answer = live.call("POST", "/model/listModel", data=b"{}", headers={"Content-Type": media_type})

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_a_body_over_its_limit_is_refused_by_its_length_alone(live: Live) -> None:
    with closing(http.client.HTTPConnection(urlsplit(live.url).netloc, timeout=10)) as conn:
        conn.putrequest("POST", "/model/listModel")
        conn.putheader("Content-Type", "application/json")
        conn.putheader("Content-Length", str(10**12))
        conn.endheaders()
        answer = conn.getresponse()

        assert (answer.status, json.loads(answer.read())["code"]) == (413, "body_too_large")


def test_a_chunked_body_over_its_limit_is_refused(make_parts: MakeParts) -> None:
    with serving(make_parts(server={"max_body": 1000, "max_batch_body": 1000})) as live:
        answer = live.call(
            "POST",
            "/model/listModel",
            data=iter([b"{" + b" " * 600, b" " * 600]),
            headers={"Content-Type": "application/json"},
        )

    assert (answer.status_code, answer.json()["limitBytes"]) == (413, 1000)


def test_a_body_of_exactly_the_limit_is_read(make_parts: MakeParts) -> None:
    with serving(make_parts(server={"max_body": 1000, "max_batch_body": 1000})) as live:
        answer = live.call(
            "POST", "/model/listModel", data=b"{}" + b" " * 998, headers={"Content-Type": "application/json"}
        )

    assert answer.status_code == 200


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud800"])
def test_a_text_that_cannot_be_stored_is_422_at_its_place(live: Live, escape: str) -> None:
    body = '{"modelName":"a' + escape + '","baseUrl":"http://127.0.0.1/"}'
    answer = live.call("POST", "/model/createModel", data=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["#/modelName"]


def test_a_pointer_escapes_what_a_pointer_must(live: Live) -> None:
    answer = live.call("POST", "/model/listModel", {"a/b~c d": 1, "page": {"pageNum": "x"}})

    assert {error["pointer"] for error in answer.json()["errors"]} == {"#/a~1b~0c%20d", "#/page/pageNum"}


def test_a_number_beyond_python_is_422_and_not_500(live: Live) -> None:
    body = '{"page":{"pageNum":1' + "0" * 5000 + "}}"
    answer = live.call("POST", "/model/listModel", data=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422


def test_a_request_id_comes_back(live: Live) -> None:
    answer = live.call("GET", "/healthz", headers={"X-Request-Id": "abc-123"})

    assert answer.headers["X-Request-Id"] == "abc-123"


@pytest.mark.parametrize("bad", ["a b", "x" * 129, "caf\u00e9".encode("latin-1")])
def test_a_request_id_that_cannot_be_trusted_is_replaced(live: Live, bad: str | bytes) -> None:
    answer = live.call("GET", "/healthz", headers={"X-Request-Id": bad})

    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


def test_no_answer_may_be_cached(live: Live) -> None:
    assert live.call("POST", "/model/listModel", {}).headers["Cache-Control"] == "no-store"
    assert live.call("GET", "/nothing").headers["Cache-Control"] == "no-store"


def test_ready_when_all_answers(live: Live) -> None:
    answer = live.call("GET", "/readyz")

    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


def test_a_storage_that_never_worked_is_not_ready(make_parts: MakeParts) -> None:
    parts = make_parts()
    (parts.settings.files_path / ".store-id").write_text("00000000-0000-4000-8000-000000000000\n")
    with serving(parts) as live:
        answer = live.call("GET", "/readyz")

    assert (answer.status_code, answer.json()["checks"]["storage"]) == (503, "failing")
    assert str(parts.settings.files_path) not in answer.text


def test_a_storage_that_stops_working_is_degraded_and_still_ready(
    make_parts: MakeParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LOOK_AGAIN_S", 0.0)
    parts = make_parts()
    with serving(parts) as live:
        assert live.call("GET", "/readyz").json()["status"] == "ok"
        (parts.settings.files_path / ".store-id").write_text("00000000-0000-4000-8000-000000000000\n")
        answer = live.call("GET", "/readyz")

    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")


@pytest.fixture
def schema_version(pool: db.Pool) -> Iterator[Callable[[int], None]]:
    """Sets the version that the database tells."""

    def tell(version: int) -> None:
        with db.transaction(pool) as conn:
            conn.execute("UPDATE asynch_meta SET value = %s WHERE key = 'schema_version'", (str(version),))

    yield tell
    tell(schema.SCHEMA_VERSION)


def test_an_older_schema_is_not_ready(live: Live, schema_version: Callable[[int], None]) -> None:
    schema_version(0)

    answer = live.call("GET", "/readyz")

    assert answer.status_code == 503
    assert "asynch migrate" in answer.json()["checks"]["database"]


def test_a_newer_schema_keeps_what_runs_ready_during_an_upgrade(
    live: Live, schema_version: Callable[[int], None]
) -> None:
    schema_version(999)

    assert live.call("GET", "/readyz").status_code == 200


def test_without_space_for_temporary_files_it_is_not_ready(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TMP_LEAST", 1 << 60)

    answer = live.call("GET", "/readyz")

    assert answer.status_code == 503
    assert "are needed" in answer.json()["checks"]["tmp"]


@pytest.fixture
def dead_database(live: Live, dsn: str, server_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """The application, and its database gone."""
    name = dsn.rpartition("dbname=")[2].split()[0]
    monkeypatch.setattr(db, "_PATIENCE_S", 0.5)
    run_on(server_dsn, "ALTER DATABASE {} ALLOW_CONNECTIONS false", name)
    with psycopg.connect(server_dsn, autocommit=True) as conn:
        conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
    yield live
    run_on(server_dsn, "ALTER DATABASE {} ALLOW_CONNECTIONS true", name)


def test_a_dead_database_is_503_with_retry_after_and_without_details(dead_database: Live) -> None:
    answer = dead_database.call("POST", "/model/listModel", {})

    assert (answer.status_code, answer.json()["code"]) == (503, "database_down")
    assert int(answer.headers["Retry-After"]) > 0
    assert "asynch_test" not in answer.text


def test_a_database_known_to_be_dead_holds_up_nobody_for_long(
    dead_database: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "_PATIENCE_S", 2.5)
    took = []
    for _ in range(2):
        begun = time.monotonic()
        assert dead_database.call("POST", "/model/listModel", {}).status_code == 503
        took.append(time.monotonic() - begun)

    assert took[0] > 2.4
    assert took[1] < 2


def test_a_dead_database_is_alive_but_not_ready(dead_database: Live) -> None:
    assert dead_database.call("GET", "/healthz").status_code == 200
    assert dead_database.call("GET", "/readyz").status_code == 503


def test_a_slow_storage_does_not_hold_up_readiness(make_parts: MakeParts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE_S", 0.1)
    monkeypatch.setattr(health, "LOOK_AGAIN_S", 0.0)
    parts = make_parts()
    hanging = Hanging()
    object.__setattr__(parts, "storage", hanging)
    with serving(parts) as live:
        begun = time.monotonic()
        answers = [live.call("GET", "/readyz").status_code for _ in range(3)]
        took = time.monotonic() - begun
        hanging.release.set()

    assert answers == [503, 503, 503]
    assert hanging.asked == 1
    assert took < 5


class Hanging:
    """A storage whose server takes the connection and never answers."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.asked = 0

    def check(self) -> None:
        self.asked += 1
        self.release.wait(30)
