"""The promises of S3 storage alone: what is wrong is named, and a lost answer is no lost object."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from asynch.errors import SettingsError, StorageError
from asynch.storage import Storage
from asynch.storage.minio import MinioStorage
from tests.storages import PLAIN, admin, big_file, get, sha256_at, write

if TYPE_CHECKING:
    from tests.seaweed import Seaweed

ACTS: dict[str, Callable[[Storage, Path], object]] = {
    "put": lambda storage, path: storage.put("k", path, PLAIN),
    "exists": lambda storage, path: storage.exists("k"),
    "delete": lambda storage, path: storage.delete("k"),
    "check": lambda storage, path: storage.check(),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
def test_minio_wrong_credentials_are_a_storage_error(
    make_minio: Callable[..., MinioStorage], tmp_path: Path, act: str, wrong: str
) -> None:
    with pytest.raises(StorageError):
        ACTS[act](make_minio(**{wrong: "not-the-one"}), write(tmp_path / "f", b"x"))


@pytest.mark.parametrize("act", ACTS)
def test_minio_store_that_is_down_is_a_storage_error_at_once(
    make_minio: Callable[..., MinioStorage], tmp_path: Path, act: str
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound but not listening: refused
        storage = make_minio(endpoint=f"127.0.0.1:{nobody.getsockname()[1]}")
        began = monotonic()
        with pytest.raises(StorageError):
            ACTS[act](storage, write(tmp_path / "f", b"x"))

    assert monotonic() - began < 5


def test_minio_first_puts_at_once_share_the_new_bucket(make_minio: Callable[..., MinioStorage], tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def put(number: int) -> None:
        storage, path = make_minio(), write(tmp_path / "f", b"x")
        barrier.wait()
        storage.put(f"k{number}", path, PLAIN)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(4)))

    assert all(make_minio().exists(f"k{number}") for number in range(4))


def test_minio_signs_for_the_public_endpoint(
    make_minio: Callable[..., MinioStorage], seaweed: Seaweed, tmp_path: Path
) -> None:
    public = seaweed.endpoint.replace("127.0.0.1", "localhost")
    storage = make_minio(public_endpoint=f"http://{public}", secure=False)
    storage.put("k", write(tmp_path / "f", b"x"), PLAIN)

    url = storage.url("k", filename="f", content_type=PLAIN)

    assert urlsplit(url).netloc == public
    assert get(url).content == b"x"


def test_minio_signs_without_asking_the_store(make_minio: Callable[..., MinioStorage]) -> None:
    storage = make_minio(endpoint="127.0.0.1:1", public_endpoint="https://s3.example.org")

    url = storage.url("k", filename="f", content_type=PLAIN)

    assert url.startswith(f"https://s3.example.org/{storage._bucket}/k?")


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        ({"endpoint": "a/b"}, "storage.minio.endpoint"),
        ({"public_endpoint": "https://a/b"}, "storage.minio.public_endpoint"),
        ({"secret_key": ""}, "secret_key"),
        ({"url_ttl_s": 8 * 86400}, "storage.url_ttl"),
    ],
)
def test_minio_bad_setting_is_named(wrong: dict[str, Any], setting: str) -> None:
    good = {"endpoint": "s3:9000", "public_endpoint": "", "access_key": "a", "secret_key": "s", "bucket": "b"}
    with pytest.raises(SettingsError, match=setting):
        MinioStorage(**{**good, "secure": True, "region": "", "url_ttl_s": 60, **wrong})


@contextmanager
def proxy(
    seaweed: Seaweed, *, lose: bytes = b"(?!)", refuse: bytes = b"(?!)", times: int = 99
) -> Iterator[tuple[str, list[bytes]]]:
    """A relay to the server: answers to requests like `lose` never arrive, requests like `refuse` are cut off.

    Yields its address and the list of the requests it did that to, at most `times`.
    """
    host, port = seaweed.endpoint.split(":")
    met: list[bytes] = []

    def hit(pattern: bytes, data: bytes) -> bool:
        if len(met) < times and (found := re.match(pattern, data)):
            met.append(found.group())
            return True
        return False

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.losing = False
            with socket.create_connection((host, int(port))) as self.server_side:
                answers = threading.Thread(target=self.pass_answers)
                answers.start()
                with suppress(OSError):
                    while (data := self.request.recv(65536)) and not hit(refuse, data):
                        self.losing = self.losing or hit(lose, data)
                        self.server_side.sendall(data)
                with suppress(OSError):
                    self.server_side.shutdown(socket.SHUT_RDWR)
                answers.join()

        def pass_answers(self) -> None:
            with suppress(OSError):
                while (data := self.server_side.recv(65536)) and not self.losing:
                    self.request.sendall(data)
            with suppress(OSError):
                self.request.shutdown(socket.SHUT_RDWR)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True  # an idle kept-alive connection must not hold the test up

    with Server(("127.0.0.1", 0), Relay) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", met
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("times", [1, 99], ids=["once", "always"])
def test_minio_lost_answer_to_the_last_request_is_a_success(
    make_minio: Callable[..., MinioStorage], seaweed: Seaweed, tmp_path: Path, times: int
) -> None:
    expected = big_file(tmp_path / "big", 12)
    with proxy(seaweed, lose=b"POST /[^ ]*uploadId=", times=times) as (endpoint, lost):
        make_minio(endpoint=endpoint).put("big", tmp_path / "big", PLAIN)

    assert lost
    assert sha256_at(make_minio().url("big", filename="f", content_type=PLAIN)) == expected


def test_minio_object_of_an_earlier_put_does_not_pass_for_this_one(
    make_minio: Callable[..., MinioStorage], seaweed: Seaweed, tmp_path: Path
) -> None:
    big_file(tmp_path / "big", 12)
    make_minio().put("big", tmp_path / "big", PLAIN)

    with (
        proxy(seaweed, refuse=b"PUT /[^ ]*partNumber=2") as (endpoint, _),
        pytest.raises(StorageError),
    ):
        make_minio(endpoint=endpoint).put("big", tmp_path / "big", PLAIN)


def test_minio_failed_multipart_upload_is_aborted(
    make_minio: Callable[..., MinioStorage], seaweed: Seaweed, tmp_path: Path
) -> None:
    big_file(tmp_path / "big", 12)
    with proxy(seaweed, refuse=b"PUT /[^ ]*partNumber=2") as (endpoint, refused):
        storage = make_minio(endpoint=endpoint)
        with pytest.raises(StorageError):
            storage.put("big", tmp_path / "big", PLAIN)

    listed = admin(seaweed)._execute("GET", storage._bucket, query_params={"uploads": ""})
    assert refused
    assert b"ListMultipartUploadsResult" in listed.data
    assert b"<UploadId>" not in listed.data
