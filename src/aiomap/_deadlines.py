"""When the attempts that run have to be over.

Invariant: all attempts of a run have the same time, so they are due in the order in which they started, and one timer
for the first of them serves all. Nothing is made or destroyed per attempt but an entry in a dict.
"""

from __future__ import annotations

import math
from typing import Final

from aiomap._call import Call

__all__ = ["GRACE", "Deadlines"]

GRACE: Final = 10.0
"""Seconds that an attempt has to end, once it was cancelled, before it is named in a warning."""


class Deadlines:
    """Attempts that may take `seconds` each."""

    def __init__(self, seconds: float) -> None:
        self.seconds: Final = seconds
        self.due: dict[Call, float] = {}  # who starts an attempt puts it here, at the end
        self.ending: dict[Call, float] = {}  # cancelled ones, and when that begins to look odd
        self._ignoring: set[Call] = set()

    def end(self, call: Call) -> bool:
        """The attempt has ended. Whether it had been cancelled because it took too long."""
        if self.due.pop(call, None) is not None or not (self.ending or self._ignoring):
            return False
        late = call in self.ending or call in self._ignoring
        self._ignoring.discard(call)
        self.ending.pop(call, None)
        return late

    def next_time(self) -> float:
        """When the next of the two questions below has another answer; inf for never."""
        return min(next(iter(of.values()), math.inf) for of in (self.due, self.ending))

    def expired(self, now: float) -> list[Call]:
        """The attempts whose time is over, which are to be cancelled; each is given once."""
        calls = _up_to(now, self.due)
        self.ending |= dict.fromkeys(calls, now + GRACE)
        return calls

    def ignoring(self, now: float) -> list[Call]:
        """The attempts that go on although they were cancelled; each is given once."""
        calls = _up_to(now, self.ending)
        self._ignoring |= set(calls)
        return calls


def _up_to(now: float, times: dict[Call, float]) -> list[Call]:
    """Takes out the entries of that time or an earlier one; the earliest come first."""
    calls: list[Call] = []
    for call, time in times.items():
        if time > now:
            break
        calls.append(call)
    for call in calls:
        del times[call]
    return calls
