"""Resumable uploads to the letter of tus 1.0.0, and with a client that somebody else wrote."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from tusclient.client import TusClient

from asynch import db
from asynch.incoming import Incoming
from asynch.worker.sweep import sweep_incoming
from tests.live import MakeParts, serving
from tests.sending import completed, fetched, incoming, status
from tests.task_api import Api, problem, working
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("working_host")

PNG = b"\x89PNG\r\n\x1a\n" + os.urandom(300_000)
PIECE = {"Content-Type": "application/offset+octet-stream"}


def coded(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


def tus(api: Api, method: str, upload: str = "", body: bytes = b"", **headers: str) -> requests.Response:
    given = {"Tus-Resumable": "1.0.0", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return api.call(
        method, f"/api/file/tus{upload and '/'}{upload}", body, headers={k: v for k, v in given.items() if v}
    )


def begin(api: Api, length: int = len(PNG), **metadata: str) -> str:
    made = tus(api, "POST", Upload_Length=str(length), Upload_Metadata=coded(filename="a.png", **metadata))
    assert made.status_code == 201, made.text
    return made.headers["Location"].rpartition("/")[2]


def patch(api: Api, upload: str, offset: int, piece: bytes, **headers: str) -> requests.Response:
    return tus(api, "PATCH", upload, piece, Upload_Offset=str(offset), **PIECE, **headers)


def offset_of(api: Api, upload: str) -> int:
    answer = tus(api, "HEAD", upload)
    assert answer.status_code == 200
    return int(answer.headers["Upload-Offset"])


# The life of an upload


def test_a_file_comes_in_pieces_and_is_stored(api: Api, dsn: str) -> None:
    upload = begin(api, scene="s", tags="red,blue")
    assert status(api, upload)["status"] == "pending"
    assert patch(api, upload, 0, PNG[:100_000]).headers["Upload-Offset"] == "100000"
    assert offset_of(api, upload) == 100_000
    last = patch(api, upload, 100_000, PNG[100_000:])
    assert (last.status_code, last.headers["Upload-Offset"]) == (204, str(len(PNG)))
    assert status(api, upload)["status"] == "received"

    with working(api.live, dsn):
        told = completed(api, upload)
    assert fetched(api, told["oss_path"]) == PNG
    file = api.call("GET", f"/api/file/{told['repository_id']}").json()
    assert (file["sha256"], file["tags"]) == (hashlib.sha256(PNG).hexdigest(), ["red", "blue"])
    assert offset_of(api, upload) == len(PNG)


def test_a_stranger_client_resumes_after_a_cut(api: Api, dsn: str, tmp_path: Any) -> None:
    source = tmp_path / "a.png"
    source.write_bytes(PNG)
    headers = {"X-User-Info": '{"tenantId": 0, "userName": "eva", "role": "user"}'}
    client = TusClient(f"{api.live.url}/api/file/tus", headers=headers)
    url = f"{api.live.url}/api/file/tus/{begin(api)}"  # the public URL of the settings is not where this server is
    with source.open("rb") as stream:
        client.uploader(file_stream=stream, chunk_size=70_000, url=url).upload_chunk()
    with source.open("rb") as stream:
        again = client.uploader(file_stream=stream, chunk_size=50_000, url=url)
        assert again.offset == 70_000
        again.upload()

    with working(api.live, dsn):
        assert fetched(api, completed(api, url.rpartition("/")[2])["oss_path"]) == PNG


def test_a_first_piece_may_come_with_the_creation(api: Api) -> None:
    made = tus(api, "POST", body=PNG[:5000], Upload_Length=str(len(PNG)), **PIECE)

    assert (made.status_code, made.headers["Upload-Offset"]) == (201, "5000")


def test_known_content_needs_no_bytes(api: Api, dsn: str) -> None:
    upload = begin(api)
    patch(api, upload, 0, PNG)
    with working(api.live, dsn):
        identity = completed(api, upload)["repository_id"]

    again = begin(api, sha256=hashlib.sha256(PNG).hexdigest())
    assert offset_of(api, again) == len(PNG)
    assert status(api, again)["repository_id"] == identity


def test_an_upload_that_is_given_up_is_gone(api: Api) -> None:
    upload = begin(api)
    patch(api, upload, 0, PNG[:1000])
    assert tus(api, "DELETE", upload).status_code == 204

    assert tus(api, "HEAD", upload).status_code == 410
    assert patch(api, upload, 1000, b"x").status_code == 410
    assert incoming(api) == []


def test_a_whole_upload_cannot_be_given_up(api: Api) -> None:
    upload = begin(api)
    patch(api, upload, 0, PNG)

    assert tus(api, "DELETE", upload).status_code == 409


# The letter of the protocol


def test_options_tells_what_there_is(api: Api) -> None:
    told = api.call("OPTIONS", "/api/file/tus")

    assert told.status_code == 204
    assert told.headers["Tus-Version"] == "1.0.0"
    assert set(told.headers["Tus-Extension"].split(",")) == {
        "creation", "creation-with-upload", "checksum", "expiration", "termination",
    }  # fmt: skip
    assert "sha1" in told.headers["Tus-Checksum-Algorithm"].split(",")
    assert told.headers["Tus-Max-Size"] == str(api.live.parts.settings.uploads.max_size)


@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE"])
def test_another_version_is_refused_with_ours(api: Api, method: str) -> None:
    answer = tus(api, method, "" if method == "POST" else "1", Tus_Resumable="0.2.2")

    assert answer.status_code == 412
    assert (answer.headers["Tus-Version"], answer.headers["Tus-Resumable"]) == ("1.0.0", "1.0.0")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload_Length": "-1"},
        {"Upload_Length": "1.5"},
        {"Upload_Length": "9" * 40},
        {"Upload_Defer_Length": "1"},
        {"Upload_Length": "5", "Upload_Metadata": "a b64,a b64"},
        {"Upload_Length": "5", "Upload_Metadata": "filename !!!"},
    ],
)
def test_a_creation_that_makes_no_sense_is_a_400(api: Api, headers: dict[str, str]) -> None:
    assert tus(api, "POST", **headers).status_code == 400
    assert incoming(api) == []


def test_a_file_that_would_be_too_large_is_refused_before_a_byte(api: Api) -> None:
    most = api.live.parts.settings.uploads.max_size

    assert tus(api, "POST", Upload_Length=str(most + 1)).status_code == 413


def test_a_piece_at_another_offset_changes_nothing(api: Api) -> None:
    upload = begin(api)
    patch(api, upload, 0, PNG[:1000])

    assert problem(patch(api, upload, 999, b"xx")) == (409, "wrong_offset")
    assert patch(api, upload, 2000, b"xx").status_code == 409
    assert offset_of(api, upload) == 1000


def test_a_piece_of_another_type_is_a_415(api: Api) -> None:
    upload = begin(api)

    assert tus(api, "PATCH", upload, b"x", Upload_Offset="0", Content_Type="text/plain").status_code == 415


def test_more_bytes_than_announced_are_refused_and_those_that_fit_stay(api: Api) -> None:
    upload = begin(api, 1000)

    assert patch(api, upload, 0, PNG[:1500]).status_code == 413
    assert offset_of(api, upload) == 1000
    assert status(api, upload)["status"] == "received"


def test_the_answer_tells_when_it_expires(api: Api) -> None:
    upload = begin(api)
    expires = parsedate_to_datetime(patch(api, upload, 0, PNG[:10]).headers["Upload-Expires"]).timestamp()

    assert abs(expires - time.time() - 86_400) < 60


def test_the_metadata_comes_back_as_it_was_sent(api: Api) -> None:
    upload = begin(api, note="mine")

    assert tus(api, "HEAD", upload).headers["Upload-Metadata"] == coded(filename="a.png", note="mine")
    assert tus(api, "HEAD", upload).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_piece_with_its_checksum_is_kept(api: Api, algorithm: str) -> None:
    upload = begin(api)
    digest = base64.b64encode(hashlib.new(algorithm, PNG[:5000]).digest()).decode()

    assert patch(api, upload, 0, PNG[:5000], Upload_Checksum=f"{algorithm} {digest}").status_code == 204
    assert offset_of(api, upload) == 5000


def test_a_piece_with_another_checksum_is_not_kept(api: Api) -> None:
    upload = begin(api)
    digest = base64.b64encode(hashlib.sha1(b"other").digest()).decode()

    assert patch(api, upload, 0, PNG[:5000], Upload_Checksum=f"sha1 {digest}").status_code == 460
    assert patch(api, upload, 0, PNG[:5000], Upload_Checksum=f"crc7 {digest}").status_code == 400
    assert offset_of(api, upload) == 0


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_client_that_knows_only_post_says_what_it_means(api: Api, method: str) -> None:
    upload = begin(api)
    answer = tus(api, "POST", upload, PNG[:10], Upload_Offset="0", X_HTTP_Method_Override=method, **PIECE)

    assert answer.status_code == 204
    assert tus(api, "HEAD", upload).status_code == (200 if method == "PATCH" else 410)


def test_an_empty_file_is_whole_at_once(make_parts: MakeParts) -> None:
    with serving(make_parts(uploads={"types": ["application/*"]})) as live:
        api = Api(live)
        made = tus(api, "POST", Upload_Length="0")
        assert made.status_code == 201
        assert status(api, made.headers["Location"].rpartition("/")[2])["status"] == "received"


# Whose it is, and what it may be


def test_an_upload_is_its_tenants_alone(api: Api) -> None:
    upload, other = begin(api), api.of(9)

    assert [tus(other, method, upload).status_code for method in ("HEAD", "DELETE")] == [404, 404]
    assert patch(other, upload, 0, b"x").status_code == 404
    assert offset_of(api, upload) == 0


def test_a_type_that_is_not_taken_is_refused_when_it_can_be_told(api: Api) -> None:
    upload = begin(api, 200_000)

    assert patch(api, upload, 0, b"MZ\x90\0" + bytes(70_000)).status_code == 415
    assert tus(api, "HEAD", upload).status_code == 410
    assert status(api, upload)["error"].startswith("files of this type are not taken")
    assert incoming(api) == []


# Cut connections, other processes, hanging senders


def test_what_came_before_a_cut_stays(api: Api) -> None:
    upload = begin(api)
    with hanging(api, upload, PNG[:123_456]):
        pass

    until(lambda: size(api, upload) == 123_456, 10)
    assert offset_of(api, upload) == 123_456


def test_a_second_client_takes_over_from_one_that_hangs(api: Api) -> None:
    upload = begin(api)
    with hanging(api, upload, PNG[:262_144]) as line:
        until(lambda: size(api, upload) == 262_144, 10)
        began = time.monotonic()
        assert offset_of(api, upload) == 262_144
        assert patch(api, upload, 262_144, PNG[262_144:280_000]).status_code == 204
        assert time.monotonic() - began < 5
        line.sendall(b"late" * 10_000)  # the first one wakes up
        assert answer_of(line) == 409

    assert offset_of(api, upload) == 280_000


def test_pieces_may_reach_different_processes(api: Api, make_parts: MakeParts) -> None:
    upload = begin(api)
    with serving(make_parts()) as second:
        other = Api(second)
        for at in range(0, len(PNG), 50_000):
            assert patch(other if at % 100_000 else api, upload, at, PNG[at : at + 50_000]).status_code == 204

    assert status(api, upload)["status"] == "received"


def test_another_host_says_that_it_is_elsewhere(api: Api, make_parts: MakeParts, tmp_path: Any) -> None:
    upload = begin(api)
    with serving(make_parts(worker={"tmp_dir": str(tmp_path / "elsewhere")})) as second:
        assert problem(patch(Api(second), upload, 0, b"x")) == (503, "other_host")


def test_racing_clients_never_mix_their_bytes(api: Api, dsn: str) -> None:
    upload = begin(api)

    def race() -> None:
        while (at := int(tus(api, "HEAD", upload).headers["Upload-Offset"])) < len(PNG):
            patch(api, upload, at, PNG[at : at + 30_000])

    racers = [threading.Thread(target=race) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    with working(api.live, dsn):
        assert fetched(api, completed(api, upload)["oss_path"]) == PNG


# What is left over


def test_an_upload_killed_before_its_end_was_noted_ends_with_the_next_look(api: Api) -> None:
    upload = begin(api)
    file = api.live.parts.settings.tmp_path / ".incoming" / f"0_{upload}"
    file.write_bytes(PNG)  # as a process does that dies right after its last byte

    assert offset_of(api, upload) == len(PNG)
    assert status(api, upload)["status"] == "received"


def test_an_unfinished_upload_goes_when_it_has_expired(api: Api, pool: db.Pool) -> None:
    upload, young = begin(api), begin(api)
    patch(api, upload, 0, PNG[:1000])
    place = api.live.parts.settings.tmp_path / ".incoming"
    for name in incoming(api):
        age = 90_000 if name.startswith(f"0_{upload}") else 3_600
        os.utime(place / name, (time.time() - age, time.time() - age))

    assert sweep_incoming(pool, Incoming(api.live.parts.settings.tmp_path), part_ttl_s=86_400) == 2
    assert tus(api, "HEAD", upload).status_code == 410
    assert status(api, upload)["status"] == "failed"
    assert offset_of(api, young) == 0


def size(api: Api, upload: str) -> int:
    return (api.live.parts.settings.tmp_path / ".incoming" / f"0_{upload}").stat().st_size


class hanging:  # noqa: N801 - reads as a verb where it is used
    """A PATCH that has sent a part of its piece and then nothing more; cut at the end."""

    def __init__(self, api: Api, upload: str, part: bytes) -> None:
        host = urlsplit(api.live.url)
        self.line = socket.create_connection((host.hostname or "", host.port or 0), timeout=10)
        head = (
            f"PATCH /api/file/tus/{upload} HTTP/1.1\r\nHost: {host.netloc}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
            f"Content-Type: {PIECE['Content-Type']}\r\nContent-Length: {len(PNG)}\r\n\r\n"
        )
        self.line.sendall(head.encode() + part)

    def __enter__(self) -> socket.socket:
        return self.line

    def __exit__(self, *_: object) -> None:
        self.line.close()


def answer_of(line: socket.socket) -> int:
    return int(line.recv(64).split()[1])
