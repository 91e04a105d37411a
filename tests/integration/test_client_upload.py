"""The SDK's uploads against the real application, over connections that break."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from asynch.client import Client, RefusedError, UploadError, uploading
from tests.live import MakeParts, serving
from tests.proxy import Proxy
from tests.task_api import Api, working
from tests.waiting import until

PNG = b"\x89PNG\r\n\x1a\n" + os.urandom(3_000_000)


@pytest.fixture
def line(api: Api) -> Iterator[Proxy]:
    host = urlsplit(api.live.url)
    with Proxy((host.hostname or "", host.port or 0)) as proxy:
        yield proxy


@pytest.fixture
def client(line: Proxy) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{line.port}", retry_s=10) as made:
        yield made


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "ein Bild.png"
    path.write_bytes(PNG)
    return path


def sha256_of(api: Api, identity: str) -> str:
    told: str = api.call("GET", f"/api/file/{identity}").json()["sha256"]
    return told


def test_a_file_is_sent_and_stored(api: Api, dsn: str, client: Client, picture: Path) -> None:
    seen: list[tuple[str, float]] = []
    with working(api.live, dsn):
        stored = client.upload(picture, scene="s", tags=["red", "blue"], on_progress=lambda *told: seen.append(told))

    file = api.call("GET", f"/api/file/{stored.identity}").json()
    assert (file["name"], file["scene"], file["tags"]) == ("ein Bild.png", "s", ["red", "blue"])
    assert (stored.filename, stored.size_bytes) == ("ein Bild.png", len(PNG))
    assert file["sha256"] == hashlib.sha256(PNG).hexdigest()
    assert urlsplit(stored.url).path == urlsplit(file["url"]).path
    assert (seen[0], seen[-1]) == (("sending", 100.0), ("completed", 100.0))


def test_a_cut_between_pieces_costs_nothing(
    api: Api, dsn: str, client: Client, line: Proxy, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "PIECE_BYTES", 500_000)
    with working(api.live, dsn):
        stored = client.upload(picture, on_progress=lambda *_: line.cut())

    assert sha256_of(api, stored.identity) == hashlib.sha256(PNG).hexdigest()


def test_a_cut_within_a_piece_goes_on_from_the_last_byte_that_came(
    api: Api, dsn: str, client: Client, line: Proxy, picture: Path
) -> None:
    directory = api.live.parts.settings.tmp_path / ".incoming"
    cuts: list[int] = []

    def cut_once() -> None:
        until(lambda: any(file.stat().st_size > 100_000 for file in directory.iterdir()), 20)
        line.stall()
        cuts.append(line.cut())
        line.resume()

    cutter = threading.Thread(target=cut_once)
    cutter.start()
    with working(api.live, dsn):
        stored = client.upload(picture)
    cutter.join()

    assert cuts[0] >= 1
    assert sha256_of(api, stored.identity) == hashlib.sha256(PNG).hexdigest()


def test_a_server_that_is_away_for_a_while_is_waited_for(
    api: Api, dsn: str, client: Client, line: Proxy, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "PIECE_BYTES", 1_000_000)
    back = threading.Timer(1.0, line.accept)

    def away_once(what: str, _per_cent: float) -> None:
        if what == "sending" and not back.is_alive() and not back.finished.is_set():
            line.refuse()
            back.start()

    with working(api.live, dsn):
        stored = client.upload(picture, on_progress=away_once)
    back.join()

    assert sha256_of(api, stored.identity) == hashlib.sha256(PNG).hexdigest()


def test_another_process_goes_on_where_one_died(
    api: Api,
    dsn: str,
    client: Client,
    line: Proxy,
    picture: Path,
    make_parts: MakeParts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploading, "PIECE_BYTES", 1_000_000)
    with serving(make_parts()) as second, working(api.live, dsn):
        host = urlsplit(second.url)

        def restart(*_: object) -> None:
            line.turn_to((host.hostname or "", host.port or 0))
            line.cut()

        stored = client.upload(picture, on_progress=restart)

    assert sha256_of(api, stored.identity) == hashlib.sha256(PNG).hexdigest()


def test_known_content_has_the_identity_it_had(api: Api, dsn: str, client: Client, picture: Path) -> None:
    with working(api.live, dsn):
        first, second = client.upload(picture), client.upload(picture)

    assert first.identity == second.identity
    assert first.task_id != second.task_id


def test_a_type_that_is_not_taken_is_refused(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"MZ\x90\0" + bytes(1000))

    with pytest.raises(RefusedError) as refused:
        client.upload(path)
    assert (refused.value.status, refused.value.code) == (415, "unsupported_type")


def test_an_upload_that_is_given_up_meanwhile_ends_with_the_reason(
    api: Api, client: Client, line: Proxy, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "PIECE_BYTES", 1_000_000)

    def give_up(*_: object) -> None:
        (mine,) = api.live.call("GET", "/api/file/upload/tasks").json()["tasks"]
        api.call("DELETE", f"/api/file/tus/{mine['task_id']}", headers={"Tus-Resumable": "1.0.0"})
        line.cut()

    with pytest.raises((UploadError, RefusedError), match="ended by its sender"):
        client.upload(picture, on_progress=give_up)


def test_an_upload_that_is_not_stored_in_time_names_itself(api: Api, client: Client, picture: Path) -> None:
    with pytest.raises(UploadError) as late:
        client.upload(picture, timeout_s=0.5)

    assert late.value.code == "time_out"
    told = api.call("GET", f"/api/file/upload/progress/{late.value.task_id}").json()
    assert told["status"] in ("received", "pending")


def test_a_tag_with_a_comma_is_a_mistake_of_the_caller(client: Client, picture: Path) -> None:
    with pytest.raises(ValueError, match="commas"):
        client.upload(picture, tags=["a,b"])


def test_a_file_that_is_not_there_is_an_os_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.upload(tmp_path / "nothing")
