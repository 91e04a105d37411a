"""The promises of every storage backend, kept by each of them; then those that only one of them can make."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asynch.errors import StorageError
from asynch.storage import Storage
from asynch.storage.http import HttpStorage
from asynch.storage.local import LocalStorage
from tests.storages import PLAIN, MakeStorage, big_file, fetch, get, objects, sha256_at, write
from tests.waiting import until

if TYPE_CHECKING:
    pass


@pytest.fixture(params=["local", "minio", "http"])
def storage(request: pytest.FixtureRequest) -> Storage:
    made: Storage = request.getfixturevalue(f"make_{request.param}")()
    return made


@pytest.fixture(params=["local", "minio"])
def make_signing(request: pytest.FixtureRequest) -> MakeStorage:
    """Those that give the names and sign the URLs themselves."""
    make: MakeStorage = request.getfixturevalue(f"make_{request.param}")
    return make


@pytest.fixture
def signing(make_signing: MakeStorage) -> Storage:
    return make_signing()


def test_what_was_put_is_what_the_url_gives(storage: Storage, tmp_path: Path) -> None:
    body = bytes(range(256)) * 100
    address = storage.put("t1/a/result.bin", write(tmp_path / "f", body), PLAIN)

    assert fetch(storage, address).content == body


def test_put_leaves_the_file_it_was_given(storage: Storage, tmp_path: Path) -> None:
    path = write(tmp_path / "f", b"result")
    storage.put("k", path, PLAIN)

    assert path.read_bytes() == b"result"


def test_object_outlives_the_file_it_came_from(storage: Storage, tmp_path: Path) -> None:
    path = write(tmp_path / "f", b"result")
    address = storage.put("k", path, PLAIN)
    path.unlink()

    assert fetch(storage, address).content == b"result"


@pytest.mark.parametrize("second", [b"two", b"another length"])
def test_same_key_again_replaces_the_object(storage: Storage, tmp_path: Path, second: bytes) -> None:
    storage.put("k", write(tmp_path / "f", b"one"), PLAIN)
    address = storage.put("k", write(tmp_path / "f", second), PLAIN)

    assert fetch(storage, address).content == second


def test_the_same_file_can_be_put_twice(storage: Storage, tmp_path: Path) -> None:
    path = write(tmp_path / "f", b"result")
    storage.put("k", path, PLAIN)
    address = storage.put("k", path, PLAIN)

    assert fetch(storage, address).content == b"result"


def test_empty_file_is_an_object_too(storage: Storage, tmp_path: Path) -> None:
    address = storage.put("k", write(tmp_path / "f", b""), PLAIN)

    response = fetch(storage, address)

    assert (response.status_code, response.content) == (200, b"")
    assert storage.exists(address)


def test_exists_says_no_before_put_and_after_delete(storage: Storage, tmp_path: Path) -> None:
    seen = [storage.exists("a/k")]
    address = storage.put("a/k", write(tmp_path / "f", b"x"), PLAIN)
    seen.append(storage.exists(address))
    storage.delete(address)
    seen.append(storage.exists(address))

    assert seen == [False, True, False]


@pytest.mark.parametrize("body", [b"", b"x" * 700_001])
def test_what_was_put_can_be_fetched(storage: Storage, tmp_path: Path, body: bytes) -> None:
    address = storage.put("t1/a/result.bin", write(tmp_path / "f", body), PLAIN)
    fetched = tmp_path / "fetched"

    storage.fetch(address, fetched)
    assert fetched.read_bytes() == body
    fetched.unlink()
    storage.fetch(address, fetched)


def test_a_fetch_of_a_missing_object_is_the_stores_failure(storage: Storage, tmp_path: Path) -> None:
    address = storage.put("t1/a/result.bin", write(tmp_path / "f", b"once"), PLAIN)
    storage.delete(address)

    with pytest.raises(StorageError):
        storage.fetch(address, tmp_path / "fetched")


def test_delete_of_a_missing_object_is_fine(storage: Storage, tmp_path: Path) -> None:
    storage.delete("never/was")
    address = storage.put("a/k", write(tmp_path / "f", b"x"), PLAIN)
    other = storage.put("a/other", write(tmp_path / "f", b"x"), PLAIN)
    storage.delete(other)
    storage.delete(other)

    assert storage.exists(address)


def test_url_of_a_missing_object_answers_404(storage: Storage, tmp_path: Path) -> None:
    address = storage.put("k", write(tmp_path / "f", b"x"), PLAIN)
    storage.delete(address)

    assert fetch(storage, address).status_code == 404


def test_a_source_that_is_gone_is_not_the_stores_failure(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.put("k", tmp_path / "gone", PLAIN)


def test_url_answers_as_a_download_with_its_type_and_unicode_name(signing: Storage, tmp_path: Path) -> None:
    signing.put("k", write(tmp_path / "f", b"x"), PLAIN)

    headers = fetch(signing, "k", filename='Großes "Bild" 图.txt').headers

    assert headers["Content-Type"].startswith(PLAIN)
    assert headers["Content-Disposition"].startswith("attachment")
    assert "filename*=UTF-8''Gro%C3%9Fes%20%22Bild%22%20%E5%9B%BE.txt" in headers["Content-Disposition"]


def test_url_answers_a_range(storage: Storage, tmp_path: Path) -> None:
    address = storage.put("k", write(tmp_path / "f", b"0123456789"), PLAIN)

    response = fetch(storage, address, Range="bytes=3-5")

    assert (response.status_code, response.content) == (206, b"345")
    assert response.headers["Content-Range"] == "bytes 3-5/10"


@pytest.mark.parametrize(("part", "other"), [("mine", "theirs"), ("report", "malware"), ("ignature=", "ignature=0")])
def test_altered_url_is_refused(signing: Storage, tmp_path: Path, part: str, other: str) -> None:
    for key in ("mine", "theirs"):
        signing.put(key, write(tmp_path / "f", b"x"), PLAIN)
    url = signing.url("mine", filename="report.txt", content_type=PLAIN)

    assert get(url).status_code == 200
    assert part in url
    assert get(url.replace(part, other)).status_code == 403


def test_url_without_its_signature_is_refused(signing: Storage, tmp_path: Path) -> None:
    signing.put("k", write(tmp_path / "f", b"x"), PLAIN)

    assert get(signing.url("k", filename="f", content_type=PLAIN).split("?")[0]).status_code == 403


def test_expired_url_is_refused(make_signing: MakeStorage, tmp_path: Path) -> None:
    storage = make_signing(url_ttl_s=1)
    storage.put("k", write(tmp_path / "f", b"x"), PLAIN)
    url = storage.url("k", filename="f", content_type=PLAIN)

    assert until(lambda: get(url).status_code != 200 and get(url).status_code) == 403


def test_public_base_makes_permanent_urls(make_signing: MakeStorage) -> None:
    storage = make_signing(public_base_url="https://cdn.example.org/files/")

    assert storage.url("a/b+c.txt", filename="f", content_type=PLAIN) == "https://cdn.example.org/files/a/b%2Bc.txt"


def test_64_mib_pass_through_a_bounded_memory(storage: Storage, tmp_path: Path) -> None:
    expected = big_file(tmp_path / "big", 64)
    storage.check()  # what is loaded or made once does not count
    tracemalloc.start()
    try:
        address = storage.put("big", tmp_path / "big", PLAIN)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 16 << 20
    assert sha256_at(storage.url(address, filename="f", content_type=PLAIN)) == expected


def test_many_puts_at_once_all_arrive(storage: Storage, tmp_path: Path) -> None:
    bodies = {f"dir{number % 3}/{number}": str(number).encode() * 1000 for number in range(24)}
    paths = {key: write(tmp_path / "f", body) for key, body in bodies.items()}
    with ThreadPoolExecutor(8) as pool:
        addresses = list(pool.map(lambda key: storage.put(key, paths[key], PLAIN), bodies))

    assert [fetch(storage, address).content for address in addresses] == list(bodies.values())


def test_a_reader_never_sees_half_of_a_replacement(storage: Storage, tmp_path: Path) -> None:
    paths = [write(tmp_path / "f", bytes([letter]) * 300_000) for letter in b"abcd"]
    address = storage.put("k", paths[0], PLAIN)
    with ThreadPoolExecutor(4) as pool:
        puts = [pool.submit(storage.put, "k", paths[number % 4], PLAIN) for number in range(24)]
        bodies: list[bytes] = []
        while not bodies or not all(put.done() for put in puts):
            bodies.append(fetch(storage, address).content)
        for put in puts:
            put.result()

    assert {(len(body), len(set(body))) for body in bodies} == {(300_000, 1)}


def test_check_passes_and_leaves_nothing(storage: Storage, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    assert storage.check() == "wrote, read and deleted an object"

    if isinstance(storage, LocalStorage):
        assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == [tmp_path / "files/.store-id"]
    elif isinstance(storage, HttpStorage):
        assert request.getfixturevalue("uploads").kept == {}
    else:
        assert list(objects(request.getfixturevalue("seaweed"), storage)) == []
