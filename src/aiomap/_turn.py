"""How long the event loop has gone without a turn.

Invariant: who asks `is_over` often enough, and gives way when it is, keeps the loop from standing still for more than
`_TURN` of the asker's own running time. It costs nothing per item, and one callback per millisecond at most.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Turn", "clock_of"]

# Seconds; together well below the 10 ms that are promised. A turn that began so shortly ago is not looked at yet.
_TURN: Final = 0.005
_FRESH: Final = 0.001
# Items.
_LONGEST: Final = 128
_LONGEST_SLOW: Final = 8


class Turn:
    """The loop's present turn. `number` goes up with each turn that somebody looked at."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self.number = 0
        self._loop = loop
        self._clock = clock
        self._began = clock()
        self._ends = math.inf

    def is_over(self, now: float) -> bool:
        """Whether it is time to give the loop a turn."""
        if self._ends == math.inf and now - self._began > _FRESH:
            self._ends = now + _TURN
            self._loop.call_soon(self._next)
        return now > self._ends

    def stride(self, before: int, seconds: float, *, turned: bool) -> int:
        """How many items to run before asking again, given how many they were last time and how long those took.

        turned: whether the loop had a turn meanwhile. Then they were suspended, and their time was not all theirs.
        """
        if seconds * 2 < _FRESH:
            return min(2 * before, _LONGEST)
        if turned:
            return min(2 * before, _LONGEST_SLOW)
        return max(1, min(int(before * _FRESH / seconds), _LONGEST))

    def _next(self) -> None:
        self.number += 1
        self._began, self._ends = self._clock(), math.inf


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The clock to tell the time by in that loop.

    A loop of another make may keep one time for a whole turn (uvloop does), which is no use inside of one. A loop built
    on asyncio's that has a clock of its own has virtual time.
    """
    virtual = type(loop).time is not asyncio.BaseEventLoop.time
    return loop.time if isinstance(loop, asyncio.BaseEventLoop) and virtual else time.monotonic
