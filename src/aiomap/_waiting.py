"""The items that wait to start although a slot may be free: for their time, for their key, or for their turn.

Invariant: an item stands in one place only. `ready` gives out retries before new items and lower indexes first. Behind
a busy key (a place that is not open) the items of that key wait in the same order, and only the first of them is let
out when it opens; each that starts lets out the next.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from heapq import heappop, heappush
from itertools import count
from typing import Final, TypeAlias

from aiomap._pending import Pending

__all__ = ["Place", "Waiting"]

Place: TypeAlias = tuple[int, Hashable]
"""A key of a limit: the limit's number in the run, and the key or weight that it goes by."""


# A retry goes before a new item, then the lower index goes first.
_Heap: TypeAlias = list[tuple[bool, int, Pending]]


class Waiting:
    """All waiting items of a run."""

    def __init__(self) -> None:
        self.fresh = 0  # of the items here, those that never started
        self.retrying = 0  # and those that did
        self.ready: _Heap = []
        self._parked: dict[Place, _Heap] = {}
        self._let_out: dict[Pending, Place] = {}  # from where, of those that are ready and have not started
        self.timed: list[tuple[float, int, Pending | Place]] = []
        self._number: Final = count()

    def add(self, pending: Pending, when: float) -> None:
        """An item that may start from `when` on."""
        if pending.calls:
            self.retrying += 1
        else:
            self.fresh += 1
        if when == -math.inf:
            heappush(self.ready, (not pending.calls, pending.index, pending))
        else:
            heappush(self.timed, (when, next(self._number), pending))

    def first(self) -> Pending:
        """The item whose turn it is; there must be one that is ready."""
        return self.ready[0][2]

    def take_first(self) -> Pending:
        """The first item, which starts."""
        pending = heappop(self.ready)[2]
        self._let_out.pop(pending, None)
        if pending.calls:
            self.retrying -= 1
        else:
            self.fresh -= 1
        return pending

    def is_behind(self, place: Place) -> bool:
        """Whether others wait in that place, with a better right to it than the first item has."""
        queue = self._parked.get(place)
        return queue is not None and queue[0][:2] < self.ready[0][:2]

    def park_first(self, place: Place, when: float = math.inf) -> None:
        """The first item waits for the place, which opens at `when`, or when `reopen` says so."""
        entry = heappop(self.ready)
        left = self._let_out.pop(entry[2], place)
        if left != place:  # it makes no use of the other key's turn
            self.reopen(left)
        heappush(self._parked.setdefault(place, []), entry)
        if when < math.inf:
            heappush(self.timed, (when, next(self._number), place))

    def reopen(self, place: Place) -> None:
        """The place may have room: the first item that waits for it is ready."""
        queue = self._parked.get(place)
        if queue is not None:
            entry = heappop(queue)
            heappush(self.ready, entry)
            self._let_out[entry[2]] = place
            if not queue:
                del self._parked[place]

    @property
    def parked(self) -> bool:
        """Whether items wait for a place."""
        return bool(self._parked)

    def ring(self, now: float) -> None:
        """Makes ready what waited for a time up to `now`."""
        while self.timed and self.timed[0][0] <= now:
            waited = heappop(self.timed)[2]
            if isinstance(waited, Pending):
                heappush(self.ready, (not waited.calls, waited.index, waited))
            else:
                self.reopen(waited)

    def next_time(self) -> float:
        """When to call `ring` next; inf for never."""
        return self.timed[0][0] if self.timed else math.inf
