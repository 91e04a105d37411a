"""Removes files of this host's tmp_dir that no task needs any more."""

from __future__ import annotations

import logging
import time

from asynch import db
from asynch.incoming import Incoming
from asynch.store import files, workers
from asynch.worker.tmpdir import TmpDir

logger = logging.getLogger(__name__)

#: A younger file may belong to a claim whose outcome is just being written.
_YOUNG_S = 5.0
#: A received file that changed lately may belong to an upload that is just being written.
_STILL_S = 60.0
_BATCH = 1000


def sweep(pool: db.Pool, tmp: TmpDir) -> int:
    """Remove what neither is a saved result nor being written by a claim that still holds. Returns how many files.

    Whatever is no result's file by its name is left alone. Raises DatabaseDown, having removed nothing more.
    """
    now = time.time()
    old = [name for name, _, changed in tmp.listing() if now - changed > _YOUNG_S]
    found = {name: parts for name in old if (parts := tmp.parts_of(name)) is not None}
    removed = 0
    names = sorted(found)
    for start in range(0, len(names), _BATCH):
        some = {name: found[name] for name in names[start : start + _BATCH]}
        with db.connection(pool) as conn:
            known = workers.known_files(conn, some)
        for name in some.keys() - known:
            tmp.remove(name)
            removed += 1
    if removed:
        logger.info("removed left-over files", extra={"files": removed})
    return removed


def sweep_incoming(pool: db.Pool, incoming: Incoming) -> int:
    """Remove received files that no upload needs (any more), or that were never received whole. Returns how many.

    Raises DatabaseDown, having removed nothing more.
    """
    left = incoming.left(_STILL_S)
    named = {name: key for name, key in left.items() if key is not None}
    known: set[str] = set()
    names = sorted(named)
    for start in range(0, len(names), _BATCH):
        with db.connection(pool) as conn:
            known |= files.known_incoming(conn, {name: named[name] for name in names[start : start + _BATCH]})
    gone = left.keys() - known
    for name in gone:
        incoming.remove(name)
    if gone:
        logger.info("removed left-over uploads", extra={"files": len(gone)})
    return len(gone)
