"""An API that is killed and comes back under a client's hands: no id is lost, no task is made twice."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from asynch.client import Client, batches
from tests.chaos.farm import Farm
from tests.chaos.server import Server


def test_a_result_is_written_by_the_client_and_by_the_command(farm: Farm, server: Server, tmp_path: Path) -> None:
    farm.create_model()
    farm.start_worker()
    out = tmp_path / "out"
    argv = [sys.executable, "-m", "asynch", "task", "create", "m", '{"size": 3000}', "--json", "--out", str(out)]
    made = subprocess.run([*argv, "--url", server.url], capture_output=True, text=True, timeout=60, check=False)

    assert made.returncode == 0, made.stderr
    item = json.loads(made.stdout)
    assert (item["status"], item["fileSize"]) == ("completed", 3000)
    (file,) = out.iterdir()
    assert (file.name, file.stat().st_size) == (f"{item['taskId']}.{item['fileType']}", 3000)
    with Client(server.url) as client:
        again = io.BytesIO()
        client.download(item["taskId"], again)
    assert again.getvalue() == file.read_bytes()


@pytest.mark.slow
def test_creating_and_waiting_go_on_over_kills(farm: Farm, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CREATE_LIMIT", 20)
    farm.create_model(queueLimit=10_000, maxConcurrency=8)
    farm.start_worker()
    bodies = [{"modelName": "m", "requestPayload": {"size": 10, "n": n}} for n in range(300)]
    bodies.append(
        {"modelName": "m", "requestPayload": {"sleep": 3, "n": 300}}
    )  # so that there is something to wait for
    restarts: list[Future[None]] = []
    with ThreadPoolExecutor(1) as threads, Client(server.url, retry_s=60) as client:

        def after_a_batch(_: object) -> None:
            if all(restart.done() for restart in restarts) and len(restarts) < 3:
                restarts.append(threads.submit(server.restart))  # under the next call's hands

        made = client.create_tasks(bodies, on_created=after_a_batch)
        restarts.append(threads.submit(server.restart))
        ids = [result["taskId"] for result in made]
        items = client.wait(ids, 120)
        for restart in restarts:
            restart.result(60)

    assert len(restarts) >= 2
    rows = farm.ask("SELECT id, request_payload::jsonb ->> 'n' AS n FROM asynch_task ORDER BY id")
    assert sorted(int(row["n"]) for row in rows) == list(range(301))
    assert ids == [str(row["id"]) for row in rows]
    assert {item["status"] for item in items.values()} == {"completed"}
