"""Received films: made smaller on the way, with progress, and given a cover; what is no film fails alone."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageStat

from asynch import db
from tests.database import all_rows
from tests.live import MakeParts, serving
from tests.sending import ended, fetched, file_of, status
from tests.task_api import Api, working
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("working_host")


def send(api: Api, path: Path) -> str:
    with path.open("rb") as file:
        answer = api.call("POST", "/api/file/upload", files={"file": (path.name, file)})
    assert answer.status_code == 200, answer.text
    task_id: str = answer.json()["task_id"]
    return task_id


def left_over(api: Api) -> list[Path]:
    scratch = api.live.parts.settings.tmp_path / ".scratch"
    return list(scratch.iterdir()) if scratch.exists() else []


def covered(api: Api, told: dict[str, Any]) -> dict[str, Any]:
    until(lambda: file_of(api, told["repository_id"])["cover_url"], 60)
    return file_of(api, told["repository_id"])


def test_a_film_is_stored_smaller_and_has_a_cover(api: Api, dsn: str, film: Path) -> None:
    task_id = send(api, film)
    with working(api.live, dsn):
        told = ended(api, task_id)
        assert told["status"] == "completed", told
        file = covered(api, told)

    assert (file["ext"], file["content_type"], file["size"]) == ("mp4", "video/mp4", film.stat().st_size)
    assert file["stored_size"] < file["size"]
    stored = fetched(api, file["url"])
    assert (len(stored), stored[4:8]) == (file["stored_size"], b"ftyp")
    cover = Image.open(io.BytesIO(fetched(api, file["cover_url"])))
    assert (cover.format, cover.size) == ("JPEG", (320, 180))
    assert left_over(api) == []


def test_compressing_is_seen_with_its_progress(api: Api, dsn: str, endless_film: Path) -> None:
    task_id = send(api, endless_film)  # takes longer than progress waits to be told, on any processor
    seen: list[tuple[str, float]] = []
    messages: list[str] = []

    def is_final() -> bool:
        told = status(api, task_id)
        seen.append((told["status"], told["progress"]))
        messages.append(told["message"])
        return told["status"] in ("completed", "failed")

    with working(api.live, dsn):
        until(is_final, 60)

    compressing = [progress for stage, progress in seen if stage == "compressing"]
    assert len(set(compressing)) >= 2
    assert all(30 <= progress <= 60 for progress in compressing)
    assert [progress for _, progress in seen] == sorted(progress for _, progress in seen)
    assert seen[-1] == ("completed", 100)
    assert "compressing" in messages
    assert messages[-1] == ""  # what was being done is no word on what is done


def test_a_film_that_would_grow_stays_as_it_was(api: Api, dsn: str, long_film: Path) -> None:
    task_id = send(api, long_film)
    with working(api.live, dsn, media={"crf": 1}):
        file = file_of(api, ended(api, task_id)["repository_id"])

    assert file["stored_size"] == file["size"]
    assert fetched(api, file["url"]) == long_film.read_bytes()


def test_the_cover_is_not_the_black_beginning(api: Api, dsn: str, dark_film: Path) -> None:
    task_id = send(api, dark_film)
    with working(api.live, dsn):
        file = covered(api, ended(api, task_id))

    cover = Image.open(io.BytesIO(fetched(api, file["cover_url"]))).convert("L")
    assert ImageStat.Stat(cover).mean[0] > 50


def test_there_are_no_covers_where_none_are_wanted(api: Api, dsn: str, film: Path, pool: db.Pool) -> None:
    task_id = send(api, film)
    with working(api.live, dsn, uploads={"covers": False}):
        ended(api, task_id)

    assert all_rows(pool, "SELECT model_name FROM asynch_task WHERE model_name = 'video.cover'") == []


def test_the_same_film_again_makes_no_second_cover(api: Api, dsn: str, film: Path, pool: db.Pool) -> None:
    sent = [send(api, film), send(api, film)]
    with working(api.live, dsn):
        files = {ended(api, task_id)["repository_id"] for task_id in sent}
        covered(api, status(api, sent[0]))

    assert len(files) == 1
    assert len(all_rows(pool, "SELECT id FROM asynch_task WHERE model_name = 'video.cover'")) == 1
    stored = list(api.live.parts.settings.files_path.rglob("*.mp4"))
    assert len(stored) == 1


def test_a_resumed_film_is_compressed_too_and_known_by_what_was_sent(api: Api, dsn: str, film: Path) -> None:
    data = film.read_bytes()
    headers = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    made = api.call("POST", "/api/file/tus", data, headers={**headers, "Upload-Length": str(len(data))})
    task_id = made.headers["Location"].rpartition("/")[2]
    with working(api.live, dsn):
        told = ended(api, task_id)
        assert told["status"] == "completed", told

    assert file_of(api, told["repository_id"])["stored_size"] < len(data)
    with film.open("rb") as file:
        again = api.call("POST", "/api/file/upload", files={"file": ("again.mp4", file)}).json()
    assert again["identity"] == told["repository_id"]


@pytest.mark.parametrize(
    "body",
    [
        b"\0\0\0\x18ftypmp42" + os.urandom(5000),
        b"RIFF\xff\xff\xff\x7fAVI LIST" + b"#EXTM3U\nfile:///etc/passwd\n" * 50,
    ],
)
def test_what_only_looks_like_a_film_fails_alone(
    api: Api, dsn: str, body: bytes, tmp_path: Path, film: Path, pool: db.Pool
) -> None:
    (wrong := tmp_path / "x.mp4").write_bytes(body)
    task_id, other = send(api, wrong), send(api, film)
    with working(api.live, dsn):
        told = ended(api, task_id)
        assert ended(api, other)["status"] == "completed"

    assert told["status"] == "failed"
    assert told["error"]
    assert str(tmp_path) not in told["error"]
    assert left_over(api) == []
    (row,) = all_rows(pool, f"SELECT error_code, attempt FROM asynch_task WHERE id = {task_id}")
    assert row == {"error_code": "processor_failed", "attempt": 1}


def test_a_host_runs_no_more_media_programs_than_it_may(
    make_parts: MakeParts, dsn: str, film: Path, long_film: Path, pool: db.Pool
) -> None:
    with serving(make_parts()) as live:
        api = Api(live)
        sent = [send(api.of(tenant), path) for tenant in (1, 2, 3) for path in (film, long_film)]
        most = 0

        def all_done() -> bool:
            nonlocal most
            (row,) = all_rows(pool, "SELECT count(*) AS n FROM asynch_task WHERE state = 1 AND phase = 0")
            most = max(most, row["n"])
            (left,) = all_rows(pool, "SELECT count(*) AS n FROM asynch_task WHERE NOT final")
            return bool(left["n"] == 0)

        with working(live, dsn, media={"processes": 1}):
            until(all_done, 120)

        assert most == 1
        assert [status(api.of(1 + n // 2), task_id)["status"] for n, task_id in enumerate(sent)] == ["completed"] * 6
