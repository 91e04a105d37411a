"""Uploads by form: streamed to the disk, known by content, stored by a worker, held to type and size."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from websockets.sync.client import connect

from asynch import db
from asynch.cleaner.purge import purge
from asynch.incoming import Incoming
from asynch.worker.sweep import sweep_incoming
from tests.database import all_rows
from tests.live import MakeParts, serving
from tests.sending import completed, fetched, incoming, status
from tests.task_api import CLEANER, Api, problem, working
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("working_host")

PNG = b"\x89PNG\r\n\x1a\n" + bytes(2000)


def send(api: Api, data: bytes = PNG, name: str = "a picture.png", **fields: str) -> requests.Response:
    form: dict[str, Any] = {key: (None, value) for key, value in fields.items()}
    return api.call("POST", "/api/file/upload", files={"file": (name, data), **form})


def refused(answer: requests.Response, status: int) -> dict[str, Any]:
    assert problem(answer)[0] == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_file_is_received_at_once_and_stored_by_a_worker(api: Api, dsn: str) -> None:
    answer = send(api)
    assert answer.status_code == 200
    assert answer.json()["status"] == "received"
    task_id = answer.json()["task_id"]
    assert status(api, task_id)["status"] == "received"
    assert status(api, task_id)["progress"] == 10

    with working(api.live, dsn):
        told = completed(api, task_id)

    assert told["filename"] == "a picture.png"
    assert told["file_size"] == len(PNG)
    assert told["progress"] == 100
    assert fetched(api, told["oss_path"]) == PNG


def test_the_file_tells_what_it_is(api: Api, dsn: str) -> None:
    sent = send(api, scene="avatar", tags="red, blue,red", upload_id="u-1").json()
    with working(api.live, dsn):
        identity = completed(api, sent["task_id"])["repository_id"]

    told = api.call("GET", f"/api/file/{identity}").json()
    assert told["sha256"] == hashlib.sha256(PNG).hexdigest()
    assert (told["name"], told["ext"], told["content_type"]) == ("a picture.png", "png", "image/png")
    assert (told["size"], told["stored_size"]) == (len(PNG), len(PNG))
    assert (told["scene"], told["tags"]) == ("avatar", ["red", "blue"])
    assert (told["parent"], told["derived"], told["actions"], told["cover_url"]) == (None, [], [], None)


def test_known_content_is_complete_at_once(api: Api, dsn: str) -> None:
    first = send(api).json()
    with working(api.live, dsn):
        identity = completed(api, first["task_id"])["repository_id"]

    again = send(api, name="other.png").json()
    assert (again["identity"], again["status"]) == (identity, "completed")


def test_a_hash_alone_names_known_content(api: Api, dsn: str) -> None:
    sha256 = hashlib.sha256(PNG).hexdigest()
    unknown = api.call("POST", "/api/file/upload", files={"sha256": (None, sha256)})
    assert refused(unknown, 404)["code"] == "content_unknown"
    first = send(api).json()
    with working(api.live, dsn):
        identity = completed(api, first["task_id"])["repository_id"]

    known = api.call("POST", "/api/file/upload", files={"sha256": (None, sha256.upper())}).json()
    assert known["identity"] == identity


def test_content_is_known_within_its_tenant_alone(api: Api, dsn: str) -> None:
    first = send(api).json()
    with working(api.live, dsn):
        completed(api, first["task_id"])

    other = api.of(8)
    assert "task_id" in send(other).json()
    assert refused(other.call("GET", f"/api/file/upload/progress/{first['task_id']}"), 404)["code"] == "not_found"


def test_the_same_content_twice_at_once_is_one_file(api: Api, dsn: str) -> None:
    sent = [send(api).json()["task_id"] for _ in range(4)]
    with working(api.live, dsn):
        told = [completed(api, task_id) for task_id in sent]

    assert len({t["repository_id"] for t in told}) == 1
    assert {fetched(api, t["oss_path"]) for t in told} == {PNG}
    files = list(api.live.parts.settings.files_path.rglob("*.png"))
    assert len(files) == 1


@pytest.mark.parametrize(
    "body",
    [os.urandom(500_000), b"\r\n" * 200_000, b"\r" + b"x" * 300_000 + b"\r\n--", b"\n--\r" * 100_000, b"-" * 400_000],
)
def test_whatever_the_bytes_are_they_arrive(api: Api, dsn: str, body: bytes) -> None:
    sent = PNG + body
    task_id = send(api, sent).json()["task_id"]
    with working(api.live, dsn):
        assert fetched(api, completed(api, task_id)["oss_path"]) == sent


def test_a_type_is_told_by_content_not_by_name(api: Api) -> None:
    told = refused(send(api, b"MZ\x90\0" + bytes(100), "cat.png"), 415)

    assert told["code"] == "unsupported_type"
    assert told["error"] == told["detail"]
    assert incoming(api) == []


def test_a_file_over_the_size_is_refused_while_it_comes(make_parts: MakeParts) -> None:
    with serving(make_parts(uploads={"max_size": 300_000})) as live:
        api = Api(live)
        assert refused(send(api, PNG + bytes(600_000)), 413)["limitBytes"] == 300_000
        assert refused(chunked(api, PNG + bytes(350_000)), 413)["limitBytes"] == 300_000
        assert send(api, (PNG + bytes(300_000))[:300_000]).status_code == 200
        assert len(incoming(api)) == 1


def chunked(api: Api, data: bytes) -> requests.Response:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    pieces = iter([head, data, b"\r\n--x--\r\n"])
    return api.live.session.post(
        f"{api.live.url}/api/file/upload", data=pieces, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("a\u202egnp.exe", "agnp.exe"),
        ("..", "file"),
        ("é" * 300 + ".png", "é" * 238 + ".png"),
    ],
)
def test_a_hostile_name_is_shown_without_its_teeth(api: Api, name: str, shown: str) -> None:
    task_id = send(api, name=name).json()["task_id"]

    assert status(api, task_id)["filename"] == shown


def test_a_form_without_a_file_says_so(api: Api) -> None:
    empty = api.call("POST", "/api/file/upload", files={"scene": (None, "x")})
    assert refused(empty, 422)["errors"][0]["pointer"] == "#/file"
    wrong = api.call("POST", "/api/file/upload", files={"picture": ("a.png", PNG)})
    assert refused(wrong, 422)["errors"][0]["pointer"] == "#/file"
    two = api.call("POST", "/api/file/upload", files=[("file", ("a.png", PNG)), ("file", ("b.png", PNG))])
    assert refused(two, 422)["errors"][0]["pointer"] == "#/file"
    assert refused(api.call("POST", "/api/file/upload", {"file": "x"}), 415)["status"] == 415
    assert refused(send(api, sha256="0" * 64), 422)["errors"][0]["pointer"] == "#/sha256"
    assert refused(send(api, nonsense="1"), 422)["errors"][0]["pointer"] == "#/nonsense"
    assert incoming(api) == []


def test_a_form_that_breaks_off_leaves_nothing(api: Api) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    broken = api.live.session.post(
        f"{api.live.url}/api/file/upload", data=head + PNG, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )

    assert refused(broken, 400)["code"] == "malformed_body"
    assert incoming(api) == []


def test_a_list_shows_the_callers_own_newest_first(api: Api) -> None:
    ids = [send(api, PNG + bytes([n])).json()["task_id"] for n in range(3)]
    send(api.of(0, "user").of(0), PNG + b"x")
    send(api.of(9), PNG)

    page = api.call("GET", "/api/file/upload/tasks?page=2&size=2").json()
    assert (page["total"], page["page"], page["size"]) == (4, 2, 2)
    assert [t["task_id"] for t in page["tasks"]] == [ids[1], ids[0]]
    assert set(page["tasks"][0]) == {"task_id", "filename", "status", "progress", "created_at"}


def test_a_tenant_uploads_no_more_often_than_it_may(make_parts: MakeParts) -> None:
    with serving(make_parts(uploads={"per_tenant_rate": "2/min"})) as live:
        api = Api(live)
        assert [send(api).status_code for _ in range(3)] == [200, 200, 429]
        assert send(api.of(5)).status_code == 200


def test_a_received_file_stays_until_it_is_stored_and_then_goes(api: Api, dsn: str, pool: db.Pool) -> None:
    kept = Incoming(api.live.parts.settings.tmp_path)
    task_id = send(api).json()["task_id"]
    (name,) = incoming(api)
    grow_old(api, name)
    assert sweep_incoming(pool, kept, part_ttl_s=60) == 0

    with working(api.live, dsn):
        completed(api, task_id)
    assert (sweep_incoming(pool, kept, part_ttl_s=60), incoming(api)) == (1, [])


def grow_old(api: Api, name: str) -> None:
    long_ago = time.time() - 3600
    os.utime(api.live.parts.settings.tmp_path / ".incoming" / name, (long_ago, long_ago))


def test_what_a_killed_process_left_goes_and_what_is_being_written_stays(
    api: Api, pool: db.Pool, tmp_path: Path
) -> None:
    place = Incoming(api.live.parts.settings.tmp_path)
    with place.receive() as coming:
        coming.write(PNG)
        left = api.live.parts.settings.tmp_path / ".incoming" / ("0" * 32)
        left.write_bytes(PNG)
        nobodys = left.with_name(place.name_of(0, 12))
        nobodys.write_bytes(PNG)
        for name in incoming(api):
            grow_old(api, name)
        assert sweep_incoming(pool, place, part_ttl_s=60) == 2
        assert len(incoming(api)) == 1


def test_an_upload_whose_file_is_gone_fails_with_the_reason(api: Api, dsn: str, pool: db.Pool) -> None:
    task_id = send(api).json()["task_id"]
    (name,) = incoming(api)
    (api.live.parts.settings.tmp_path / ".incoming" / name).unlink()

    with working(api.live, dsn):
        until(lambda: status(api, task_id)["status"] == "failed", 20)
    assert status(api, task_id)["error"] == "the received file is gone"
    (row,) = all_rows(pool, "SELECT status, error_msg FROM asynch_upload")
    assert row == {"status": "failed", "error_msg": "the received file is gone"}


def test_an_upload_that_the_cleaner_failed_keeps_its_reason_when_its_task_goes(api: Api, pool: db.Pool) -> None:
    task_id = send(api).json()["task_id"]
    with db.transaction(pool) as conn:
        conn.execute(
            "UPDATE asynch_task SET state = 3, final = true, error_msg = 'waited too long', finished_at = now(),"
            " wake_at = now() - interval '1 second'"
        )
    assert status(api, task_id)["error"] == "waited too long"

    purge(pool, CLEANER, api.live.parts.storage)
    assert all_rows(pool, "SELECT id FROM asynch_task") == []
    assert (status(api, task_id)["status"], status(api, task_id)["error"]) == ("failed", "waited too long")


def test_a_file_outlives_the_task_that_stored_it(api: Api, dsn: str, pool: db.Pool) -> None:
    task_id = send(api).json()["task_id"]
    with working(api.live, dsn):
        told = completed(api, task_id)
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_task SET wake_at = now() - interval '1 second'")
    purge(pool, replace(CLEANER, delete_results=True), api.live.parts.storage)

    assert all_rows(pool, "SELECT id FROM asynch_task") == []
    assert fetched(api, completed(api, task_id)["oss_path"]) == PNG
    assert told["repository_id"] == completed(api, task_id)["repository_id"]


def test_a_file_waits_for_a_worker_of_its_own_host(api: Api, dsn: str, pool: db.Pool, tmp_path: Path) -> None:
    task_id = send(api).json()["task_id"]
    elsewhere = {
        "threads": 4,
        "uploaders": 2,
        "poll_interval": 0.1,
        "drain_timeout": 0,
        "tmp_dir": str(tmp_path / "other"),
    }
    with working(api.live, dsn, worker=elsewhere):
        other = api.of(3)
        api.model(baseUrl="http://127.0.0.1:9/")
        marker = api.create()
        until(lambda: api.status(marker)["attempt"] > 0, 20)
        assert status(other.of(0, "admin"), task_id)["status"] == "received"
    with working(api.live, dsn):
        completed(api, task_id)


def test_no_room_for_a_file_is_said_and_leaves_nothing(api: Api) -> None:
    directory = api.live.parts.settings.tmp_path / ".incoming"
    directory.rmdir()
    try:
        assert refused(send(api), 507)["code"] == "no_room"
    finally:
        directory.mkdir()


def test_a_socket_tells_each_stage_and_ends_with_the_last(api: Api, dsn: str) -> None:
    task_id = send(api).json()["task_id"]
    address = f"{api.live.url.replace('http', 'ws')}/api/file/upload/ws/{task_id}"
    headers = {"X-User-Info": '{"tenantId": 0, "role": "admin"}'}
    with connect(address, additional_headers=headers, proxy=None) as line, working(api.live, dsn):
        told = [json.loads(message) for message in line]

    assert told[0]["status"] == "received"
    assert [t["progress"] for t in told] == sorted(t["progress"] for t in told)
    assert told[-1]["status"] == "completed"
    assert told[-1]["repository_id"] == status(api, task_id)["repository_id"]


def test_a_socket_of_a_completed_upload_tells_just_that(api: Api, dsn: str) -> None:
    task_id = send(api).json()["task_id"]
    with working(api.live, dsn):
        completed(api, task_id)
    address = f"{api.live.url.replace('http', 'ws')}/api/file/upload/ws/{task_id}"
    with connect(address, proxy=None) as line:
        assert [json.loads(message)["status"] for message in line] == ["completed"]


def test_hanging_senders_leave_threads_for_everybody_else(make_parts: MakeParts) -> None:
    with serving(make_parts(server={"threads": 4})) as live, ExitStack() as lines:
        api = Api(live)
        host = urlsplit(live.url)

        def hang() -> None:
            line = lines.enter_context(socket.create_connection((host.hostname or "", host.port or 0), timeout=10))
            line.sendall(
                b"POST /api/file/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )

        # one that comes while a file of ours has the seat is refused, so as many as it takes
        until(lambda: send(api).status_code == 503 or hang(), 10)
        assert refused(send(api), 503)["code"] == "overloaded"
        assert api.call("GET", "/api/file/upload/tasks").status_code == 200


def test_a_host_without_workers_hands_its_files_over_to_others(
    api: Api, dsn: str, pool: db.Pool, tmp_path: Path
) -> None:
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_host SET seen_at = now() - interval '1 day'")
    task_id = send(api).json()["task_id"]
    assert incoming(api) == []

    elsewhere = {"threads": 4, "uploaders": 2, "poll_interval": 0.1, "drain_timeout": 0, "tmp_dir": str(tmp_path / "b")}
    with working(api.live, dsn, worker=elsewhere):
        told = completed(api, task_id)
        assert fetched(api, told["oss_path"]) == PNG
        until(lambda: not api.live.parts.storage.exists(f"0/direct/{task_id}"), 10)


SCANNERS = {
    "import sys; sys.exit(b'bad' in open(sys.argv[1], 'rb').read())": ["completed", "failed"],
    "import sys; sys.exit(0)": ["completed", "completed"],
}


@pytest.mark.parametrize("program", SCANNERS)
def test_a_scan_refuses_what_it_does_not_like(api: Api, dsn: str, program: str) -> None:
    good, bad = send(api).json()["task_id"], send(api, PNG + b"bad").json()["task_id"]
    command = shlex.join([sys.executable, "-c", program])
    with working(api.live, dsn, uploads={"scan_command": command}):
        until(lambda: {status(api, t)["status"] for t in (good, bad)} <= {"completed", "failed"}, 20)

    assert [status(api, t)["status"] for t in (good, bad)] == SCANNERS[program]
    if SCANNERS[program][1] == "failed":
        assert status(api, bad)["error"] == "the file was refused by the scan of this installation"


@pytest.mark.parametrize("command", ["/nowhere/scanner", f"{sys.executable} -c 'import sys; sys.exit(2)'"])
def test_a_scan_that_does_not_work_lets_nothing_through(api: Api, dsn: str, pool: db.Pool, command: str) -> None:
    task_id = send(api).json()["task_id"]
    with working(api.live, dsn, uploads={"scan_command": command}):
        until(lambda: all_rows(pool, "SELECT 1 AS n FROM asynch_task WHERE state = 3 AND NOT final"), 20)

    assert status(api, task_id)["status"] == "received"
