"""Removes files of this host's tmp_dir that no task needs any more."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from time import monotonic

from asynch import db
from asynch.domain import filetype
from asynch.domain.principal import Caller, Principal, Role
from asynch.domain.uploads import Status
from asynch.errors import DatabaseDown, StorageError
from asynch.incoming import Incoming, Left
from asynch.service import uploads
from asynch.storage import Linking, Storage
from asynch.store import files, workers
from asynch.worker.outcomes import key_of
from asynch.worker.tmpdir import TmpDir

logger = logging.getLogger(__name__)

_SWEEP_S = 10.0
#: A directory in trouble is swept this often: what a dead process left may be all that fills it.
_SWEEP_SOON_S = 5.0
#: A younger file may belong to a claim whose outcome is just being written.
_YOUNG_S = 5.0
#: A received file that changed lately may belong to an upload that is just being written.
_STILL_S = 60.0
_BATCH = 1000


def run(
    pool: db.Pool, tmp: TmpDir, storage: Storage, incoming: Incoming, part_ttl_s: float, stop: threading.Event
) -> None:
    """Sweep both until `stop`."""
    swept_at = float("-inf")
    while not stop.is_set():
        if tmp.trouble or monotonic() - swept_at >= _SWEEP_S:
            swept_at = monotonic()
            try:
                if sweep(pool, tmp, storage) + sweep_incoming(pool, incoming, part_ttl_s=part_ttl_s):
                    tmp.freed()
            except (DatabaseDown, db.Error, OSError, StorageError) as exc:
                logger.warning("sweep failed, will retry", extra={"error": str(exc)})
        stop.wait(_SWEEP_SOON_S)


def sweep(pool: db.Pool, tmp: TmpDir, storage: Storage) -> int:
    """Remove what neither is a saved result nor being written by a claim that still holds. Returns how many files.

    Whatever is no result's file by its name is left alone. Raises DatabaseDown, StorageError, having removed nothing
    more.
    """
    now = time.time()
    old = [name for name, _, changed in tmp.listing() if now - changed > _YOUNG_S]

    def remove(name: str) -> None:
        if isinstance(storage, Linking):
            _remove_object(pool, tmp, storage, name)
        tmp.remove(name)

    removed = _remove_unknown(pool, tmp, old, remove) + _remove_unknown(pool, tmp, tmp.scratches(), tmp.remove_scratch)
    if removed:
        logger.info("removed left-over files", extra={"files": removed})
    return removed


def _remove_object(pool: db.Pool, tmp: TmpDir, storage: Linking, name: str) -> None:
    """Remove the object that this file became, if its worker died before anybody knew of it.

    What a row names was delivered. Of a row that is gone nobody can tell: then the object stays.
    """
    path, parts = tmp.file(name), tmp.parts_of(name)
    try:
        if parts is None or path.stat().st_nlink == 1:
            return
        ext = filetype.sniff_file(path).ext
    except FileNotFoundError:
        return
    tenant_id, task_id, attempt = parts
    with db.connection(pool) as conn:
        found = workers.find_attempt(conn, tenant_id=tenant_id, task_id=task_id, attempt=attempt)
    if found is None:
        return
    began, named = found
    key = key_of(tenant_id, began, task_id, attempt, ext)
    if key != named and storage.holds(key, path):
        storage.delete(key)


def _remove_unknown(pool: db.Pool, tmp: TmpDir, names: list[str], remove: Callable[[str], None]) -> int:
    found = {name: parts for name in sorted(names) if (parts := tmp.parts_of(name)) is not None}
    removed = 0
    for some in _batches(list(found)):
        with db.connection(pool) as conn:
            known = workers.known_files(conn, {name: found[name] for name in some})
        for name in set(some) - known:
            remove(name)
            removed += 1
    return removed


def _batches(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _BATCH):
        yield names[start : start + _BATCH]


def sweep_incoming(pool: db.Pool, incoming: Incoming, *, part_ttl_s: float) -> int:
    """Remove received files that no upload needs (any more), or that were never received whole. Returns how many.

    An upload whose last byte came long ago has expired, unless all are there: then it goes on. Raises DatabaseDown.
    """
    left = incoming.left(_STILL_S)
    gone = {file.name for file in left if file.upload is None}
    named = [file for file in left if file.upload is not None]
    for start in range(0, len(named), _BATCH):
        some = named[start : start + _BATCH]
        _end_old(pool, incoming, some, part_ttl_s)
        with db.connection(pool) as conn:
            known = files.known_incoming(conn, {file.name: file.upload for file in some if file.upload})
        gone |= {file.name for file in some} - known
    for name in gone:
        incoming.remove(name)
    if gone:
        logger.info("removed left-over uploads", extra={"files": len(gone)})
    return len(gone)


def _end_old(pool: db.Pool, incoming: Incoming, left: list[Left], part_ttl_s: float) -> None:
    """Go on with uploads that are whole, and fail those whose time is over."""
    sizes = {file.upload: file for file in left if file.upload and not file.beside}
    with db.connection(pool) as conn:
        pending = files.pending_uploads(conn, list(sizes))
    for key, length in pending.items():
        file = sizes[key]
        with db.transaction(pool) as conn:
            if file.size_bytes == length:
                kind = incoming.partial(*key, length).kind
                caller = Caller(Principal(key[0], "", Role.USER))
                uploads.take_in(conn, incoming.host_id, caller, key[1], kind.content_type)
            elif file.age_s > part_ttl_s:
                files.end_upload(
                    conn,
                    tenant_id=key[0],
                    upload_id=key[1],
                    status=Status.FAILED,
                    error="its bytes did not come in time",
                )
