"""A run without an event loop: plays a schedule of arrivals against a list of limits, in made-up time.

Invariant: an attempt starts at the first moment at which this looks and all limits allow it, and all are told of it in
that step. This looks when something arrives, ends or gives up, and when the timer rings that was set for what the
limits said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any, NamedTuple, TypeAlias

from aiomap.limits.limit import Ending, Limit

__all__ = ["Arrival", "Clock", "Start", "exact", "late", "millisecond", "play"]

Clock: TypeAlias = Callable[[float, float], float]
"""When a timer rings that is set for a time, given the time that it is: the times that a loop's clock can show."""


def exact(time: float, now: float) -> float:
    """A clock of unlimited resolution, as asyncio's own loops have it in effect."""
    return max(time, now)


def late(bits: Sequence[float]) -> Clock:
    """Timers that ring late, by these seconds in turn."""
    numbers = count()
    return lambda time, now: max(time, now) + bits[next(numbers) % len(bits)]


def millisecond(time: float, now: float) -> float:
    """A clock that shows whole milliseconds, and timers that are rounded to them: some ring too early, as uvloop's."""
    return max(round(time * 1000), math.floor(now * 1000 + 0.5) + (time > now)) / 1000


class Arrival(NamedTuple):
    """An item: when it comes, how long its attempts take, how each ends (then it comes again), how long it waits."""

    time: float
    item: Any = None
    lasts: float = 0.0
    endings: tuple[tuple[Ending, float | None], ...] = (("success", None),)
    patience: float = math.inf


class Start(NamedTuple):
    """An attempt that was started: of which arrival, and since when that had been the first in its line."""

    number: int
    item: Any
    time: float
    first_since: float


class _Waiting:
    def __init__(self, number: int, arrival: Arrival, claims: list[Any]) -> None:
        self.number, self.arrival, self.claims = number, arrival, claims
        self.calls = 0
        self.first_since = math.nan


def play(
    arrivals: Iterable[Arrival],
    limits: Sequence[Limit],
    clock: Clock = exact,
    line: Callable[[Any], Hashable] = lambda _: None,
) -> list[Start]:
    """All starts, in order. Items for which `line` gives the same start in the order in which they came."""
    return _Run(limits, clock, line).play(arrivals)


class _Run:
    def __init__(self, limits: Sequence[Limit], clock: Clock, line: Callable[[Any], Hashable]) -> None:
        self._limits, self._clock, self._line = limits, clock, line
        self._lines: dict[Hashable, list[_Waiting]] = {}
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = count()
        self._starts: list[Start] = []

    def play(self, arrivals: Iterable[Arrival]) -> list[Start]:
        for number, arrival in enumerate(arrivals):
            waiting = _Waiting(number, arrival, [limit.claim(arrival.item) for limit in self._limits])
            self._at(arrival.time, 0.0, partial(self._come, waiting))
        for _ in range(100_000):
            if not self._events:
                break
            now, _, happen = heappop(self._events)
            happen(now)
            while self._events and self._events[0][0] == now:
                heappop(self._events)[2](now)
            self._fill(now)
        assert not self._events, "it does not come to an end"
        assert not any(self._lines.values()), "something waits that no timer will start"
        return self._starts

    def _at(self, time: float, now: float, happen: Callable[[float], None]) -> None:
        heappush(self._events, (self._clock(time, now), next(self._numbers), happen))

    def _come(self, waiting: _Waiting, now: float) -> None:
        self._lines.setdefault(self._line(waiting.arrival.item), []).append(waiting)
        if waiting.arrival.patience < math.inf:
            self._at(now + waiting.arrival.patience, now, partial(self._give_up, waiting))

    def _give_up(self, waiting: _Waiting, _: float) -> None:
        queue = self._lines[self._line(waiting.arrival.item)]
        if waiting in queue:
            queue.remove(waiting)

    def _fill(self, now: float) -> None:
        wake = math.inf
        for queue in self._lines.values():
            while queue:
                first = queue[0]
                if math.isnan(first.first_since):
                    first.first_since = now
                when = max(
                    limit.next_start(claim, now) for limit, claim in zip(self._limits, first.claims, strict=True)
                )
                if when > now:
                    wake = min(wake, when)
                    break
                self._start(queue.pop(0), now)
        if wake < math.inf:
            self._at(wake, now, lambda _: None)

    def _start(self, waiting: _Waiting, now: float) -> None:
        tickets = [limit.started(claim, now) for limit, claim in zip(self._limits, waiting.claims, strict=True)]
        self._starts.append(Start(waiting.number, waiting.arrival.item, now, waiting.first_since))
        waiting.first_since = math.nan
        self._at(now + waiting.arrival.lasts, now, partial(self._end, waiting, tickets))

    def _end(self, waiting: _Waiting, tickets: list[Any], now: float) -> None:
        ending, retry_after = waiting.arrival.endings[waiting.calls]
        waiting.calls += 1
        for limit, ticket in zip(self._limits, tickets, strict=True):
            limit.ended(ticket, now, ending, retry_after)
        if waiting.calls < len(waiting.arrival.endings):
            self._come(waiting, now)
