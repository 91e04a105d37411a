"""The web server of one `asynch api`: gunicorn with threads, whose workers make their own parts and die with it."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import sleep
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from asynch import cores, metrics
from asynch.incoming import Incoming
from asynch.processes import PR_SET_PDEATHSIG
from asynch.settings import Settings
from asynch.systemd import NOBODY, Manager
from asynch.web import auth, health, traces

#: a worker whose main loop says nothing for so long is replaced; requests themselves may take any time
STUCK_S = 120
#: what a request in flight gets when the server stops; long polls and streams end earlier by themselves
GRACE_S = 30
#: above the 60 s of the usual proxies, so that it is never this side that closes under a request
KEEPALIVE_S = 75
#: how soon a database that was away at the start is asked again
LOOK_S = 0.5


# Loaded before any fork: nothing should be opened between fork and prctl.
_libc = ctypes.CDLL(None)


def serve(
    app_factory: Callable[[], Flask], settings: Settings, *, fd: int | None = None, manager: Manager = NOBODY
) -> None:
    """Serve until SIGTERM or SIGINT; in each worker `app_factory` makes the application, after the fork.

    Listens on server.host and port, or on the socket `fd` that was opened before; `manager` hears when the database
    answers too. Does not return: gunicorn ends the process with its own exit code. UserError before it starts when
    the settings ask for what is not there.
    """
    auth.check_mode(settings)
    Incoming(settings.tmp_path)  # where files are received: a mistake ends this process, not a worker of it
    chosen = dict(options(settings, fd))
    if manager.is_there:
        chosen["post_worker_init"] = lambda worker: _watch_start(worker.app.wsgi(), manager)
    if settings.server.processes > 1:
        metrics.share_between_processes()
    _Server(app_factory, chosen).run()


def options(settings: Settings, fd: int | None) -> Mapping[str, Any]:
    """gunicorn's settings; nothing of its own files, environment or command line is read."""
    server = settings.server
    host = f"[{server.host}]" if ":" in server.host else server.host
    return {
        "bind": f"fd://{fd}" if fd is not None else f"{host}:{server.port}",
        "workers": server.processes,
        "worker_class": "gthread",
        "threads": server.threads,
        "worker_connections": max(1000, 4 * server.threads),
        "timeout": STUCK_S,
        "graceful_timeout": GRACE_S,
        "keepalive": KEEPALIVE_S,
        "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108 - beats never wait for a disk
        "post_fork": _die_with_parent,
        "worker_exit": _flush,
        "child_exit": _forget,
        "on_exit": _clear,
        "control_socket_disable": True,
        "accesslog": None,
        "errorlog": None,
        "logger_class": _Log,
        "loglevel": settings.log.level.lower(),
    }


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn with settings of ours and nothing else."""

    def __init__(self, app_factory: Callable[[], Flask], chosen: Mapping[str, Any]) -> None:
        self._app_factory = app_factory
        self._chosen = chosen
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._chosen.items():
            if name in self.cfg.settings:  # control_socket_disable is younger than the oldest gunicorn we take
                self.cfg.set(name, value)

    def load(self) -> Flask:
        """Runs in each worker, after the fork."""
        cores.keep_to_one(threading.Event())
        app = self._app_factory()
        gc.collect()
        gc.freeze()  # what is there by now stays: to look through it for garbage takes tens of milliseconds
        return app


class _Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own lines go where all others go."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.propagate = True


def _die_with_parent(arbiter: Any, _worker: Any) -> None:
    """Have the kernel end a worker whose arbiter was killed: nobody else would, and it keeps the port."""
    if sys.platform == "linux":
        _libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != arbiter.pid:  # it died before the kernel knew
        os._exit(1)


def _watch_start(app: Flask, manager: Manager) -> None:
    """Tell the manager, from a thread of this worker, as soon as requests find their database."""

    def watch() -> None:
        with app.app_context():
            while not health.database_serves():
                sleep(LOOK_S)
        manager.ready()

    threading.Thread(target=watch, name="asynch-start", daemon=True).start()


def _flush(_arbiter: Any, worker: Any) -> None:
    """Runs in a worker that ends; one that could not make its application has none."""
    if worker.app.callable is not None:
        traces.close(worker.app.callable)


def _forget(_arbiter: Any, worker: Any) -> None:
    metrics.forget_process(worker.pid)


def _clear(_arbiter: Any) -> None:
    metrics.stop_sharing()
