"""Shows a run to whoever looks on.

Invariant: the observer is told ten times a second, and once when the run is over; nothing is done per item.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aiomap._alarm import Alarm
from aiomap._outcome import Observer, Stats

__all__ = ["Ticker"]

_TICK: Final = 0.1  # seconds


class Ticker:
    """Goes from its making until `close`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        observer: Observer,
        stats: Callable[[], Stats],
    ) -> None:
        self._now, self._observer, self._stats = now, observer, stats
        self._alarm = Alarm(loop, now, self._tick)
        self._tick()

    def close(self) -> None:
        """The last look."""
        self._alarm.off()
        self._observer.close(self._stats())

    def _tick(self) -> None:
        self._observer.update(self._stats())
        self._alarm.set(self._now() + _TICK)
