"""Where claims begin in each lane: behind what was claimed before, which a held snapshot keeps in the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from heapq import nsmallest
from time import monotonic

from asynch.store.queue import Claim

#: Rows that were created before others may be committed after them: a mark stays this far behind.
_TRAIL = timedelta(seconds=0.1)
#: Later still come tasks put back to their place, and large batches: a lane is looked at from its beginning this often,
_WHOLE_S = 1.0
#: and at once when it had fewer tasks than slots; all of that may take this part of the time.
_WHOLE_SHARE = 0.05
_NEVER = float("-inf")


class Marks:
    """The last claimed position of each lane and rank, as far as this worker knows. For the poller's thread alone.

    Whatever lies before a mark is dead, or came in later and is found by the next look from the beginning.
    """

    def __init__(self) -> None:
        self._marks: dict[int, dict[int, datetime]] = {}
        self._whole_at: dict[int, float] = {}  # when a lane was last looked at from its beginning
        self._next_whole = _NEVER

    def starts(self, lanes: Collection[int]) -> dict[int, Mapping[int, datetime]]:
        """From where on to claim in each lane, by rank; a rank that is missing is looked at from its beginning."""
        now = monotonic()
        long_ago = now - _WHOLE_S if now >= self._next_whole else _NEVER
        whole = {lane for lane in lanes if self._whole_at.get(lane, _NEVER) < long_ago}
        return {lane: {} if lane in whole else dict(self._marks.get(lane, {})) for lane in lanes}

    def after(self, lane_id: int, most: int) -> dict[int, Mapping[int, datetime]]:
        """From where on to look for tasks in the lanes after this one, so many at most."""
        return {lane: dict(self._marks[lane]) for lane in nsmallest(most, (n for n in self._marks if n > lane_id))}

    def learn(
        self,
        counts: Mapping[int, int],
        starts: Mapping[int, Mapping[int, datetime]],
        claims: Sequence[Claim],
        *,
        took_s: float,
    ) -> set[int]:
        """Note what a claim gave; returns lanes that had too few tasks and should be looked at again at once."""
        now = monotonic()
        # Lanes that are met for the first time do not count: where there are always some, no other would have its turn.
        if any(not begin and lane in self._marks for lane, begin in starts.items()):
            self._next_whole = now + took_s / _WHOLE_SHARE
        for claim in claims:
            if claim.poll_url:  # came before its turn
                continue
            enqueued_at = claim.claimed_at - timedelta(seconds=claim.waited_s)
            self._marks.setdefault(claim.lane_id, {})[claim.rank] = enqueued_at - _TRAIL
        found = Counter(claim.lane_id for claim in claims)
        again = set()
        for lane, wanted in counts.items():
            if not starts[lane]:
                self._whole_at[lane] = now
            elif found[lane] < wanted:
                self._whole_at[lane] = _NEVER
                if now >= self._next_whole:
                    again.add(lane)
        return again

    def forget(self, lane: int) -> None:
        """A lane that is closed or gone."""
        self._marks.pop(lane, None)
        self._whole_at.pop(lane, None)
