"""What processes tell each other through the database; nothing depends on its arriving, polling finds it all."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from asynch import db
from asynch.db import Connection


def announce(conn: Connection, lanes: Collection[int]) -> None:
    """Tell all workers that these lanes have work; it leaves with the commit. Polling finds it too, only later."""
    _notify(conn, "asynch_lane", lanes)


def announce_changed(conn: Connection, tasks: Collection[int]) -> None:
    """Tell whoever watches these tasks that they changed."""
    _notify(conn, "asynch_task", tasks)


def _notify(conn: Connection, channel: str, numbers: Collection[int]) -> None:
    if numbers:
        payload = ",".join(map(str, sorted(numbers)))
        # Postgres takes less than 8,000 bytes; a list cut short would name a wrong one.
        db.run(conn, "notify", channel=channel, payload=payload if len(payload) < 7000 else "all")


def announce_cancel(conn: Connection, ids: Sequence[int]) -> None:
    """Ask whoever runs these tasks to cut them; the next beat finds them too."""
    for start in range(0, len(ids), 300):
        payload = ",".join(map(str, ids[start : start + 300]))
        db.run(conn, "notify", channel="asynch_cancel", payload=payload)
