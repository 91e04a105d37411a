"""/healthz and /readyz: whether this process lives, and whether it can do its work; names no host and no path."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from time import monotonic

from flask import Blueprint, current_app
from flask.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue

from asynch import db
from asynch.errors import DatabaseDown, UserError
from asynch.service import schema
from asynch.storage import Storage
from asynch.web import Parts, parts, problem

logger = logging.getLogger(__name__)

bp = Blueprint("health", __name__)

#: how long the storage's last answer counts, and how long a request waits for a new one, seconds
LOOK_AGAIN_S = 10.0
PATIENCE_S = 2.0
#: space that temporary files need, bytes
TMP_LEAST = 64 << 20

_WATCH = "asynch_storage_watch"


class StorageWatch:
    """What the storage last said; asked in the background, because one that is gone lets its callers wait."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._next_at = 0.0  #: of monotonic()
        self._answered = threading.Event()
        self._answered.set()
        self.works = False
        self.ever_worked = False

    def look(self) -> None:
        """Bring `works` up to date, as far as that takes no longer than PATIENCE_S."""
        with self._lock:
            if self._answered.is_set() and monotonic() >= self._next_at:
                self._next_at = monotonic() + LOOK_AGAIN_S
                self._answered.clear()
                threading.Thread(target=self._ask, name="asynch-storage-watch", daemon=True).start()
        if not self._answered.wait(PATIENCE_S):
            self.works = False

    def _ask(self) -> None:
        try:
            self._storage.check()
        except Exception as exc:  # whatever it is, the storage did not work
            logger.warning("the storage does not answer", extra={"error": str(exc)})
            self.works = False
        else:
            self.works = self.ever_worked = True
        finally:
            self._answered.set()


@bp.record
def _watch_storage(state: BlueprintSetupState) -> None:
    state.app.extensions[_WATCH] = StorageWatch(state.app.extensions["asynch"].storage)


@bp.get("/healthz")
def healthz() -> ResponseReturnValue:
    """200: the process lives."""
    return {"status": "ok"}


@bp.get("/readyz")
def readyz() -> ResponseReturnValue:
    """200 when requests can be served; a storage that stopped working makes it `degraded`, still 200."""
    checks = {**_database_checks(), "tmp": _said(_check_tmp)}
    ready = _all_ok(checks)
    watch: StorageWatch = current_app.extensions[_WATCH]
    watch.look()
    checks["storage"] = "ok" if watch.works else "failing"
    if ready and watch.ever_worked:
        return {"status": "ok" if watch.works else "degraded", "checks": checks}
    body = problem.document(503, "Not ready", "At least one of the checks fails.", "not_ready", {"checks": checks})
    return problem.answer(body, {"Retry-After": "2"})


def database_serves() -> bool:
    """Whether the database is there and fits this program; in an application context."""
    return _all_ok(_database_checks())


def _database_checks() -> dict[str, str]:
    checks = {"database": _said(_check_schema)}
    if _all_ok(checks):  # else it would wait for the same answer again
        checks["secrets"] = _said(_check_secrets)
    return checks


def _all_ok(checks: Mapping[str, str]) -> bool:
    return all(said == "ok" for said in checks.values())


def _check_schema(made_of: Parts) -> None:
    with db.connection(made_of.pool) as conn:
        schema.check_version(conn, newer=True)


def _check_secrets(made_of: Parts) -> None:
    schema.check_canary(made_of.pool, made_of.box)


def _check_tmp(made_of: Parts) -> None:
    place = made_of.settings.tmp_path
    there = next(path for path in (place, *place.parents) if path.exists())
    if (free := shutil.disk_usage(there).free) < TMP_LEAST:
        raise UserError(f"{free} bytes free, {TMP_LEAST} are needed")


def _said(check: Callable[[Parts], None]) -> str:
    """What a check says, in words that anybody may read."""
    try:
        check(parts())
    except DatabaseDown:
        return "does not answer"
    except UserError as exc:
        return str(exc)
    except Exception:
        logger.exception("a readiness check failed")
        return "failing"
    return "ok"
