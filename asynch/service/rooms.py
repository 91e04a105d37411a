"""How much room lanes have under their queueLimit, exactly, without counting for each task."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import NamedTuple

from asynch.store.tasks import Depth


class Room(NamedTuple):
    """What a count told of a lane."""

    queue_limit: int
    drawn: int  #: the last number that was drawn before it
    bound: int  #: after the former and up to this number, the lane cannot be full
    since: int  #: below which number none of its tasks is left


@dataclass(slots=True)
class Rooms:
    """What this process knows: up to which drawn number a lane cannot be full, and from where on to count again.

    Every task that enters any lane draws a number of one sequence. A lane that had room for r tasks when d numbers
    were drawn cannot be over its limit before number d + r is drawn, whoever drew them, on whatever host. So a
    creator counts only when that bound is used up, and then alone in the lane: whoever comes after it draws a higher
    number than all that it saw, so below the first of those nobody will ever be. The next count begins there, and
    has nothing to do with what a held snapshot keeps of the lane's past.
    """

    _rooms: dict[int, Room] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def known(self, lane_id: int, *, queue_limit: int) -> Room | None:
        """What the last count under this limit told."""
        with self._lock:
            room = self._rooms.get(lane_id)
        return room if room is not None and room.queue_limit == queue_limit else None

    def since(self, lane_id: int, *, queue_limit: int, drawn: int) -> int:
        """From which number on to count when `drawn` numbers are drawn.

        From the beginning where the limit is another than at the last count: creators had other locks then. And where
        fewer numbers are drawn than were at the last count: the database is another, restored from a backup.
        """
        with self._lock:
            known = self._rooms.get(lane_id)
        if known is None or known.queue_limit != queue_limit or drawn < known.drawn:
            return 0
        return known.since

    def counted(self, lane_id: int, *, queue_limit: int, drawn: int, found: Depth) -> None:
        """Someone alone in the lane found so much in it when `drawn` numbers were drawn."""
        room = max(0, queue_limit - found.depth - found.returning)
        since = drawn if found.first is None else min(found.first, drawn)
        with self._lock:
            self._rooms[lane_id] = Room(queue_limit, drawn, drawn + room, since)
