"""Which locks a creator goes in by, remembered: a guess that costs no query and is checked behind the locks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from asynch.store.tasks import TaskLane

_MOST = 10_000


@dataclass(slots=True)
class Gates:
    """The lock keys of lanes, by tenant and model name, as this process saw them last. Any thread."""

    _keys: dict[tuple[int, str], frozenset[int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, tenant_id: int, names: Sequence[str]) -> set[int]:
        """The keys of those that are known."""
        with self._lock:
            return {key for name in names for key in self._keys.get((tenant_id, name), ())}

    def seen(self, tenant_id: int, lanes: Iterable[TaskLane]) -> None:
        """These are their keys now."""
        with self._lock:
            if len(self._keys) >= _MOST:
                self._keys.clear()
            self._keys.update({(tenant_id, lane.model_name): frozenset(lane.ceilings) for lane in lanes})
