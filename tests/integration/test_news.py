"""What sessions hear of lanes and cancellations."""

from __future__ import annotations

from asynch import db
from asynch.store import news


def test_notifications_name_their_lanes_or_say_that_there_are_too_many(pool: db.Pool, dsn: str) -> None:
    with db.open_session(dsn, name="tests") as session:
        session.execute("LISTEN asynch_lane")
        with db.transaction(pool) as conn:
            news.announce(conn, {3, 1, 2})
            news.announce(conn, set())
            news.announce(conn, range(10**6, 10**6 + 1000))
        heard = [n.payload for n in session.notifies(timeout=5, stop_after=2)]

    assert heard == ["1,2,3", "all"]


def test_cancellations_are_announced_by_name_however_many(pool: db.Pool, dsn: str) -> None:
    ids = list(range(10**18, 10**18 + 700))
    with db.open_session(dsn, name="tests") as session:
        session.execute("LISTEN asynch_cancel")
        with db.transaction(pool) as conn:
            news.announce_cancel(conn, ids)
        heard = [n.payload for n in session.notifies(timeout=5, stop_after=3)]

    assert [int(i) for payload in heard for i in payload.split(",")] == ids
