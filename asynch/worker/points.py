"""The named points of an attempt at which a chaos test may kill the process; in production they do nothing."""

from __future__ import annotations

import os
import signal

#: After each commit and each file or store operation of an attempt there is one of these.
POINTS = (
    "claimed",  # the claim is committed, nothing else has happened
    "tmp_created",  # an empty tmp_file
    "deferred",  # the model works on, and the row knows where
    "called",  # the whole answer is written, not yet synced
    "adopted",  # the result is a file that was on the disk already, under its own name too
    "synced",  # ... and fsynced
    "linked",  # ... and an object in storage by a second name, of which nobody knows
    "saved",  # phase 1 is committed, the slot not yet given back
    "stored",  # the object is in storage, the row does not know
    "delivered",  # state 2 is committed, the tmp_file still there
    "tmp_removed",  # the file of an attempt that needs none any more is gone
    "done",  # state 2 is committed of what leaves no result
    "failed",  # a failure is committed, the tmp_file of a failed call still there
    "released",  # the task is back in the queue
    "cancelled",  # cancelled, its files still there
    "object_removed",  # the object of a task that will not deliver it is gone
)

_wanted, _, _count = os.environ.get("CRASH_POINT", "").partition(":")
_left = int(_count or 1)


def reach(point: str) -> None:
    """Pass the point, or die there: `CRASH_POINT=saved:3` kills the process at its third passing."""
    global _left
    if point != _wanted:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
