"""`asynch up`: Postgres, API and worker as children that die with it, started in order and ended in order."""

from __future__ import annotations

import http.client
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import IO

from asynch import db, wiring
from asynch.embedded import EmbeddedPostgres
from asynch.errors import AsynchError, DatabaseDown, UserError
from asynch.processes import sole_user, spawn
from asynch.service import schema
from asynch.settings import Settings

logger = logging.getLogger(__name__)

_READY_S = 90.0
_LOOK_S = 0.1
#: A child that ended by itself is started again after this.
_RESTART_S = 1.0
#: How long after its connections a Postgres may end.
_END_S = 1.0
#: On top of drain_timeout, before a child that should end is killed.
_GRACE_S = 10.0


#: Exit code of a child that would end the same way again.
_OPERATORS_MISTAKE = 2


class _DatabaseEnded(AsynchError):
    """The private Postgres ended by itself."""


class Supervisor:
    """The children of one `asynch up`; they end with the thread that calls `run`, however it ends."""

    def __init__(
        self, settings: Settings, *, config: Path | None, environ: Mapping[str, str], output: IO[bytes] | None = None
    ) -> None:
        """`config` and `environ` are what the children read; `output` takes what they say, else stderr."""
        self._settings = settings
        self._output = output
        self._config = config
        self._environ = environ
        self._stop = threading.Event()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._ended_at: dict[str, float] = {}
        self._was_ready = False
        self._told: Mapping[str, str] = {}  #: the environment of the children that run

    def stop(self) -> None:
        """Drain and end everything. Any thread, and signal handlers."""
        self._stop.set()

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Run until `stop`; `on_ready` gets the API's URL once /readyz is 200.

        UserError when another process uses the data directory or port, or something does not fit the database.
        """
        with ExitStack() as held:
            held.callback(self._end_children)
            listener: socket.socket | None = None
            while not self._stop.is_set():
                try:
                    with self._database() as dsn:
                        # After the directory: who starts twice there hears of that, not of the port.
                        listener = listener or held.enter_context(_listening(self._settings))
                        self._prepare(dsn)
                        self._serve(listener, dsn, on_ready)
                except _DatabaseEnded:
                    logger.error("Postgres ended by itself, starting it again")

    @contextmanager
    def _database(self) -> Iterator[str]:
        data = self._settings.data_path
        with ExitStack() as stack:
            self._postgres: EmbeddedPostgres | None = None
            if dsn := self._settings.database.dsn.get_secret_value():
                stack.enter_context(_directory(data))
            else:
                self._postgres = EmbeddedPostgres(data)
                dsn = self._postgres.start()
                stack.callback(self._postgres.stop)
            yield dsn

    def _prepare(self, dsn: str) -> None:
        """Keys, schema and everything that must fit, before a child can trip over it."""
        box = wiring.open_box(self._settings, create=True)
        storage = wiring.make_storage(self._settings, box)
        try:
            with db.open_small_pool(dsn, name="asynch-up") as pool:
                schema.migrate(pool)
                wiring.check_fit(pool, box, storage)
        except DatabaseDown:
            self._look_at_postgres(within_s=_END_S)
            raise

    def _serve(self, listener: socket.socket, dsn: str, on_ready: Callable[[str], None]) -> None:
        roles = {"api": ["--fd", str(listener.fileno())]}
        if self._settings.worker.enabled:
            roles["worker"] = []
        environ = self._child_environ(listener, dsn)
        if environ != self._told:  # Postgres had to take another port
            self._end_children()
        self._told = environ
        try:
            for role in roles.keys() - self._children.keys():
                self._spawn(role, roles[role], environ, listener)
            if not self._was_ready and self._wait_ready(*listener.getsockname()[:2]):
                self._was_ready = True
                on_ready(_url(self._settings.server.host, listener.getsockname()[1]))
            while not self._stop.wait(_LOOK_S):
                self._look_after(roles, environ, listener)
        except _DatabaseEnded:
            raise  # the children wait for it as for any Postgres that comes back: an upload or a download goes on
        except BaseException:
            self._end_children()
            raise
        self._end_children()

    def _child_environ(self, listener: socket.socket, dsn: str) -> dict[str, str]:
        host, port = listener.getsockname()[:2]
        return {
            **self._environ,
            "ASYNCH_DATA_DIR": str(self._settings.data_path),
            "ASYNCH_DATABASE__DSN": dsn,
            "ASYNCH_SERVER__HOST": host,
            "ASYNCH_SERVER__PORT": str(port),
        }

    def _spawn(self, role: str, extra: list[str], environ: Mapping[str, str], listener: socket.socket) -> None:
        config = ["--config", str(self._config)] if self._config else []
        fds = [listener.fileno()] if role == "api" else []
        # -P: the directory `up` was started in is no place to import from.
        argv = [sys.executable, "-P", "-m", "asynch", role, *config, *extra]
        self._children[role] = spawn(argv, death_signal=signal.SIGKILL, env=environ, stdout=self._output, pass_fds=fds)

    def _wait_ready(self, host: str, port: int) -> bool:
        """Whether the API answers; False when it should stop before that. UserError when a child gives up."""
        deadline = monotonic() + _READY_S
        while monotonic() < deadline:
            if self._stop.wait(_LOOK_S):
                return False
            self._look_at_postgres()
            for role, code in self._ended():
                raise _gave_up(role, code)
            if _answers(host, port):
                return True
        raise UserError(f"not ready after {_READY_S:.0f} s; /readyz on port {port} tells why")

    def _look_at_postgres(self, within_s: float = 0.0) -> None:
        """Raise _DatabaseEnded if it has ended, or does so in this time: its connections may end before it."""
        postgres = self._postgres.process if self._postgres is not None else None
        if postgres is not None:
            with suppress(subprocess.TimeoutExpired):
                postgres.wait(within_s)
                raise _DatabaseEnded

    def _look_after(self, roles: Mapping[str, list[str]], environ: Mapping[str, str], listener: socket.socket) -> None:
        self._look_at_postgres()
        for role, code in self._ended():
            if code == _OPERATORS_MISTAKE:
                raise _gave_up(role, code)
            since = self._ended_at.setdefault(role, monotonic())
            if monotonic() - since >= _RESTART_S:
                logger.error("child ended by itself, starting it again", extra={"role": role, "exit_code": code})
                del self._ended_at[role]
                self._spawn(role, roles[role], environ, listener)

    def _ended(self) -> list[tuple[str, int]]:
        """Children that ended by themselves, with their exit codes."""
        codes = [(role, child.poll()) for role, child in self._children.items()]
        return [(role, code) for role, code in codes if code is not None]

    def _end_children(self) -> None:
        """Ask all to end; kill those that take longer than they may."""
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()
        deadline = monotonic() + self._settings.worker.drain_timeout + _GRACE_S
        for role, child in self._children.items():
            try:
                child.wait(max(0.0, deadline - monotonic()))
            except subprocess.TimeoutExpired:
                logger.error("child did not end in time, killing it", extra={"role": role})
                child.kill()
                child.wait()
        self._children.clear()


def _gave_up(role: str, code: int) -> UserError:
    return UserError(f"{role} ended with exit code {code}, it said why above")


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """The API's socket, open from before the first to after the last API process."""
    server = settings.server
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((server.host, server.port))
        except OSError as exc:
            raise UserError(f"server.host:port = {server.host}:{server.port}: {exc.strerror}") from exc
        listener.listen(1024)
        yield listener


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _answers(host: str, port: int) -> bool:
    """Whether /readyz is 200; asked without any proxy of the environment."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def _directory(path: Path) -> Iterator[None]:
    """The data directory, made where it is missing, for this process alone."""
    with ExitStack() as held:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            held.enter_context(sole_user(path))
        except OSError as exc:
            raise UserError(f"data_dir {path}: {exc.strerror}") from exc
        yield
