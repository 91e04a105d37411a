"""The promises of the local storage alone: no way out of its directory, nothing half, and its own place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asynch.errors import Forbidden, NotFound, SettingsError, StorageError
from asynch.storage.local import LocalStorage
from tests.storages import PLAIN, fetch, get, write

if TYPE_CHECKING:
    pass

HOSTILE = ("../x", "a/../../x", "/proc/nothing/x", "a//b", "", "a/", ".", ".store-id", ".parts/x", "a\0b", "a\\..\\b")


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
