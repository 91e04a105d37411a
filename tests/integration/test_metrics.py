"""/metrics: what the dashboard and the alerts ask for is there, bounded and harmless, whatever the database does."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from asynch import db
from asynch.service import keys, survey
from asynch.store import survey as store
from tests.database import database
from tests.live import KEY, Live, MakeParts, parts_on, serving
from tests.model_server import ModelServer
from tests.programs import REPOSITORY, answers, clean_environ, free_port, refused
from tests.proxy import Proxy
from tests.rows import add_model, add_task, add_tasks
from tests.task_api import Api
from tests.waiting import until

DEPLOY = REPOSITORY / "deploy"
PROXIED = {"X-Forwarded-For": "203.0.113.5"}

#: name to label sets and values
Scrape = dict[str, list[tuple[dict[str, str], float]]]


def parsed(text: str) -> Scrape:
    """The samples of an exposition; AssertionError for a series that stands twice, which Prometheus refuses."""
    found: Scrape = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    series = Counter((name, *sorted(labels.items())) for name, samples in found.items() for labels, _ in samples)
    assert [one for one, n in series.items() if n > 1] == []
    return found


def scrape(url: str, **options: Any) -> Scrape:
    answer = requests.get(url + "/metrics", timeout=20, **options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return parsed(answer.text)


def value(found: Scrape, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    return sum(number for has, number in found.get(name, []) if labels.items() <= has.items())


@pytest.fixture
def api(make_parts: MakeParts, dsn: str) -> Iterator[Live]:
    with serving(make_parts(database={"dsn": dsn})) as running:
        yield running


@contextmanager
def role(name: str, home: Path, dsn: str, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process of `asynch` with its settings in the environment."""
    environ = clean_environ(
        ASYNCH_DATA_DIR=str(home),
        TMPDIR=str(home),
        ASYNCH_SECRETS__KEYS=json.dumps([KEY]),
        ASYNCH_DATABASE__DSN=dsn,
        **{f"ASYNCH_{key}": str(text) for key, text in settings.items()},
    )
    with (home / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "asynch", name], env=environ, cwd=REPOSITORY, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


# -- a worker and an API that have done a little of everything -----------------------------------------------------


@dataclass
class Scene:
    api: Live
    worker_url: str
    dsn: str

    def both(self) -> Scrape:
        return {**scrape(self.worker_url), **scrape(self.api.url)}


@pytest.fixture(scope="module")
def scene_dsn(server_dsn: str, template: str) -> Iterator[str]:
    with database(server_dsn, template) as made:
        yield made


@pytest.fixture(scope="module")
def scene(scene_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Tasks that succeeded, failed, were refused, and one whose upload keeps failing."""
    home, port = tmp_path_factory.mktemp("scene"), free_port()
    chosen = {"WORKER__METRICS_PORT": port, "CLEANER__INTERVAL": "1s", "WORKER__THREADS": 4, "WORKER__DRAIN_TIMEOUT": 0}
    with (
        db.open_pool(scene_dsn, size=4, name="tests") as pool,
        ModelServer() as model,
        serving(parts_on(pool, home, database={"dsn": scene_dsn})) as live,
        role("worker", home, scene_dsn, **chosen),
    ):
        made = Scene(live, f"http://127.0.0.1:{port}", scene_dsn)
        until(lambda: answers(made.worker_url), 30)
        play(Api(live), model, home)
        until(lambda: value(scrape(made.worker_url), "asynch_storage_errors_total") >= 1, 20)
        until(lambda: value(scrape(made.worker_url), "asynch_cleaner_last_run_timestamp_seconds", duty="purge"), 20)
        yield made


def play(api: Api, model: ModelServer, home: Path) -> None:
    api.model(baseUrl=model.url, apiKey="X-Key:hidden-key")
    done = api.create(requestPayload={"text": "hidden-payload"})
    api.model("bad", baseUrl=model.url)
    failed = api.create(modelName="bad", requestPayload={"status": 400})
    api.model("small", baseUrl=model.url, queueLimit=1)
    api.create(modelName="small", delaySeconds=600)
    assert api.post("createTask", {"modelName": "small"}).status_code == 429
    until(lambda: all(api.status(task)["final"] for task in (done, failed)), 20)
    (home / "files").mkdir(exist_ok=True)
    (home / "files" / "9").write_text("where the results of tenant 9 should be a directory")
    stuck = api.of(9, "admin")
    stuck.model(baseUrl=model.url)
    stuck.create()


SELECTOR = re.compile(r"(asynch_[a-z_0-9]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'([a-z_]+)(=~|!=|=)"([^"]*)"')
GROUPING = re.compile(r"by \(([^)]*)\)")


def panels() -> dict[str, str]:
    """What the dashboard draws, in PromQL, by where it stands."""
    dashboard = json.loads((DEPLOY / "grafana/asynch.json").read_text())
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }


def expressions() -> dict[str, str]:
    """Every PromQL expression that is delivered, by where it stands."""
    rules = yaml.safe_load((DEPLOY / "prometheus/asynch.rules.yml").read_text())
    return {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]} | panels()


@pytest.mark.parametrize("where", expressions())
def test_what_the_dashboard_and_the_alerts_ask_for_is_scraped(scene: Scene, where: str) -> None:
    expression, found = expressions()[where], scene.both()
    known = {"instance"}
    for name, matchers in SELECTOR.findall(expression):
        assert name in found
        known |= {label for labels, _ in found[name] for label in labels}
        for label, how, wanted in MATCHER.findall(matchers):
            values = {labels[label] for labels, _ in found[name]}
            assert wanted in values or how != "="

    assert SELECTOR.search(expression)
    assert {label.strip() for group in GROUPING.findall(expression) for label in group.split(",")} <= known


@pytest.fixture(scope="module")
def prometheus(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Prometheus that has the alerts and scrapes the scene each second."""
    program = shutil.which("prometheus")
    if program is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("prometheus is not installed")
    home, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(DEPLOY / "prometheus/asynch.rules.yml")],
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [urlsplit(url).netloc]}]}
            for name, url in (("worker", scene.worker_url), ("api", scene.api.url))
        ],
    }
    (home / "prometheus.yml").write_text(yaml.safe_dump(config))
    argv = [
        str(program), "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (home / "log").open("wb") as log, subprocess.Popen(argv, cwd=home, stderr=log) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: answers(f"{url}/-/ready"), 30)
            yield url
        finally:
            process.terminate()


def asked(prometheus: str, path: str, **params: str) -> Any:
    answer = requests.get(f"{prometheus}/api/v1/{path}", params=params, timeout=20).json()
    assert answer["status"] == "success", answer
    return answer["data"]


def test_prometheus_scrapes_worker_and_api(prometheus: str) -> None:
    def targets() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = asked(prometheus, "targets", state="active")["activeTargets"]
        return found

    until(lambda: [target["health"] for target in targets()] == ["up", "up"], 20)
    assert [target["lastError"] for target in targets()] == ["", ""]


def test_prometheus_evaluates_every_alert(prometheus: str) -> None:
    def health() -> set[tuple[str, str]]:
        groups = asked(prometheus, "rules", type="alert")["groups"]
        return {(rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]}

    until(lambda: health() == {("ok", "")}, 20)


@pytest.mark.parametrize("where", panels())
def test_a_panel_has_something_to_draw(prometheus: str, where: str) -> None:
    expression = panels()[where].replace("$__rate_interval", "1m")

    until(lambda: asked(prometheus, "query", query=expression)["result"] != [], 20)


def test_everything_scraped_is_on_the_dashboard_or_in_an_alert(scene: Scene) -> None:
    asked = {re.sub("_bucket$", "", name) for text in expressions().values() for name, _ in SELECTOR.findall(text)}

    told = {re.sub("_(bucket|sum|count)$", "", name) for name in scene.both() if name.startswith("asynch_")}
    assert told == asked


def test_a_scrape_tells_no_payload_and_no_secret(scene: Scene) -> None:
    secrets = ["hidden-key", "hidden-payload", KEY, conninfo_to_dict(scene.dsn).get("password") or KEY]
    texts = [requests.get(url + "/metrics", timeout=20).text for url in (scene.worker_url, scene.api.url)]

    assert [word for word in secrets for text in texts if word in text] == []


def test_an_attempt_is_counted_with_its_outcome_and_times(scene: Scene) -> None:
    before = scrape(scene.worker_url)
    api = Api(scene.api)
    task = api.create()
    until(lambda: api.status(task)["final"], 20)
    after = scrape(scene.worker_url)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("asynch_claims_total", phase="call") == 1
    assert grown("asynch_attempts_total", phase="call", event="save", code="") == 1
    assert grown("asynch_attempts_total", phase="upload", event="deliver") == 1
    assert grown("asynch_waited_seconds_count") == 1
    assert grown("asynch_called_seconds_count", event="save") == 1
    assert grown("asynch_stored_seconds_count") == 1


def test_failures_are_counted_by_code(scene: Scene) -> None:
    told = scene.both()

    assert value(told, "asynch_attempts_total", event="give_up", code="model_http_error") == 1
    assert value(told, "asynch_attempts_total", phase="upload", event="fail", code="storage_error") >= 1
    assert value(told, "asynch_storage_errors_total", operation="put") >= 1
    assert value(told, "asynch_refused_total", route="/task/createTask", code="queue_full") == 1
    assert value(told, "asynch_uploads_waiting") == 1
    assert value(told, "asynch_uploads_oldest_seconds") > 0


def test_a_worker_tells_of_its_threads_its_directory_and_its_cleaner(scene: Scene) -> None:
    told = scrape(scene.worker_url)

    assert value(told, "asynch_call_threads") == 4
    assert value(told, "asynch_tmp_limit_bytes") == 20 * 2**30
    assert (value(told, "asynch_tmp_blocked"), value(told, "asynch_cleaner_leads")) == (0, 1)
    assert value(scrape(scene.api.url), "asynch_workers") == 1


def test_a_lost_session_is_counted(scene: Scene) -> None:
    with db.open_session(scene.dsn, name="tests") as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '^asynch-worker-'"
        )

    until(lambda: value(scrape(scene.worker_url), "asynch_sessions_lost_total") == 1)


# -- the queue -----------------------------------------------------------------------------------------------------


def lanes_of(found: Scrape, name: str = "asynch_queue_depth") -> dict[tuple[str, str], float]:
    return {(labels["tenant"], labels["model"]): number for labels, number in found[name]}


def test_of_many_lanes_the_deepest_have_labels_and_the_rest_is_one(api: Live, pool: db.Pool) -> None:
    with db.transaction(pool) as conn:
        conn.execute(
            "INSERT INTO asynch_models (tenant_id, model_name, base_url) "
            "SELECT 1, 'm' || n, 'http://x' FROM generate_series(0, 299) AS n"
        )
        conn.execute(
            "INSERT INTO asynch_task (id, tenant_id, lane_id, model_name) SELECT 2 * lane_id + k, 1, lane_id, model_name "
            "FROM asynch_models, generate_series(0, CASE WHEN model_name ~ 'm29.' THEN 1 ELSE 0 END) AS k"
        )
    depths = lanes_of(scrape(api.url))

    assert len(depths) == store.TOP_LANES + 1
    assert {("1", f"m{n}") for n in range(290, 300)} < set(depths)
    assert sum(depths.values()) == 310
    assert depths["other", "other"] == 310 - 10 * 2 - 10


def test_an_empty_queue_is_told_as_zero(api: Live) -> None:
    told = scrape(api.url)

    assert lanes_of(told) == {("other", "other"): 0}
    assert value(told, "asynch_queue_oldest_wait_seconds") == 0


def test_a_model_that_was_made_anew_is_one_series_with_its_former_self(api: Live, pool: db.Pool) -> None:
    for _ in range(2):
        add_task(pool, add_model(pool, "again"), model_name="again")
        with db.transaction(pool) as conn:
            conn.execute("UPDATE asynch_models SET deleted_at = now()")

    assert lanes_of(scrape(api.url))["1", "again"] == 2


def test_the_oldest_wait_is_of_the_longest_due_task_of_any_priority(api: Live, pool: db.Pool) -> None:
    lane = add_model(pool)
    add_tasks(pool, lane, 3, priority=9)
    (old,) = add_tasks(pool, lane)
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_task SET enqueue_at = now() - interval '1 h' WHERE id = %s", (old,))
        conn.execute("UPDATE asynch_task SET enqueue_at = now() + interval '1 h' WHERE id = %s - 1", (old,))
    with closing(db.open_session(pool.conninfo, name="tests")) as conn:
        for found in (store.waiting(conn), store.estimate_waiting(conn)):
            assert [3600 <= lane.oldest_s < 3700 for lane in found.lanes] == [True]


def test_a_queue_too_deep_to_count_is_estimated(
    dsn: str, api: Live, pool: db.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "COUNTED", 100)
    monkeypatch.setattr(store, "_LANE_COUNTED", 50)
    for n in range(30):
        add_tasks(pool, add_model(pool, f"m{n}"), 10, model_name=f"m{n}")
    add_tasks(pool, add_model(pool, "deep"), 200, model_name="deep")
    with closing(db.open_session(dsn, name="tests")) as conn:
        conn.execute("VACUUM ANALYZE asynch_task")
    told = scrape(api.url)
    depths = lanes_of(told)

    assert value(told, "asynch_queue_estimated") == 1
    assert depths["1", "deep"] == 200  # all pages of this small table are in the sample
    assert len(depths) == store.TOP_LANES + 1
    assert sum(depths.values()) == 500


def test_slots_are_told_apart_from_other_locks(api: Live, pool: db.Pool, dsn: str) -> None:
    lane = add_model(pool, max_concurrency=7)
    with closing(db.open_session(dsn, name="tests")) as conn:
        conn.execute("SELECT pg_advisory_lock(%s, 0), pg_advisory_lock(%s, 6)", (lane, lane))
        conn.execute("SELECT pg_advisory_lock(%s, -1), pg_advisory_lock(12345)", (lane,))
        told = scrape(api.url)

    assert (value(told, "asynch_slots_held"), value(told, "asynch_slots_configured")) == (2, 7)
    assert 4 <= value(told, "asynch_locks_held") < value(told, "asynch_lock_capacity")


# -- a database in trouble -----------------------------------------------------------------------------------------


@pytest.fixture
def far(make_parts: MakeParts, dsn: str) -> Iterator[tuple[Live, Proxy]]:
    """An API whose survey goes through a proxy."""
    there = conninfo_to_dict(dsn)
    with Proxy((str(there["host"]), int(there["port"] or 5432))) as proxy:
        through = make_conninfo(dsn, host="127.0.0.1", port=proxy.port)
        with serving(make_parts(database={"dsn": through})) as running:
            yield running, proxy


def ok(found: Scrape) -> dict[str, float]:
    return {labels["part"]: number for labels, number in found["asynch_survey_ok"]}


def test_a_scrape_works_without_the_database_and_again_with_it(far: tuple[Live, Proxy]) -> None:
    api, proxy = far
    proxy.refuse()
    without = scrape(api.url)

    assert (value(without, "asynch_database_up"), set(ok(without).values())) == (0, {0})
    assert "asynch_queue_depth" not in without
    assert value(without, "asynch_http_requests_total") == 0  # it is not counted before it is answered
    proxy.accept()
    until(lambda: value(scrape(api.url), "asynch_database_up") == 1)


def test_a_scrape_does_not_wait_for_a_database_that_says_nothing(
    far: tuple[Live, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "PATIENCE_S", 0.5)
    api, proxy = far
    proxy.stall()
    answer = requests.get(api.url + "/metrics", timeout=4)  # libpq alone would try for five
    proxy.resume()

    assert value(parsed(answer.text), "asynch_database_up") == 0
    until(lambda: value(scrape(api.url), "asynch_database_up") == 1)


def test_what_can_be_asked_is_told_when_the_rest_cannot(api: Live, pool: db.Pool) -> None:
    with db.transaction(pool) as conn:
        conn.execute("LOCK TABLE asynch_task")
        conn.execute("SELECT pg_current_xact_id()")
        told = scrape(api.url)

    assert ok(told) == {"snapshot": 1, "locks": 1, "in_hand": 0, "waiting": 0}
    assert value(told, "asynch_database_up") == 1
    assert value(told, "asynch_oldest_snapshot_seconds") > 0


def test_scrapes_in_a_row_ask_the_database_once(api: Live, pool: db.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "FRESH_S", 60.0)
    first = scrape(api.url)
    add_task(pool, add_model(pool))

    assert lanes_of(scrape(api.url)) == lanes_of(first)


# -- requests ------------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_template_method_and_status(api: Live, pool: db.Pool) -> None:
    for path in ("/task/12", "/task/13", "/wp-admin", "/.env"):
        assert api.call("GET", path).status_code == 404
    api.call("BREW", "/pot")
    told = scrape(api.url)

    assert value(told, "asynch_http_requests_total", route="/task/<id:task_id>", method="GET", status="404") == 2
    assert value(told, "asynch_http_requests_total", route="unmatched", method="GET", status="404") == 2
    assert value(told, "asynch_http_requests_total", route="unmatched", method="other") == 1
    assert value(told, "asynch_http_request_seconds_count", route="/task/<id:task_id>") == 2
    assert value(told, "asynch_refused_total", route="/task/<id:task_id>", code="not_found") == 2


def test_a_batch_counts_each_item_and_a_repetition_none(api: Live) -> None:
    tenant = Api(api)
    tenant.model()
    body = {"tasks": [{"modelName": "m"}, {"modelName": "m"}, {"modelName": "none"}, {"modelName": 1}]}
    for _ in range(2):
        tenant.post("createTaskBatch", body, headers={"Idempotency-Key": "once"})
    told = scrape(api.url)

    assert value(told, "asynch_tasks_created_total") == 2
    codes = {labels["code"]: number for labels, number in told["asynch_refused_total"]}
    assert codes == {"model_not_found": 1, "invalid_input": 1}


def test_a_request_that_finds_no_connection_is_seen(api: Live, pool: db.Pool) -> None:
    api.parts.meter.pool_waiting.set(3)

    assert value(scrape(api.url), "asynch_pool_waiting") == 0  # each request looks anew


def test_processes_of_one_api_answer_as_one(module_dsn: str, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with role("api", tmp_path, module_dsn, SERVER__PROCESSES=2, SERVER__PORT=port, SERVER__THREADS=2):
        until(lambda: answers(url + "/healthz"), 30)
        before = value(scrape(url), "asynch_http_requests_total", route="/healthz")
        for _ in range(30):
            requests.get(url + "/healthz", timeout=10)
        counts = [value(scrape(url), "asynch_http_requests_total", route="/healthz") for _ in range(10)]

    assert counts == [before + 30] * 10
    assert list(tmp_path.glob("asynch-metrics-*")) == []


# -- who may ---------------------------------------------------------------------------------------------------------


def test_only_this_machine_and_admins_are_answered(make_parts: MakeParts, pool: db.Pool, dsn: str) -> None:
    _, admin = keys.create_key(pool, 1, "a", admin=True)
    _, user = keys.create_key(pool, 1, "u", admin=False)
    asked: list[tuple[int, dict[str, str]]] = [
        (200, {}),
        (401, PROXIED),
        (401, {"Host": "asynch.example.com"}),
        (401, {"Origin": "https://evil.example"}),
        (403, PROXIED | {"Authorization": f"Bearer {user}"}),
        (200, PROXIED | {"Authorization": f"Bearer {admin}"}),
    ]
    with serving(make_parts(auth={"mode": "apikey"}, database={"dsn": dsn})) as live:
        codes = [live.call("GET", "/metrics", headers=headers).status_code for _, headers in asked]

    assert codes == [code for code, _ in asked]


# -- the worker's endpoint -----------------------------------------------------------------------------------------


def test_a_port_in_use_is_said_before_a_database_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with role("worker", tmp_path, "postgresql://u@127.0.0.1:1/none", WORKER__METRICS_PORT=port) as process:
            process.wait(30)

    said = (tmp_path / "worker.log").read_text()
    refused(subprocess.CompletedProcess([], process.returncode, "", said), f"worker.metrics_port = {port}: ")
