"""The tmp_dir: whole and durable results, one host id, and no call while it is full or broken."""

from __future__ import annotations

import hashlib
import os
import resource
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynch.domain.filetype import HEAD_BYTES
from asynch.errors import TmpUnavailable, UserError
from asynch.worker import tmpdir
from asynch.worker.tmpdir import TmpDir

FULL = Path("/dev/full")  #: every write to it fails as on a full disk
needs_full = pytest.mark.skipif(not FULL.exists(), reason="only Linux has a file that is always full")


@pytest.fixture
def tmp(tmp_path: Path) -> TmpDir:
    return TmpDir(tmp_path / "tmp", max_bytes=1000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time as the module sees it."""
    now = [1000.0]
    monkeypatch.setattr(tmpdir, "monotonic", lambda: now[0])
    return now


# -- result files --------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=HEAD_BYTES), max_size=4))
def test_a_result_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    with TmpDir(tmp_path_factory.mktemp("t"), max_bytes=1).create("r") as file:
        for piece in pieces:
            assert file.write(piece) == len(piece)
        file.sync()

    assert file.path.read_bytes() == whole
    assert (file.size_bytes, file.sha256, file.head) == (
        len(whole), hashlib.sha256(whole).hexdigest(), whole[:HEAD_BYTES],
    )  # fmt: skip


def test_what_is_written_is_on_disk_before_the_file_is_closed(tmp: TmpDir) -> None:
    with tmp.create("r") as file:
        file.write(b"abc")

        assert tmp.file("r").read_bytes() == b"abc"


@needs_full
def test_a_full_disk_is_not_the_models_fault(tmp: TmpDir) -> None:
    tmp.file("r").symlink_to(FULL)

    with tmp.create("r") as file, pytest.raises(TmpUnavailable, match="No space left"):
        file.write(b"x")


def test_a_result_that_fits_only_in_part_is_not_taken_for_whole(tmp: TmpDir) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with tmp.create("r") as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # the kernel takes ten bytes and then no more
        try:
            with pytest.raises(TmpUnavailable, match="cannot write"):
                file.write(b"x" * 20)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@needs_full
def test_a_result_that_cannot_be_made_durable_is_not_the_models_fault(tmp: TmpDir) -> None:
    tmp.file("r").symlink_to(FULL)

    with tmp.create("r") as file, pytest.raises(TmpUnavailable, match="cannot sync"):
        file.sync()


def test_a_file_that_cannot_be_made_is_not_the_models_fault(tmp: TmpDir) -> None:
    tmp.file("r").mkdir()

    with pytest.raises(TmpUnavailable, match="cannot create"):
        tmp.create("r")


def test_a_new_attempt_replaces_what_an_old_one_left(tmp: TmpDir) -> None:
    tmp.file("r").write_bytes(b"old and longer")
    with tmp.create("r") as file:
        file.write(b"new")

    assert tmp.file("r").read_bytes() == b"new"


# -- names ---------------------------------------------------------------------------------------------------------

int64 = st.integers(-(2**63), 2**63 - 1)


@given(int64, st.integers(0, 2**63 - 1), st.integers(0, 2**31 - 1))
def test_a_name_tells_whose_result_it_is(tenant_id: int, task_id: int, attempt: int) -> None:
    assert TmpDir.parts_of(TmpDir.name_of(tenant_id, task_id, attempt)) == (tenant_id, task_id, attempt)


@given(st.from_regex(r"-?[0-9]{1,20}_[0-9]{1,20}_[0-9]{1,11}", fullmatch=True) | st.text("019-_²a", max_size=40))
def test_a_name_with_an_owner_is_the_one_its_owner_writes(name: str) -> None:
    parts = TmpDir.parts_of(name)

    assert parts is None or TmpDir.name_of(*parts) == name


@pytest.mark.parametrize(
    "name", ["", "1_2", "1_2_3_4", "²_1_1", "007_1_1", "-0_1_1", "--1_1_1", "1_1_-1", f"1_{2**63}_1", "1_1_2147483648"]
)
def test_a_stranger_in_the_directory_is_left_alone(name: str) -> None:
    assert TmpDir.parts_of(name) is None


# -- the host ------------------------------------------------------------------------------------------------------


def test_a_directory_keeps_its_host_id(tmp: TmpDir) -> None:
    assert TmpDir(tmp.path, max_bytes=1).host_id == tmp.host_id


def test_two_directories_are_two_hosts(tmp: TmpDir, tmp_path: Path) -> None:
    assert TmpDir(tmp_path / "other", max_bytes=1).host_id != tmp.host_id


def test_workers_that_start_together_in_one_directory_are_one_host(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: TmpDir(tmp_path / "tmp", max_bytes=1).host_id, range(32)))

    assert len(set(made)) == 1
    assert [entry.name for entry in os.scandir(tmp_path / "tmp")] == [".host-id"]


def test_the_directory_is_closed_to_other_users(tmp: TmpDir) -> None:
    assert stat.S_IMODE(tmp.path.stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_is_the_operators_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match=r"worker\.tmp_dir"):
        TmpDir(tmp_path / "file" / "tmp", max_bytes=1)


# -- whether a call may start --------------------------------------------------------------------------------------


def test_an_empty_directory_takes_calls(tmp: TmpDir) -> None:
    tmp.look()

    assert (tmp.may_start(0), tmp.may_start(5), tmp.trouble) == (True, True, "")


def test_above_tmp_max_no_call_starts_until_there_is_room(tmp: TmpDir) -> None:
    tmp.file("1_1_1").write_bytes(b"x" * 1001)
    tmp.look()
    assert not tmp.may_start(0)
    assert "tmp_max is 1000" in tmp.trouble

    tmp.remove("1_1_1")
    tmp.look()

    assert tmp.may_start(0)


def test_just_at_tmp_max_calls_start(tmp: TmpDir) -> None:
    tmp.file("1_1_1").write_bytes(b"x" * 1000)
    tmp.look()

    assert (tmp.may_start(0), tmp.used_bytes) == (True, 1000)


def test_a_result_that_could_not_be_written_stops_calls_for_a_while(tmp: TmpDir, clock: list[float]) -> None:
    tmp.block("disk full")
    tmp.look()
    assert (tmp.may_start(0), tmp.trouble) == (False, "disk full")

    clock[0] += 0.5
    tmp.look()

    assert tmp.may_start(0)


def test_the_pause_doubles_up_to_a_minute_and_starts_small_again_after_a_success(
    tmp: TmpDir, clock: list[float]
) -> None:
    def pause_s() -> float:
        tmp.block("x")
        began = clock[0]
        while tmp.trouble:
            clock[0] += 0.25
            tmp.look()
        return clock[0] - began

    assert [pause_s() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    tmp.worked()
    assert pause_s() == 0.5


def test_no_pause_outlasts_what_made_it_necessary(tmp: TmpDir, clock: list[float]) -> None:
    for _ in range(9):
        tmp.block("disk full")
    tmp.freed()
    tmp.look()

    assert tmp.may_start(0)


def test_after_trouble_calls_come_one_at_a_time_until_a_result_was_written(tmp: TmpDir, clock: list[float]) -> None:
    tmp.block("x")
    clock[0] += 1
    tmp.look()
    assert (tmp.may_start(0), tmp.may_start(1)) == (True, False)

    tmp.worked()

    assert tmp.may_start(1)


def test_a_directory_that_is_gone_is_trouble_not_a_crash(tmp: TmpDir) -> None:
    tmp.file(".host-id").unlink()
    tmp.path.rmdir()

    tmp.look()

    assert not tmp.may_start(0)


@needs_full
def test_a_full_disk_is_seen_before_a_call_starts(tmp: TmpDir) -> None:
    tmp.file(".probe").symlink_to(FULL)

    tmp.look()

    assert not tmp.may_start(0)
    assert "No space left" in tmp.trouble


def test_looking_leaves_nothing_behind_and_counts_only_results(tmp: TmpDir) -> None:
    tmp.look()

    assert [entry.name for entry in os.scandir(tmp.path)] == [".host-id"]
    assert (tmp.used_bytes, tmp.listing()) == (0, [])


def test_a_result_that_goes_while_the_directory_is_listed_is_left_out(
    tmp: TmpDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    @contextmanager
    def slow_scandir(path: Path) -> Iterator[list[os.DirEntry[str]]]:
        with scandir(path) as entries:
            found = list(entries)
        tmp.remove("1_1_1")
        yield found

    for name in ("1_1_1", "1_2_1"):
        tmp.file(name).write_bytes(b"abc")
    monkeypatch.setattr(os, "scandir", slow_scandir)

    assert [(name, size) for name, size, _ in tmp.listing()] == [("1_2_1", 3)]


def test_removing_what_is_gone_is_fine(tmp: TmpDir) -> None:
    tmp.remove("1_1_1")
