"""How long the event loop has gone without a turn.

Invariant: whoever asks `is_over` often enough, and then gives way, keeps the loop from standing still for more than
`_TURN` of the asker's running time. It costs nothing per item, and one callback per turn of the loop at most.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

__all__ = ["Turn"]

# Seconds; half of the 10 ms that are promised.
_TURN: Final = 0.005


class Turn:
    """A turn of the loop, as seen by those who run in it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ends = math.inf

    def is_over(self, now: float) -> bool:
        """Whether it is time to give the loop a turn."""
        if self._ends == math.inf:
            self._ends = now + _TURN
            self._loop.call_soon(self._next)
        return now > self._ends

    def stride(self, before: int, seconds: float) -> int:
        """How many items to run before asking again, given how many they were last time and how long that took."""
        return min(2 * before, 64) if seconds < _TURN / 4 else 1

    def _next(self) -> None:
        self._ends = math.inf
