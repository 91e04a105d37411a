"""The promises of every storage backend, kept by each of them; then those that only one of them can make."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID, uuid4

import pytest
import requests
from flask import Flask, request, send_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minio import Minio
from werkzeug.serving import make_server

from asynch.errors import Forbidden, NotFound, SettingsError, StorageError
from asynch.storage import Storage
from asynch.storage.http import HttpStorage
from asynch.storage.local import LocalStorage
from asynch.storage.minio import MinioStorage

if TYPE_CHECKING:
    from tests.seaweed import Seaweed
    from tests.upload_service import UploadService

MakeStorage = Callable[..., Storage]
PLAIN = "text/plain"
HOSTILE = ("../x", "a/../../x", "/proc/nothing/x", "a//b", "", "a/", ".", ".store-id", ".parts/x", "a\0b", "a\\..\\b")


@pytest.fixture
def make_local(tmp_path: Path) -> Iterator[Callable[..., LocalStorage]]:
    """Local storages in `tmp_path/files`, their URLs served the way the web layer does it."""
    app = Flask("files")
    app.register_error_handler(Forbidden, lambda _: ("", 403))
    app.register_error_handler(NotFound, lambda _: ("", 404))
    server = make_server("127.0.0.1", 0, app, threaded=True)

    def make(**options: Any) -> LocalStorage:
        given = {"base_url": f"http://127.0.0.1:{server.server_port}", "signing_key": b"k" * 32, "url_ttl_s": 60}
        return LocalStorage(tmp_path / "files", **{**given, **options})

    @app.get("/files/<path:key>")
    def serve(key: str) -> Any:
        served = make().verify(key, request.args)
        kind, name = served.content_type, served.filename
        return send_file(served.path, mimetype=kind, as_attachment=True, download_name=name, conditional=True)

    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
    thread.start()
    yield make
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def make_minio(seaweed: Seaweed) -> Callable[..., MinioStorage]:
    """Storages on the real S3 server, all in one fresh bucket that nobody has made yet."""
    bucket = f"bucket-{uuid4().hex}"

    def make(**options: Any) -> MinioStorage:
        given = {
            "endpoint": seaweed.endpoint,
            "public_endpoint": "",
            "access_key": seaweed.access_key,
            "secret_key": seaweed.secret_key,
            "bucket": bucket,
            "secure": False,
            "region": "us-east-1",
            "url_ttl_s": 60,
        }
        return MinioStorage(**{**given, **options})

    return make


@pytest.fixture
def make_http(uploads: UploadService) -> Callable[..., HttpStorage]:
    return uploads.storage


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


@pytest.fixture
def local(make_local: Callable[..., LocalStorage]) -> LocalStorage:
    return make_local()


def fetch(storage: Storage, address: str, *, filename: str = "f.txt", **headers: str) -> requests.Response:
    return get(storage.url(address, filename=filename, content_type=PLAIN), **headers)


def get(url: str, **headers: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, headers=headers, timeout=10)


def write(path: Path, body: bytes) -> Path:
    """A new file each time: a storage may keep a link to the one it was given."""
    path = path.with_name(f"{path.name}-{uuid4().hex}")
    path.write_bytes(body)
    return path


def big_file(path: Path, mib: int) -> str:
    """Write `mib` MiB, no two alike; answers their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as out:
        for number in range(mib):
            block = number.to_bytes(4, "big") * (1 << 18)
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def sha256_at(url: str) -> str:
    digest = hashlib.sha256()
    with requests.get(url, stream=True, timeout=10) as response:
        assert response.status_code == 200
        for block in response.iter_content(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
    deadline = monotonic() + 10

    while (status := get(url).status_code) == 200 and monotonic() < deadline:
        sleep(0.05)

    assert status == 403


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


@pytest.mark.parametrize("key", HOSTILE)
def test_local_refuses_keys_that_are_not_plain_names(local: LocalStorage, tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "f", b"x")
    for act in (lambda: local.put(key, path, PLAIN), lambda: local.exists(key), lambda: local.delete(key)):
        with pytest.raises(StorageError):
            act()
    with pytest.raises(Forbidden):
        local.verify(key, {})


def test_local_does_not_follow_links_out_of_its_directory(local: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (tmp_path / "files" / "way-out").symlink_to(tmp_path / "outside")

    with pytest.raises(StorageError):
        local.exists("way-out/secret")


def test_local_tells_altered_expired_and_missing_apart(make_local: Callable[..., LocalStorage]) -> None:
    def refusal(storage: LocalStorage, **changed: str) -> str:
        args = dict(parse_qsl(urlsplit(storage.url("k", filename="f", content_type=PLAIN)).query))
        with pytest.raises((Forbidden, NotFound)) as caught:
            storage.verify("k", {**args, **changed})
        return caught.value.code

    assert refusal(make_local(), type="text/html") == "link_invalid"
    assert refusal(make_local(), expires="99999999999") == "link_invalid"
    assert refusal(make_local(), signature="é") == "link_invalid"
    assert refusal(make_local(url_ttl_s=-1)) == "link_expired"
    assert refusal(make_local()) == "not_found"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filename=st.text(st.characters(codec="utf-8")), content_type=st.text(st.characters(codec="utf-8")))
def test_local_url_brings_any_name_and_type_back(
    local: LocalStorage, tmp_path: Path, filename: str, content_type: str
) -> None:
    if not local.exists("k"):
        local.put("k", write(tmp_path / "f", b"x"), PLAIN)
    url = urlsplit(local.url("k", filename=filename, content_type=content_type))
    served = local.verify("k", dict(parse_qsl(url.query, keep_blank_values=True)))

    assert (served.filename, served.content_type) == (filename, content_type)


def test_local_link_of_another_store_is_refused(make_local: Callable[..., LocalStorage]) -> None:
    url = make_local(signing_key=b"another").url("k", filename="f", content_type=PLAIN)

    assert get(url).status_code == 403


def test_local_takes_a_file_from_another_file_system(local: LocalStorage, elsewhere: Path, tmp_path: Path) -> None:
    local.put("a/k", write(elsewhere / "f", b"from afar"), PLAIN)

    assert fetch(local, "a/k").content == b"from afar"
    assert list((tmp_path / "files/.parts").iterdir()) == []


def test_local_put_of_the_same_file_twice_leaves_no_part(local: LocalStorage, tmp_path: Path) -> None:
    path = write(tmp_path / "f", b"x")
    local.put("k", path, PLAIN)
    local.put("k", path, PLAIN)

    assert list((tmp_path / "files/.parts").iterdir()) == []


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory that no hard link reaches from `tmp_path`."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    directory = shm / f"asynch-{uuid4().hex}"
    directory.mkdir()
    yield directory
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


#: puts 4 MiB where no file may grow over 1 MiB: the copy fails half-way, or with "die" the kernel ends the process
PUT_TOO_MUCH = """
import resource, signal, sys
from pathlib import Path
from asynch.storage.local import LocalStorage
root, source, how = sys.argv[1:]
storage = LocalStorage(Path(root), base_url="", signing_key=b"k", url_ttl_s=1)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
if how == "die":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
storage.put("k", Path(source), "text/plain")
"""


def put_too_much(root: Path, elsewhere: Path, how: str) -> subprocess.CompletedProcess[str]:
    source = write(elsewhere / "f", b"x" * (4 << 20))
    command = [sys.executable, "-c", PUT_TOO_MUCH, str(root), str(source), how]
    where = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": where}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)


def test_local_leftover_of_a_killed_put_is_no_object_and_is_swept(
    local: LocalStorage, elsewhere: Path, tmp_path: Path
) -> None:
    killed = put_too_much(tmp_path / "files", elsewhere, "die")

    assert killed.returncode == -signal.SIGXFSZ
    assert not local.exists("k")
    assert local.sweep(older_than_s=3600) == 0
    assert local.sweep(older_than_s=0) == 1
    assert list((tmp_path / "files/.parts").iterdir()) == []


def test_local_put_that_fails_half_way_leaves_nothing(local: LocalStorage, elsewhere: Path, tmp_path: Path) -> None:
    failed = put_too_much(tmp_path / "files", elsewhere, "fail")

    assert "StorageError: put k:" in failed.stderr
    assert not local.exists("k")
    assert list((tmp_path / "files/.parts").iterdir()) == []


def test_local_sweep_keeps_the_part_of_an_old_file(local: LocalStorage, tmp_path: Path) -> None:
    path = write(tmp_path / "f", b"x")
    os.utime(path, (0, 0))  # a tmp_file that waited for days
    (tmp_path / "files/.parts/now.part").hardlink_to(path)

    assert local.sweep(older_than_s=3600) == 0


def test_local_delete_removes_the_directories_it_emptied(local: LocalStorage, tmp_path: Path) -> None:
    local.put("a/b/c/k", write(tmp_path / "f", b"x"), PLAIN)
    local.put("a/other", write(tmp_path / "f", b"x"), PLAIN)

    local.delete("a/b/c/k")

    assert [path.name for path in (tmp_path / "files/a").iterdir()] == ["other"]


def test_local_put_survives_deletes_that_prune_its_directory(local: LocalStorage, tmp_path: Path) -> None:
    path, done = write(tmp_path / "f", b"x"), threading.Event()

    def delete_all_the_time() -> None:
        while not done.is_set():
            local.delete("a/b/c/other")

    with ThreadPoolExecutor(2) as pool:
        deletes = [pool.submit(delete_all_the_time) for _ in range(2)]
        try:
            lost = [number for number in range(60) if not put_and_look(local, path)]
        finally:
            done.set()
        for delete in deletes:
            delete.result()

    assert lost == []


def put_and_look(local: LocalStorage, path: Path) -> bool:
    """Put into a directory that did not exist, and say whether the object is there; then make it empty again."""
    local.put("a/b/c/k", path, PLAIN)
    there = local.exists("a/b/c/k")
    local.delete("a/b/c/k")
    return there


def test_local_store_id_stays_with_the_directory(make_local: Callable[..., LocalStorage], tmp_path: Path) -> None:
    first = make_local()
    other = LocalStorage(tmp_path / "other", base_url="", signing_key=b"k", url_ttl_s=1)

    assert make_local().store_id == first.store_id == str(UUID(first.store_id))
    assert other.store_id != first.store_id


def test_local_first_starts_at_once_agree_on_the_store_id(make_local: Callable[..., LocalStorage]) -> None:
    barrier = threading.Barrier(8)

    def start() -> str:
        barrier.wait()
        return make_local().store_id

    with ThreadPoolExecutor(8) as pool:
        ids = {future.result() for future in [pool.submit(start) for _ in range(8)]}

    assert len(ids) == 1


@pytest.mark.parametrize("found", [str(uuid4()), "", "garbage"], ids=["other", "empty", "garbage"])
def test_local_check_notices_another_directory_in_its_place(local: LocalStorage, tmp_path: Path, found: str) -> None:
    (tmp_path / "files/.store-id").write_text(found)

    with pytest.raises(StorageError):
        local.check()


def test_local_put_into_a_directory_that_vanished_fails_and_does_not_make_it(
    local: LocalStorage, tmp_path: Path
) -> None:
    (tmp_path / "files").rename(tmp_path / "unmounted")

    with pytest.raises(StorageError):
        local.put("a/k", write(tmp_path / "f", b"x"), PLAIN)
    assert not (tmp_path / "files").exists()


def test_local_directory_that_is_a_file_is_the_operators_mistake(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"storage\.local\.dir"):
        LocalStorage(write(tmp_path / "f", b""), base_url="", signing_key=b"k", url_ttl_s=1)


ACTS: dict[str, Callable[[Storage, Path], object]] = {
    "put": lambda storage, path: storage.put("k", path, PLAIN),
    "exists": lambda storage, path: storage.exists("k"),
    "delete": lambda storage, path: storage.delete("k"),
    "check": lambda storage, path: storage.check(),
}


def admin(seaweed: Seaweed) -> Minio:
    return Minio(seaweed.endpoint, seaweed.access_key, seaweed.secret_key, secure=False, region="us-east-1")


def objects(seaweed: Seaweed, storage: Storage) -> list[str]:
    assert isinstance(storage, MinioStorage)
    found = admin(seaweed).list_objects(bucket_name=storage._bucket, recursive=True)
    return [str(each.object_name) for each in found]


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
