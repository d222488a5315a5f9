"""What really ran: an async function that keeps a record of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Meter:
    """`await meter(x)` sleeps as long as `seconds(x)` says, and gives back `x`."""

    def __init__(self, seconds: Callable[[int], float] = lambda _: 0.0) -> None:
        self._seconds = seconds
        self.running = self.most = 0
        self.started: list[int] = []
        self.finished: list[int] = []
        self.cancelled: list[int] = []
        self.start_times: dict[int, float] = {}

    async def __call__(self, item: int) -> int:
        self.started.append(item)
        self.start_times[item] = asyncio.get_running_loop().time()
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self._seconds(item))
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise
        finally:
            self.running -= 1
        self.finished.append(item)
        return item
