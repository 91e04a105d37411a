"""What only the upload service's backend promises: whose headers go along, what counts as an answer, what is told."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import pytest
import requests

from asynch.errors import StorageError
from asynch.storage import http
from asynch.storage.http import HttpStorage
from tests.upload_service import Mood, UploadService
from tests.waiting import until

TOKEN = "s3cr3t-of-the-creator"
SENDER = {"Authorization": f"Bearer {TOKEN}", "X-User-Info": '{"tenantId": 7}'}
OURS = {"Authorization": "Basic service"}
ADDRESS = "https://files.example.org/7/a.bin"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"result")
    return path


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(StorageError) as caught:
        act()
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_a_file_goes_under_the_last_part_of_its_key_with_its_type(uploads: UploadService, source: Path) -> None:
    address = uploads.storage().put("7/2026/01/02/123-1.mp3", source, "audio/mpeg")

    assert address == f"{uploads.url}/files/123-1.mp3"
    assert [(seen.filename, seen.content_type) for seen in uploads.seen] == [("123-1.mp3", "audio/mpeg")]
    assert uploads.kept == {"123-1.mp3": b"result"}


def test_the_url_is_the_address_for_ever() -> None:
    storage = HttpStorage(upload_url="http://127.0.0.1:1/", url_field="fileUrl", headers={}, delete_url="")

    assert storage.url(ADDRESS, filename="f", content_type="text/plain") == ADDRESS


@pytest.mark.parametrize(
    ("sender", "seen"),
    [
        (SENDER, (SENDER["Authorization"], SENDER["X-User-Info"])),
        ({"X-User-Info": "u"}, (None, "u")),
        ({}, (OURS["Authorization"], None)),
        (None, (OURS["Authorization"], None)),
    ],
)
def test_the_senders_headers_go_along_else_the_configured_ones(
    uploads: UploadService, source: Path, sender: dict[str, str] | None, seen: tuple[str | None, str | None]
) -> None:
    uploads.storage(headers=OURS).put("k", source, "text/plain", sender=sender)

    assert [each.identity for each in uploads.seen] == [seen]


def test_after_a_401_the_configured_headers_are_tried_once_with_the_same_file(
    uploads: UploadService, source: Path
) -> None:
    uploads.allows = lambda seen: seen.identity == (OURS["Authorization"], None)
    uploads.storage(headers=OURS).put("k", source, "text/plain", sender=SENDER)

    assert [seen.identity[0] for seen in uploads.seen] == [SENDER["Authorization"], OURS["Authorization"]]
    assert uploads.kept == {"k": b"result"}


@pytest.mark.parametrize(
    ("headers", "sender", "tries"), [(OURS, SENDER, 2), (OURS, None, 1), ({}, SENDER, 1), ({}, None, 1)]
)
def test_a_401_that_stays_is_told(
    uploads: UploadService, source: Path, headers: dict[str, str], sender: dict[str, str] | None, tries: int
) -> None:
    uploads.allows = lambda seen: False
    storage = uploads.storage(headers=headers)

    assert "HTTP 401" in refusal(lambda: storage.put("k", source, "text/plain", sender=sender))
    assert len(uploads.seen) == tries


def test_a_401_before_the_body_was_read_is_heard(uploads: UploadService, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * (8 << 20))
    uploads.moods.append(Mood(401, b"", reads_nothing=True))
    uploads.storage(headers=OURS).put("k", big, "text/plain", sender=SENDER)

    assert [seen.identity[0] for seen in uploads.seen] == [SENDER["Authorization"], OURS["Authorization"]]
    assert len(uploads.kept["k"]) == 8 << 20


@pytest.mark.parametrize(
    ("url_field", "answer"),
    [
        ("fileUrl", {"fileUrl": ADDRESS}),
        ("fileUrl", {"code": 0, "data": {"fileUrl": ADDRESS}}),
        ("fileUrl", {"fileUrl": None, "data": {"fileUrl": ADDRESS}}),
        ("fileUrl", {"fileUrl": "", "data": {"fileUrl": ADDRESS}}),
        ("result.file.url", {"result": {"file": {"url": ADDRESS}}}),
        ("data.0.url", {"data": [{"url": ADDRESS}]}),
    ],
)
def test_the_url_is_found_where_the_settings_say(
    uploads: UploadService, source: Path, url_field: str, answer: object
) -> None:
    uploads.moods.append(Mood(201, json.dumps(answer).encode()))

    assert uploads.storage(url_field=url_field).put("k", source, "text/plain") == ADDRESS


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        (Mood(500, b"{}"), "HTTP 500"),
        (Mood(403, b"{}"), "HTTP 403"),
        (Mood(302, b"", headers={"Location": "http://127.0.0.1:1/"}), "HTTP 302"),
        (Mood(body=b"<html>stored</html>"), "not JSON"),
        (Mood(body=b""), "not JSON"),
        (Mood(body=b"\xff"), "not JSON"),
        (Mood(body=b"[" * 60_000), "not JSON"),
        (Mood(body=b'{"code": 500, "msg": "full"}'), "no fileUrl or data.fileUrl"),
        (Mood(body=b'["fileUrl"]'), "no fileUrl or data.fileUrl"),
        (Mood(body=b'{"fileUrl": {"a": 1}}'), "no fileUrl or data.fileUrl"),
        (Mood(body=b'{"fileUrl": "/files/k"}'), "fileUrl of the service's answer is not an http"),
        (Mood(body=b'{"data": {"fileUrl": "javascript:alert(1)"}}'), "data.fileUrl of the service's answer is not"),
        (Mood(body=b'{"fileUrl": "http:///k"}'), "is not an http"),
        (Mood(body=b'{"fileUrl": "http://[::1/k"}'), "is not an http"),
        (Mood(body=b'{"fileUrl": "http://h/a b"}'), "is not an http"),
        (Mood(body=b'{"fileUrl": "http://h/\\ud800"}'), "is not an http"),
        (Mood(body=b'{"fileUrl": "http://h/\\u0000"}'), "is not an http"),
        (Mood(body=json.dumps({"fileUrl": ADDRESS, "pad": "x" * 70_000}).encode()), "larger than 65536 bytes"),
        (Mood(body=b"{", headers={"Content-Encoding": "gzip"}), "put k: "),
        (Mood(body=b"{}", headers={"Content-Length": "9"}), "put k: "),
        (Mood(loses_answer=True), "put k: "),
    ],
)
def test_what_is_no_answer_is_a_clear_error(uploads: UploadService, source: Path, mood: Mood, said: str) -> None:
    uploads.moods.append(mood)
    storage = uploads.storage()

    assert said in refusal(lambda: storage.put("k", source, "text/plain"))
    assert len(uploads.seen) == 1


def test_an_upload_whose_answer_was_lost_comes_again_under_the_same_name(uploads: UploadService, source: Path) -> None:
    uploads.moods.append(Mood(loses_answer=True))
    storage = uploads.storage()
    refusal(lambda: storage.put("7/123-1.txt", source, "text/plain"))

    assert storage.put("7/123-1.txt", source, "text/plain") == f"{uploads.url}/files/123-1.txt"
    assert [seen.filename for seen in uploads.seen] == ["123-1.txt"] * 2
    assert uploads.kept == {"123-1.txt": b"result"}


def test_a_service_that_does_not_answer_is_given_up(
    uploads: UploadService, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_TIMEOUT_S", (1.0, 0.2))
    held = threading.Event()
    uploads.moods.append(Mood(held=held))
    storage = uploads.storage()
    try:
        assert "did not answer in time" in refusal(lambda: storage.put("k", source, "text/plain"))
    finally:
        held.set()


def test_an_answer_that_trickles_is_given_up(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_ANSWER_S", 0.2)
    done = threading.Event()

    def trickle(listener: socket.socket) -> None:
        conn, _ = listener.accept()
        with conn:
            conn.recv(1 << 16)
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
            while not done.wait(0.02):
                conn.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(trickle, listener)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        storage = HttpStorage(upload_url=url, url_field="fileUrl", headers={}, delete_url="")
        began = monotonic()
        try:
            assert "takes too long" in refusal(lambda: storage.put("k", source, "text/plain"))
        finally:
            done.set()
        with_pause = monotonic() - began
        sending.exception(5)

    assert with_pause < 5


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_service_that_is_not_there_is_a_storage_error_that_names_no_url(source: Path, host: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound but not listening: refused
        url = f"http://{host}:{nobody.getsockname()[1]}/up?token={TOKEN}"
        storage = HttpStorage(upload_url=url, url_field="fileUrl", headers=OURS, delete_url=url)
        acts = [lambda: storage.put("k", source, "text/plain"), lambda: storage.delete(ADDRESS), storage.check]
        said = [refusal(act) for act in acts]

    assert not [text for text in said if TOKEN in text or host in text]


@pytest.mark.parametrize("value", [f"{TOKEN}\r\nX: y", f" {TOKEN}", f"{TOKEN}\N{SNOWMAN}"])
def test_no_error_tells_a_header(uploads: UploadService, source: Path, value: str) -> None:
    storage = uploads.storage()

    assert TOKEN not in refusal(lambda: storage.put("k", source, "text/plain", sender={"Authorization": value}))
    assert uploads.seen == []


def test_an_error_does_not_repeat_what_the_service_says(uploads: UploadService, source: Path) -> None:
    uploads.moods.append(Mood(403, json.dumps({"msg": f"{TOKEN} may not"}).encode()))
    storage = uploads.storage()

    assert TOKEN not in refusal(lambda: storage.put("k", source, "text/plain", sender=SENDER))


def test_no_cookie_of_one_sender_goes_along_with_the_next(uploads: UploadService, source: Path) -> None:
    uploads.moods.append(Mood(body=json.dumps({"fileUrl": ADDRESS}).encode(), headers={"Set-Cookie": "session=1"}))
    storage = uploads.storage()
    for _ in range(2):
        storage.put("k", source, "text/plain", sender=SENDER)

    assert "cookie" not in uploads.seen[1].headers


def test_bytes_of_a_header_arrive_as_they_came(uploads: UploadService, source: Path) -> None:
    as_flask_gives_it = '{"userName": "伊娃"}'.encode().decode("latin-1")
    uploads.storage().put("k", source, "text/plain", sender={"X-User-Info": as_flask_gives_it})

    assert uploads.seen[0].identity == (None, as_flask_gives_it)


def test_delete_asks_nobody_without_a_delete_url(uploads: UploadService, source: Path) -> None:
    storage = uploads.storage(delete_url="")
    storage.delete(storage.put("k", source, "text/plain"))

    assert list(uploads.kept) == ["k"]


def test_delete_of_a_key_that_never_became_a_url_asks_nobody(uploads: UploadService) -> None:
    uploads.storage().delete("7/2026/01/02/123-1.mp3")

    assert uploads.asked == []


def test_delete_keeps_the_query_it_was_configured_with(uploads: UploadService, source: Path) -> None:
    storage = uploads.storage(delete_url=f"{uploads.url}/files?app=asynch")
    storage.delete(storage.put("k", source, "text/plain"))

    assert uploads.kept == {}


def test_delete_that_is_refused_is_told(uploads: UploadService) -> None:
    storage = uploads.storage(delete_url=f"{uploads.url}/upload")

    assert "HTTP 405" in refusal(lambda: storage.delete(ADDRESS))


def test_where_nothing_can_be_deleted_check_writes_once_and_then_asks(uploads: UploadService) -> None:
    storage = uploads.storage(delete_url="")

    assert "which stays" in storage.check()
    assert storage.check() == "the service answers"
    assert (uploads.asked, len(uploads.seen)) == (["GET", "OPTIONS"], 1)
    uploads.moods.append(Mood(503))
    assert "HTTP 503" in refusal(storage.check)


def test_check_notices_that_the_upload_is_refused(uploads: UploadService) -> None:
    uploads.allows = lambda seen: seen.identity == (OURS["Authorization"], None)

    assert "HTTP 401" in refusal(uploads.storage().check)
    uploads.storage(headers=OURS).check()


@pytest.mark.parametrize(("name", "said"), [("gone", "HTTP 404"), ("other", "other bytes")])
def test_check_notices_that_the_url_does_not_give_the_file(uploads: UploadService, name: str, said: str) -> None:
    (uploads.home / "other").write_bytes(b"something else")
    uploads.moods.append(Mood(body=json.dumps({"fileUrl": f"{uploads.url}/files/{name}"}).encode()))

    assert said in refusal(uploads.storage().check)


def test_our_headers_are_sent_to_no_other_service(uploads: UploadService, tmp_path: Path) -> None:
    """The URL of the answer may lead anywhere; a second service sees what arrives there."""
    heard: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        conn, _ = listener.accept()
        with conn:
            heard.append(conn.recv(1 << 16))
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nasynch")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        elsewhere = f"http://127.0.0.1:{listener.getsockname()[1]}/k"
        uploads.moods.append(Mood(body=json.dumps({"fileUrl": elsewhere}).encode()))
        pool.submit(listen, listener)
        uploads.storage(headers=OURS, delete_url="").check()

    assert heard
    assert not re.search(rb"(?i)authorization|service", heard[0])


def test_threads_share_a_storage(uploads: UploadService, source: Path) -> None:
    storage = uploads.storage()
    with ThreadPoolExecutor(8) as pool:
        puts = [
            pool.submit(storage.put, f"k{n}", source, "text/plain", sender={"X-User-Info": f"{n}"}) for n in range(24)
        ]
        addresses = [put.result(20) for put in puts]

    assert {requests.get(address, timeout=10).content for address in addresses} == {b"result"}
    assert {seen.filename: seen.identity[1] for seen in uploads.seen} == {f"k{n}": f"{n}" for n in range(24)}
    until(lambda: len(uploads.kept) == 24)
