"""Uploads under kill -9: what was answered is stored, once, whoever dies on the way."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest

from tests.chaos.farm import Farm, until

ON_THE_WAY = ("claimed", "tmp_created", "called", "adopted", "synced", "saved", "stored", "delivered", "tmp_removed")
PICTURE = b"\x89PNG\r\n\x1a\n" + os.urandom(100_000)


def send(farm: Farm, data: bytes = PICTURE) -> str:
    answer = farm.live.session.post(f"{farm.live.url}/api/file/upload", files={"file": ("a.png", data)})
    assert answer.status_code == 200, answer.text
    task_id: str = answer.json()["task_id"]
    return task_id


def status(farm: Farm, task_id: str) -> dict[str, Any]:
    told: dict[str, Any] = farm.live.call("GET", f"/api/file/upload/progress/{task_id}").json()
    return told


@pytest.mark.parametrize("point", ON_THE_WAY)
def test_an_upload_survives_a_death_at(farm: Farm, point: str) -> None:
    victim = farm.start_worker(crash_point=point)
    task_id = send(farm)

    victim.died_by_kill()
    farm.start_worker()

    until(lambda: status(farm, task_id)["status"] == "completed")
    (file,) = farm.ask("SELECT * FROM asynch_file")
    assert (file["sha256"], file["stored_size"]) == (hashlib.sha256(PICTURE).hexdigest(), len(PICTURE))
    assert status(farm, task_id)["repository_id"] == str(file["id"])
    assert (farm.home / "files" / file["key"]).read_bytes() == PICTURE
    farm.stop_workers()
    (stored,) = [path for path in (farm.home / "files").rglob("*") if path.suffix == ".png"]
    assert stored == farm.home / "files" / file["key"]
