"""The lanes that may have work and a slot: a round looks at some of them, the next one at those behind."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice


class Hot:
    """Tenants in turn, and the lanes of each in turn: ten thousand lanes cost a round no more than a hundred."""

    def __init__(self) -> None:
        self._lanes: dict[int, dict[int, None]] = {}  # by tenant; who was looked at goes to the end
        self._count = 0
        self._looked_at = 0  # since something happened

    def add(self, tenant_id: int, lane_id: int) -> None:
        """May have work."""
        of_tenant = self._lanes.setdefault(tenant_id, {})
        self._count += lane_id not in of_tenant
        of_tenant[lane_id] = None

    def drop(self, tenant_id: int, lane_id: int) -> None:
        """Has none, or no slot for it."""
        of_tenant = self._lanes.get(tenant_id, {})
        if lane_id in of_tenant:
            del of_tenant[lane_id]
            self._count -= 1
            if not of_tenant:
                del self._lanes[tenant_id]

    def turn(self, most: int, *, each: int, busy: Collection[int]) -> list[int]:
        """About so many lanes whose turn it is, at most `each` of a tenant and none of the `busy` ones."""
        lanes: list[int] = []
        for tenant_id in [*self._lanes]:
            if tenant_id in busy:
                continue
            if len(lanes) >= most:
                break
            of_tenant = self._lanes.pop(tenant_id)
            self._lanes[tenant_id] = of_tenant
            chosen = list(islice(of_tenant, each))
            for lane_id in chosen:
                del of_tenant[lane_id]
            of_tenant.update(dict.fromkeys(chosen))
            lanes += chosen
        else:
            self._looked_at = self._count
        self._looked_at += len(lanes)
        return lanes

    def begin(self) -> None:
        """Something happened: all may be worth a look again."""
        self._looked_at = 0

    @property
    def is_unseen(self) -> bool:
        """Whether there are lanes that were not looked at since something happened."""
        return self._looked_at < self._count
