"""Removes files of this host's tmp_dir that no task needs any more."""

from __future__ import annotations

import logging
import time

from asynch import db
from asynch.store import workers
from asynch.worker.tmpdir import TmpDir

logger = logging.getLogger(__name__)

#: A younger file may belong to a claim whose outcome is just being written.
_YOUNG_S = 5.0
_BATCH = 1000


def sweep(pool: db.Pool, tmp: TmpDir) -> int:
    """Remove what neither is a saved result nor being written by a claim that still holds. Returns how many files.

    Whatever is no result's file by its name is left alone. Raises DatabaseDown, having removed nothing more.
    """
    now = time.time()
    old = [name for name, _, changed in tmp.listing() if now - changed > _YOUNG_S]
    files = {name: parts for name in old if (parts := tmp.parts_of(name)) is not None}
    removed = 0
    names = sorted(files)
    for start in range(0, len(names), _BATCH):
        some = {name: files[name] for name in names[start : start + _BATCH]}
        with db.connection(pool) as conn:
            known = workers.known_files(conn, some)
        for name in some.keys() - known:
            tmp.remove(name)
            removed += 1
    if removed:
        logger.info("removed left-over files", extra={"files": removed})
    return removed
