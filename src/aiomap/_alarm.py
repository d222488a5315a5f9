"""One timer of the engine, set again and again.

Invariant: there is never more than one handle in the loop for an alarm, and it is set anew only for an earlier time
than it has: with ten thousand waiting items, setting it for each would cost more than all else.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

__all__ = ["Alarm"]


class Alarm:
    """Calls `ring` at the time it was set for, or earlier: who is called looks at the clock, and sets it again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float], ring: Callable[[], object]) -> None:
        self._loop, self._now, self._call = loop, now, ring
        self._handle: asyncio.TimerHandle | None = None
        self.time = math.inf

    def set(self, time: float) -> None:
        """Sees to it that `ring` is called by that time; inf: no need."""
        if time >= self.time:
            return
        self.off()
        self.time = time
        if isinstance(self._loop, asyncio.BaseEventLoop):
            # The very time that was asked for, so that what is due at it is due when the alarm rings.
            self._handle = self._loop.call_at(time, self._ring)
        else:
            self._handle = self._loop.call_later(max(0.0, time - self._now()), self._ring)

    def off(self) -> None:
        """Sets it to never."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self.time = None, math.inf

    def _ring(self) -> None:
        self._handle, self.time = None, math.inf
        self._call()
