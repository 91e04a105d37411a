"""Spans of our own: one trace from the creator to the model, with nothing in it that is secret and no wait for it."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import requests

from asynch import db, otlp, spans
from tests.collector import Collector, Seen
from tests.live import KEY, MakeParts, serving
from tests.model_server import ModelServer
from tests.programs import REPOSITORY, clean_environ, free_port
from tests.receiver import Mood, Receiver
from tests.rows import ago, bend, row_of
from tests.task_api import Api, put_back, working
from tests.upload_service import Mood as UploadMood
from tests.upload_service import UploadService
from tests.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
CONTEXT = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "a=b"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
INTERNAL, SERVER, CLIENT, CONSUMER = 1, 2, 3, 5
#: the command line where the packages are not installed
WITHOUT_EXTRA = "import sys; sys.modules['opentelemetry'] = None; from asynch.cli import main; main()"
CREATION = "POST /task/createTask"


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The minute in which no further warning is due begins anew."""
    monkeypatch.setattr(otlp, "_said_at", float("-inf"))


@contextmanager
def traced(make_parts: MakeParts, endpoint: str) -> Iterator[Api]:
    """An API that tells its spans there; all of them are sent at the end of the block."""
    tracer = spans.open_tracer(endpoint, service="asynch-api")
    try:
        with serving(replace(make_parts(), tracer=tracer)) as live:
            yield Api(live)
    finally:
        tracer.close()


@contextmanager
def both(make_parts: MakeParts, dsn: str, endpoint: str, **sections: Any) -> Iterator[Api]:
    """API and worker, both telling."""
    with traced(make_parts, endpoint) as api, telling(api, dsn, endpoint, **sections):
        yield api


def telling(api: Api, dsn: str, endpoint: str, **sections: Any) -> Any:
    return working(api.live, dsn, tracing={"otlp_endpoint": endpoint}, **sections)


def create(api: Api, headers: dict[str, str] = CONTEXT, **fields: Any) -> int:
    answer = api.post("createTask", {"modelName": "m", **fields}, headers=headers)
    assert answer.status_code == 202, answer.text
    return int(answer.json()["taskId"])


def ends(api: Api, task_id: int, most_s: float = 20.0) -> dict[str, Any]:
    until(lambda: row_of(api.live.parts.pool, task_id)["final"], most_s)
    return api.status(str(task_id))


def only(collector: Collector, name: str, count: int = 1) -> Seen:
    """The span of this name, of which there are so many: the first."""
    found = collector.named(name)
    assert len(found) == count, [span.name for span in collector.spans()]
    return found[0]


# One trace


def test_one_trace_from_the_creator_to_the_model_and_the_receiver(
    make_parts: MakeParts, dsn: str, collector: Collector, receiver: Receiver
) -> None:
    with both(make_parts, dsn, collector.url) as api:
        assert api.call("POST", "/webhook/rotateSecret").status_code == 200
        api.model(baseUrl=receiver.url, route="model")
        task_id = create(api, callbackUrl=f"{receiver.url}/hook")
        ends(api, task_id)
        until(lambda: len(receiver.messages) == 2, 20)

    creation = only(collector, CREATION)
    assert (creation.trace, creation.parent, creation.kind) == (TRACE, CALLER, SERVER)
    beneath = {name: only(collector, name) for name in ("process m", "upload m", "process webhook")}
    waits = collector.named("wait")
    assert len(waits) == 2
    assert {span.parent for span in [*waits, *beneath.values()]} == {creation.id}
    assert {span.kind for span in beneath.values()} == {CONSUMER}
    calls = collector.named("POST")
    assert [call.parent for call in calls] == [beneath["process m"].id, beneath["process webhook"].id]
    assert {span.trace for span in [*waits, *beneath.values(), *calls]} == {TRACE}
    sent = [
        (message.path, message.headers["traceparent"], message.headers["tracestate"]) for message in receiver.messages
    ]
    assert sent == [("/model", f"{calls[0].traceparent}01", "a=b"), ("/hook", f"{calls[1].traceparent}01", "a=b")]


def test_a_span_tells_what_it_is_about(
    make_parts: MakeParts, dsn: str, collector: Collector, receiver: Receiver
) -> None:
    with both(make_parts, dsn, collector.url) as api:
        api.model(baseUrl=receiver.url, route="model")
        task_id = create(api)
        ends(api, task_id)

    request = only(collector, CREATION)
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/task/createTask",
        "http.response.status_code": 202,
        "url.scheme": "http",
        "asynch.tenant_id": 0,
    }
    attempt, upload, call = (only(collector, name) for name in ("process m", "upload m", "POST"))
    about = {"messaging.system": "asynch", "messaging.message.id": str(task_id), "asynch.attempt": 1}
    assert attempt.attributes.items() >= {**about, "asynch.phase": "call", "asynch.outcome": "save"}.items()
    assert upload.attributes.items() >= {**about, "asynch.phase": "upload", "asynch.outcome": "deliver"}.items()
    assert (attempt.attributes["messaging.destination.name"], attempt.attributes["asynch.tenant_id"]) == ("m", 0)
    port = int(receiver.url.rpartition(":")[2])
    assert call.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    wait = only(collector, "wait")
    assert wait.kind == INTERNAL
    assert wait.start < wait.end <= attempt.start <= call.start < call.end <= attempt.end
    assert {span.error for span in collector.spans()} == {None}
    resources = {span.service: span.resource for span in collector.spans()}
    assert set(resources) == {"asynch-api", "asynch-worker"}
    assert all(told["service.instance.id"] and told["service.version"] for told in resources.values())


def test_without_a_caller_the_trace_begins_with_the_request(
    make_parts: MakeParts, dsn: str, collector: Collector, receiver: Receiver
) -> None:
    with both(make_parts, dsn, collector.url) as api:
        api.model(baseUrl=receiver.url)
        ends(api, create(api, headers={"traceparent": "nonsense"}))

    creation = only(collector, CREATION)
    assert creation.parent == ""
    assert receiver.messages[0].headers["traceparent"].startswith(f"00-{creation.trace}-")


def test_what_the_caller_does_not_sample_is_not_told_and_stays_so(
    make_parts: MakeParts, dsn: str, collector: Collector, receiver: Receiver
) -> None:
    with both(make_parts, dsn, collector.url) as api:
        api.model(baseUrl=receiver.url)
        ends(api, create(api, headers=UNSAMPLED))

    assert [span for span in collector.spans() if span.trace == TRACE] == []
    version, trace, _, flags = receiver.messages[0].headers["traceparent"].split("-")
    assert (version, trace, flags) == ("00", TRACE, "00")


def test_an_upload_by_a_later_worker_is_of_the_same_trace(
    make_parts: MakeParts, dsn: str, collector: Collector, receiver: Receiver, uploads: UploadService
) -> None:
    storage = {"backend": "http", "http": {"upload_url": f"{uploads.url}/upload"}}
    uploads.moods.append(UploadMood(status=500))
    with traced(make_parts, collector.url) as api:
        api.model(baseUrl=receiver.url)
        task_id, pool = create(api), api.live.parts.pool
        with telling(api, dsn, collector.url, storage=storage):
            until(lambda: row_of(pool, task_id)["state"] == 3, 20)
        bend(pool, [task_id], wake_at=ago(1), enqueue_at=ago(1))
        assert put_back(pool) == 1
        with telling(api, dsn, collector.url, storage=storage):
            until(lambda: row_of(pool, task_id)["final"], 20)

    failed, stored = collector.named("upload m")
    assert {(span.trace, span.parent) for span in (failed, stored)} == {(TRACE, only(collector, CREATION).id)}
    assert (failed.error, stored.error) == ("storage_error", None)
    assert (failed.attributes["asynch.attempt"], stored.attributes["asynch.attempt"]) == (1, 2)
    assert failed.resource["service.instance.id"] != stored.resource["service.instance.id"]
    assert len(receiver.messages) == 1


def test_each_look_at_a_model_that_works_on_is_a_request_of_one_attempt(
    make_parts: MakeParts, dsn: str, collector: Collector
) -> None:
    with ModelServer() as model, both(make_parts, dsn, collector.url) as api:
        api.model(baseUrl=model.url)
        task_id = create(api, requestPayload={"later": {"looks": 1, "retry_after": 0}})
        ended = ends(api, task_id)

    assert ended["state"] == 2, ended
    attempt, looks = only(collector, "process m"), collector.named("GET")
    assert looks
    assert {look.parent for look in [*looks, only(collector, "POST")]} == {attempt.id}
    assert attempt.attributes["asynch.outcome"] == "save"


# What is not told


def test_a_failed_call_tells_its_code_and_no_secret(
    make_parts: MakeParts, dsn: str, collector: Collector, receiver: Receiver
) -> None:
    planted = "PlAnTeD"
    receiver.moods.append(Mood(status=503, body=f"{planted}-answer".encode(), headers={"X-Said": f"{planted}-said"}))
    with both(make_parts, dsn, collector.url) as api:
        binding = f"Authorization: Bearer {planted}-bound"
        api.model(baseUrl=f"{receiver.url}/{planted}-path", route=f"r?q={planted}-query", apiKey=binding, retryTimes=0)
        task_id = create(
            api,
            {**CONTEXT, "Authorization": f"Bearer {planted}-creator", "User-Agent": f"{planted}-agent"},
            requestPayload={"text": f"{planted}-payload"},
            metadata={"a": f"{planted}-metadata"},
        )
        ended = ends(api, task_id)
        api.call("GET", f"/task/{planted}?q={planted}")

    assert ended["state"] == 3
    assert planted in receiver.messages[0].headers["authorization"] + str(receiver.messages[0].body)
    attempt, call = only(collector, "process m"), only(collector, "POST")
    assert (attempt.error, call.error) == ("model_http_error", "model_http_error")
    assert attempt.attributes["asynch.outcome"] == "give_up"
    assert call.attributes["http.response.status_code"] == 503
    assert collector.bodies
    assert planted.encode() not in b"".join(collector.bodies)


def test_looks_at_health_and_metrics_are_not_told(make_parts: MakeParts, collector: Collector) -> None:
    with traced(make_parts, collector.url) as api:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert api.call("GET", path).status_code in (200, 503)
        assert api.call("GET", "/nowhere").status_code == 404

    (span,) = collector.spans()
    assert (span.name, span.attributes["http.response.status_code"], span.error) == ("GET", 404, None)


# A collector in trouble


def test_a_dead_collector_costs_nothing_but_one_warning(
    make_parts: MakeParts, dsn: str, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    with both(make_parts, dsn, f"http://127.0.0.1:{port}") as api:
        api.model(baseUrl=receiver.url)
        assert [ends(api, create(api))["state"] for _ in range(20)] == [2] * 20
        until(lambda: warnings_of(caplog), 20)

    (warning,) = warnings_of(caplog)
    assert "tracing.otlp_endpoint does not answer" in warning.getMessage()
    assert warning.exc_info is None


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    names = ("asynch.otlp", "opentelemetry", "urllib3")
    return [record for record in caplog.records if record.name.startswith(names) and record.levelno > logging.INFO]


def test_a_collector_that_hangs_holds_up_neither_spans_nor_the_end(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.hangs = True
    tracer = spans.open_tracer(collector.url, service="asynch-api")
    began = monotonic()
    for _ in range(20_000):
        tracer.start("s", "internal", under="").end()
    assert monotonic() - began < 15  # each costs its making alone

    until(lambda: collector.requests, 10)
    began = monotonic()
    tracer.close()

    assert monotonic() - began < 3
    assert len(warnings_of(caplog)) == 1


def test_a_collector_that_is_busy_gets_the_batch_once_more(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = 503
    tracer = spans.open_tracer(collector.url, service="asynch-api")
    tracer.start("s", "internal", under="").end()
    until(lambda: collector.requests, 10)
    collector.status = 200
    until(lambda: collector.bodies, 10)
    tracer.close()

    assert [span.name for span in collector.spans()] == ["s"]
    assert [path for path, _ in collector.requests] == ["/v1/traces"] * 2
    assert warnings_of(caplog) == []


# Processes


def asynch(*argv: str, code: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    program = ["-c", code, *argv] if code else ["-m", "asynch", *argv]
    return subprocess.run(
        [sys.executable, *program], capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY,
        env=clean_environ(ASYNCH_SECRETS__KEYS=f'["{KEY}"]', **environ),
    )  # fmt: skip


def test_each_forked_process_tells_its_own_and_hears_nothing_of_the_environment(
    dsn: str, collector: Collector, tmp_path: Path
) -> None:
    environ = clean_environ(
        ASYNCH_DATA_DIR=str(tmp_path),
        ASYNCH_DATABASE__DSN=dsn,
        ASYNCH_SECRETS__KEYS=f'["{KEY}"]',
        ASYNCH_SERVER__PROCESSES="2",
        ASYNCH_TRACING__OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_HEADERS="x-stranger=1",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_SERVICE_NAME="stranger",
        OTEL_RESOURCE_ATTRIBUTES="stranger=1",
        OTEL_TRACES_SAMPLER="always_off",
        OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="0",
        HTTP_PROXY="http://127.0.0.1:9",
        http_proxy="http://127.0.0.1:9",
    )
    with socket.create_server(("127.0.0.1", 0)) as listener, (tmp_path / "log").open("wb") as log:
        url, fd = f"http://127.0.0.1:{listener.getsockname()[1]}", listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "asynch", "api", "--fd", str(fd)], env=environ, pass_fds=[fd], stderr=log,
            cwd=REPOSITORY,
        )  # fmt: skip

    def asked() -> set[str]:
        with requests.Session() as session:
            session.trust_env = False
            assert session.post(f"{url}/model/listModel", json={}, timeout=30).ok
        return {span.resource["service.instance.id"] for span in collector.spans()}

    try:
        until(lambda: len(asked()) == 2, 30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.wait()

    told = collector.spans()
    assert {span.name for span in told} == {"POST /model/listModel"}
    assert {span.service for span in told} == {"asynch-api"}
    assert len({span.resource["process.pid"] for span in told} - {process.pid}) == 2
    assert not any("stranger" in span.resource for span in told)
    assert not any("x-stranger" in headers for _, headers in collector.requests)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_off_loads_nothing_of_opentelemetry(dsn: str, pool: db.Pool, tmp_path: Path) -> None:
    with db.transaction(pool) as conn:
        conn.execute("DELETE FROM asynch_meta WHERE key = 'local_store_id'")
    code = """
import sys
import asynch.cli, asynch.web.app, asynch.web.server, asynch.worker.incarnation
from asynch import settings, spans, wiring
from asynch.wiring.worker import worker_setup
chosen = settings.load(None, __import__("os").environ)
parts, setup = wiring.api_parts(chosen), worker_setup(chosen)
assert parts.tracer is setup.tracer is spans.OFF
parts.pool.close()
print([name for name in sys.modules if name.startswith(("opentelemetry", "google.protobuf"))])
"""
    answer = asynch(code=code, ASYNCH_DATA_DIR=str(tmp_path), ASYNCH_DATABASE__DSN=dsn)

    assert (answer.stdout, answer.returncode) == ("[]\n", 0), answer.stderr


def test_check_tells_of_a_missing_extra_before_a_new_release_takes_over(tmp_path: Path) -> None:
    endpoint = "http://127.0.0.1:4318"
    answer = asynch("check", code=WITHOUT_EXTRA, ASYNCH_DATA_DIR=str(tmp_path), ASYNCH_TRACING__OTLP_ENDPOINT=endpoint)

    (line,) = (line for line in answer.stdout.splitlines() if "tracing" in line)
    assert (answer.returncode, line.split()[0]) == (1, "FAIL")
    assert "asynch[tracing]" in line


@pytest.mark.parametrize("role", ["up", "api", "worker"])
def test_without_the_extra_the_start_stops_with_one_line(role: str, tmp_path: Path) -> None:
    answer = asynch(
        role, code=WITHOUT_EXTRA, ASYNCH_DATA_DIR=str(tmp_path), ASYNCH_DATABASE__DSN="postgresql://u@127.0.0.1:9/none",
        ASYNCH_TRACING__OTLP_ENDPOINT="http://127.0.0.1:4318",
    )  # fmt: skip

    assert (answer.returncode, answer.stdout) == (2, "")
    (line,) = answer.stderr.splitlines()
    assert line.startswith("asynch: tracing.otlp_endpoint is set")
    assert "asynch[tracing]" in line


@pytest.mark.parametrize("url", ["collector:4318", "grpc://h:4317", "http://u:p@h", "http://h/?a=b"])
def test_a_bad_endpoint_stops_the_start_with_one_line(url: str, tmp_path: Path) -> None:
    answer = asynch("worker", ASYNCH_DATA_DIR=str(tmp_path), ASYNCH_TRACING__OTLP_ENDPOINT=url)

    assert (answer.returncode, answer.stdout) == (2, "")
    (line,) = answer.stderr.splitlines()
    assert line.startswith("asynch: tracing.otlp_endpoint = ")
