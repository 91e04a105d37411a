"""Keeps slots free for calls of workers that have just died: they may live, and need a moment to cut them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from asynch import db
from asynch.store.slots import Slot, find_dead, mourn


class Mourning:
    """Who died and is not rescued yet, and what that keeps from being used. For the poller's thread alone."""

    def __init__(self, session: db.Connection, *, worker_id: int, tenant_most: int) -> None:
        self._session = session
        self._worker_id = worker_id
        self._tenant_most = tenant_most
        self.dead: Mapping[int, bool] = {}  #: workers noticed dead; whether their mourning is over
        self.calls: Mapping[int, int] = {}  #: lanes and permits where calls of theirs may be open, and how many

    def somebody_died(self) -> bool:
        """Look for the dead; whether there are any."""
        self.dead = find_dead(self._session, worker_id=self._worker_id)
        return bool(self.dead)

    def usable(self, won: Sequence[Slot], asked: Mapping[int, int]) -> tuple[list[Slot], list[Slot]]:
        """The slots that may be used, and those that may not: one for each call of the dead, and what is too many.

        Who holds so many free slots at this moment knows that all calls of the living and of the dead together are not
        more than the lane's.
        """
        self.calls = {}
        if self.somebody_died():
            self.calls = mourn(self._session, self.dead, tenant_most=self._tenant_most)
        usable: list[Slot] = []
        spared: list[Slot] = []
        to_spare, to_use = Counter(self.calls), Counter(asked)
        for slot in won:
            if to_spare[slot.lane_id] > 0:
                to_spare[slot.lane_id] -= 1
                spared.append(slot)
            elif to_use[slot.lane_id] > 0:
                to_use[slot.lane_id] -= 1
                usable.append(slot)
            else:  # the mourning ended meanwhile
                spared.append(slot)
        return usable, spared
