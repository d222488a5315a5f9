"""Politeness to hosts: every single request waits for the turn of its host.

The limits of a run bound attempts, and an attempt belongs to the host of its link. Redirects may lead it to others, so
the requests are bounded once more, each by the host that it goes to.

Invariant: requests to one host start in the order in which they came, never more at once, and never sooner, than its
limit says. Whoever waits here holds no turn of another host, so no two can wait for each other. A cancel leaves
nothing behind.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from typing import Final, final

from aiomap.limits.limit import Ending
from aiomap.limits.per_key import PerKey
from aiomap.limits.rate import Rate
from aiomap.throttling import MAX_RETRY_AFTER, http_throttle

__all__ = ["HostGate"]

# Seconds. Less than any pause of the run's own: an attempt that may start again shall not wait here, in its own time.
_MOMENT: Final = 0.3


@final
class HostGate:
    """Lets requests start, host by host: `async with gate.request("example.com"): ...`.

    per_host: what bounds each host. Its two bounds are taken, but not what it has counted; every request weighs 1.

    A request that ends with an error of status 429 or 503 closes its host for as long as the answer asks (at most 120
    seconds). If it does not say for how long, the limit of the run, which has heard of it, finds that out: here it is a
    moment. Memory is taken by busy hosts alone.

    >>> from aiomap.testing import simulate  # an event loop whose hours pass at once
    >>> async def main() -> list[float]:
    ...     gate = HostGate(PerKey(str, rate=Rate(1, per=5)))
    ...     times = []
    ...     for host in ("a.example", "b.example", "a.example"):
    ...         async with gate.request(host):
    ...             times.append(asyncio.get_running_loop().time())
    ...     return times
    >>> simulate(main)
    [0.0, 0.0, 5.0]
    """

    def __init__(self, per_host: PerKey) -> None:
        rate = per_host.rate
        if rate is not None and rate.cost is not None:
            # What an item weighs is not known here.
            rate = Rate(rate.n, rate.per, smooth=rate.smooth, margin=rate.margin)
        self._limit = PerKey(str, per_host.max_concurrent_tasks, rate)
        # Who waits for a host, by the event that wakes it up. Only the first of a line looks at the limit.
        self._lines: dict[str, OrderedDict[asyncio.Event, None]] = {}

    @asynccontextmanager
    async def request(self, host: str) -> AsyncGenerator[None]:
        """Waits for the turn of the host, and holds it: as long as the answer to one request is being read."""
        ticket = await self._turn(host)
        ending: Ending = "other"
        pause: float | None = None
        try:
            yield
            ending = "success"
        except Exception as error:
            if throttle := http_throttle(error):
                ending = "throttled"
                pause = min(throttle.retry_after or _MOMENT, MAX_RETRY_AFTER)
            raise
        finally:
            self._limit.ended(ticket, asyncio.get_running_loop().time(), ending, pause)
            self._wake_first(host)

    async def _turn(self, host: str) -> tuple[Hashable, float] | None:
        now = asyncio.get_running_loop().time
        claim = self._limit.claim(host)
        if host in self._lines or self._limit.next_start(claim, now()) > now():
            await self._wait(host, claim)
        return self._limit.started(claim, now())

    async def _wait(self, host: str, claim: tuple[Hashable, float] | None) -> None:
        """Stands in the line of the host until it is its turn. The caller then starts before anybody else can."""
        loop = asyncio.get_running_loop()
        line = self._lines.setdefault(host, OrderedDict())
        mine = asyncio.Event()
        line[mine] = None
        try:
            while (
                when := self._limit.next_start(claim, loop.time()) if _first(line) is mine else math.inf
            ) > loop.time():
                alarm = loop.call_at(when, mine.set) if when < math.inf else None
                try:
                    await mine.wait()
                finally:
                    if alarm:
                        alarm.cancel()
                mine.clear()
        finally:
            del line[mine]
            if not line:
                del self._lines[host]
            self._wake_first(host)

    def _wake_first(self, host: str) -> None:
        if line := self._lines.get(host):
            _first(line).set()


def _first(line: OrderedDict[asyncio.Event, None]) -> asyncio.Event:
    return next(iter(line))
