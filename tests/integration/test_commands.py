"""`asynch model` and `asynch task` as a person and a script use them: processes against a running server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asynch.service import keys
from tests.live import MakeParts, serving
from tests.model_server import ModelServer
from tests.programs import REPOSITORY, Answer, clean_environ, refused
from tests.task_api import Api, working


@pytest.fixture
def asynch(api: Api) -> Any:
    """Runs a command against the server."""
    return lambda *argv, **options: run(api.live.url, *argv, **options)


def run(url: str, *argv: str, stdin: str = "", **environ: str) -> Answer:
    return subprocess.run(
        [sys.executable, "-m", "asynch", *argv],
        input=stdin, capture_output=True, text=True, env=clean_environ(ASYNCH_URL=url, **environ), cwd=REPOSITORY,
        timeout=60, check=False,
    )  # fmt: skip


def test_a_model_is_made_listed_and_deleted(asynch: Any) -> None:
    made = asynch("model", "create", "speech", "http://127.0.0.1:9", "--max-concurrency", "3", "--json")
    assert made.returncode == 0, made.stderr
    listed = asynch("model", "list", "--json")
    (told,) = [json.loads(line) for line in listed.stdout.splitlines()]

    assert (told["id"], told["modelName"], told["maxConcurrency"]) == (json.loads(made.stdout)["id"], "speech", 3)
    head, row = asynch("model", "list").stdout.splitlines()
    assert (head.split()[1], row.split()[1]) == ("modelName", "speech")
    refused(asynch("model", "create", "speech", "http://127.0.0.1:9"), "409 model_exists")
    assert asynch("model", "delete", "speech").returncode == 0
    refused(asynch("model", "delete", "speech"), "no model 'speech'")


def test_each_line_is_a_task(api: Api, asynch: Any, dsn: str, model: ModelServer, tmp_path: Path) -> None:
    api.model(baseUrl=model.url)
    made = asynch("task", "create", "m", "-", "--lines", stdin='{"size": 1}\n\n{"size": 2}\n{"fail_times": 9}\n')
    ids = made.stdout.split()
    assert (made.returncode, len(ids)) == (0, 3)
    with working(api.live, dsn):
        waited = asynch("task", "wait", *ids)

    assert waited.returncode == 1  # one failed
    assert [line.split()[2] for line in waited.stdout.splitlines()] == ["status", "completed", "completed", "failed"]
    assert "done 3 of 3, 1 bad" in waited.stderr.splitlines()[-1]
    got = asynch("task", "get", *ids, "--json")
    assert got.returncode == 1
    assert [json.loads(line)["taskId"] for line in got.stdout.splitlines()] == ids


def test_a_file_may_hold_the_payload(api: Api, asynch: Any, tmp_path: Path) -> None:
    api.model()
    (tmp_path / "p.json").write_text('{"text": "héllo"}', encoding="utf-8")
    made = asynch("task", "create", "m", f"@{tmp_path / 'p.json'}", "--priority", "7", "--metadata", '{"a": 1}')

    (task,) = api.listed(includePayload=1)["list"]
    assert (made.stdout.strip(), task["priority"]) == (task["taskId"], 7)
    assert (task["requestPayload"], task["metadata"]) == ({"text": "héllo"}, {"a": 1})


def test_a_task_is_cancelled(api: Api, asynch: Any) -> None:
    api.model()
    task_id = api.create()

    assert asynch("task", "cancel", task_id).stdout.splitlines()[1].split() == [task_id, "cancelled"]
    assert api.status(task_id)["status"] == "cancelled"


def test_a_time_out_names_what_is_open(api: Api, asynch: Any) -> None:
    api.model()
    task_id = api.create()

    answer = asynch("task", "wait", task_id, "--timeout", "0.5")

    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.splitlines()[-1].endswith(f"still open: {task_id}")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What is started can be interrupted, even where the suite itself was started in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_names_what_is_open(api: Api) -> None:
    api.model()
    task_id = api.create()
    waiting = subprocess.Popen(
        [sys.executable, "-m", "asynch", "task", "wait", task_id],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environ(ASYNCH_URL=api.live.url),
        cwd=REPOSITORY,
    )  # fmt: skip
    assert waiting.stderr is not None
    assert "waiting 1" in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=20)

    assert waiting.returncode == 130
    assert f"still open: {task_id}" in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("task", "create", "nosuch"), "404 model_not_found"),
        (("task", "create", "m", "{no json"), "PAYLOAD: expected JSON"),
        (("task", "create", "m", "@/no/such/file"), "No such file"),
        (("task", "create", "m", "--url", "ftp://x"), "--url"),
        (("task", "cancel", "1"), "404 not_found"),
        (("task", "create", "m", "--callback-url", "nowhere"), "422 invalid_input"),
    ],
)
def test_a_users_mistake_is_one_line(api: Api, asynch: Any, argv: tuple[str, ...], said: str) -> None:
    api.model()
    refused(asynch(*argv), said)


def test_a_server_that_is_not_there_is_one_line(api: Api) -> None:
    refused(run("http://127.0.0.1:9", "task", "get", "1", "--retry", "0"), "127.0.0.1:9")


def test_a_key_is_used_and_never_shown(make_parts: MakeParts, pool: Any) -> None:
    _, token = keys.create_key(pool, 7, "cli", admin=False)
    with serving(make_parts(auth={"mode": "apikey"})) as live:
        good = run(live.url, "model", "list", ASYNCH_KEY=token)
        bad = run(live.url, "model", "list", ASYNCH_KEY=f"{token}x")

    assert good.returncode == 0
    refused(bad, "401 unauthenticated")
    assert token not in good.stdout + good.stderr + bad.stderr
