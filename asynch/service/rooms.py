"""How much room lanes have under their queueLimit, exactly, without counting for each task."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class Rooms:
    """What this process knows: up to which drawn number a lane cannot be full.

    Every task that enters any lane draws a number of one sequence. A lane that had room for r tasks when d numbers
    were drawn cannot be over its limit before number d + r is drawn, whoever drew them, on whatever host. So a
    creator counts only when that bound is used up, and then alone in the lane.
    """

    _bounds: dict[int, tuple[int, int]] = field(default_factory=dict)  # lane: (queue_limit, bound)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def covers(self, lane_id: int, *, queue_limit: int, drawn: int) -> bool:
        """Whether the task with this number surely fits."""
        with self._lock:
            known = self._bounds.get(lane_id)
        return known is not None and known[0] == queue_limit and drawn <= known[1]

    def counted(self, lane_id: int, *, queue_limit: int, drawn: int, room: int) -> None:
        """A count gave `room` when `drawn` numbers were drawn."""
        with self._lock:
            self._bounds[lane_id] = (queue_limit, drawn + max(0, room))
