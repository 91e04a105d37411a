"""Uploads under kill -9: what was answered is stored, once, whoever dies on the way."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from tests.chaos.farm import Farm
from tests.chaos.server import Server
from tests.waiting import until

#: those of an upload's own; at the others it is a task like any other, see test_points_of_death
ON_THE_WAY = ("claimed", "adopted", "stored", "delivered")
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


def test_a_worker_killed_while_it_compresses_leaves_nothing(farm: Farm, long_film: Path) -> None:
    victim = farm.start_worker()
    with long_film.open("rb") as film:
        answer = farm.live.session.post(f"{farm.live.url}/api/file/upload", files={"file": ("a.mp4", film)})
    task_id = answer.json()["task_id"]
    programs = until(lambda: encoders(victim.pid))

    victim.kill()
    farm.start_worker()
    psutil.wait_procs(programs, timeout=5)
    assert [p for p in programs if p.is_running()] == []
    until(lambda: status(farm, task_id)["status"] == "completed", 60)
    until(lambda: not list((farm.home / "tmp" / ".scratch").iterdir()), 60)


def encoders(pid: int) -> list[psutil.Process]:
    """The media programs below a worker that encode."""
    found = []
    for program in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):  # ended meanwhile
            if "libx264" in program.cmdline():
                found.append(program)
    return found


def picture(n: int) -> bytes:
    return PICTURE[:8] + n.to_bytes(8, "big") + os.urandom(200_000)


def test_what_was_answered_outlives_the_api(farm: Farm, server: Server) -> None:
    """Forms are sent while the API is killed again and again; what it answered is stored, whatever else is not."""
    farm.start_worker()
    over = threading.Event()
    answered: dict[str, bytes] = {}

    def send_forms(n: int) -> None:
        while not over.is_set():
            data = picture(n)
            with suppress(requests.RequestException, KeyError):
                answer = requests.post(f"{server.url}/api/file/upload", files={"file": ("a.png", data)}, timeout=10)
                answered[answer.json()["task_id"]] = data

    with ThreadPoolExecutor(4) as senders:
        for n in range(4):
            senders.submit(send_forms, n)
        for _ in range(2):
            until(lambda: len(answered) % 7 == 3)
            server.restart()
        over.set()

    assert answered
    for task_id, data in answered.items():
        until(lambda: status(farm, task_id)["status"] in ("completed", "failed"), 30)  # noqa: B023 - called at once
        told = status(farm, task_id)
        assert told["status"] == "completed", told
        (file,) = farm.ask("SELECT * FROM asynch_file WHERE id = %s", int(told["repository_id"]))
        assert (farm.home / "files" / file["key"]).read_bytes() == data


def test_a_resumed_upload_outlives_the_api(farm: Farm, server: Server) -> None:
    """A sender that starts again where the API says it is comes to its end, with every byte in its place."""
    farm.start_worker()
    data = picture(0) * 20
    tus = {"Tus-Resumable": "1.0.0"}
    made = requests.post(f"{server.url}/api/file/tus", headers={**tus, "Upload-Length": str(len(data))}, timeout=10)
    path = urlsplit(made.headers["Location"]).path
    killer = threading.Timer(0.2, server.restart)
    killer.start()

    def send_on() -> bool:
        with suppress(requests.RequestException):
            at = requests.head(f"{server.url}{path}", headers=tus, timeout=10).headers.get("Upload-Offset")
            if at is None:
                return False
            headers = {**tus, "Upload-Offset": at, "Content-Type": "application/offset+octet-stream"}
            piece = slowly(data[int(at) :])
            if int(at) < len(data):
                requests.patch(f"{server.url}{path}", data=piece, headers=headers, timeout=10)
            return int(at) == len(data)
        return False

    until(send_on, 60)
    killer.join()
    task_id = path.rpartition("/")[2]
    until(lambda: status(farm, task_id)["status"] == "completed", 30)
    (file,) = farm.ask("SELECT * FROM asynch_file")
    assert (farm.home / "files" / file["key"]).read_bytes() == data


def slowly(data: bytes) -> Iterator[bytes]:
    """In pieces, for a second or so."""
    for at in range(0, len(data), 100_000):
        yield data[at : at + 100_000]
        threading.Event().wait(0.03)
