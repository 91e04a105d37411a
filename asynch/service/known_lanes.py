"""The lanes as this process saw them last: a guess that costs no query, and is checked behind the locks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from asynch.store.tasks import TaskLane

_MOST = 10_000


@dataclass(slots=True)
class KnownLanes:
    """Lanes by tenant and model name. Any thread."""

    _lanes: dict[tuple[int, str], TaskLane] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, tenant_id: int, names: Iterable[str]) -> dict[str, TaskLane]:
        """Those that are known."""
        with self._lock:
            return {name: lane for name in names if (lane := self._lanes.get((tenant_id, name))) is not None}

    def seen(self, tenant_id: int, names: Iterable[str], lanes: Sequence[TaskLane]) -> None:
        """These are the lanes of these names now; what is missing is no model any more."""
        with self._lock:
            if len(self._lanes) >= _MOST:
                self._lanes.clear()
            for name in names:
                self._lanes.pop((tenant_id, name), None)
            self._lanes.update({(tenant_id, lane.model_name): lane for lane in lanes})
