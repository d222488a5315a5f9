"""So many starts in so many seconds, exactly.

Invariant: no half-open window of length `per + margin` holds starts that weigh more than `n` in all. The log of the
last starts is the whole state (a sliding log: no bucket that fills up, no window that is anchored anywhere), and a
start is written into it at the moment it happens, so that there is no reservation that a cancel could leak.
"""

from __future__ import annotations

import inspect
import math
import sys
from array import array
from collections import deque
from collections.abc import Callable
from operator import index as as_integer
from typing import Any, Final, final

from aiomap._verdict import named, shortened
from aiomap.errors import CostAboveRate
from aiomap.limits.gate import Gate
from aiomap.limits.limit import Ending

__all__ = ["Rate"]

# By what part of `n` the weights of a window may be more than it: in floats ten times 0.7 is more than 7.
_ROUNDING: Final = 1e-12


@final
class Rate:
    """At most `n` starts in any `per` seconds; with `cost`, starts that weigh `n` in all.

    With a backlog the i-th start comes exactly `per` seconds after the one `n` before it. The times are those of
    starts on this side. On their way to the remote they spread, so a server that counts just as strictly may see a few
    more than `n` in its window: `margin` is for that.

    n: starts per window, an integer of at least 1; with `cost`, the weight per window.
    per: seconds of the window, above 0.
    cost: a function of the item that gives its weight (tokens, bytes), a number of at least 0; called once per item.
        `None`: every start weighs 1. An item that weighs more than `n` fails with `CostAboveRate` and is not started.
    smooth: also keeps starts at least `per / n` seconds apart (times the weight of the earlier one), so that there is
        no burst at the beginning or after a pause. A late timer is not made up for, which shows above 100 a second.
    margin: seconds added to the window, at least 0: the difference in travel time that the remote may see.

    One object may be given to several maps, one after the other or at once (in one event loop), which then share it.
    A throttled attempt (`Throttled`, HTTP 429) closes it for all of them, unless a `PerKey` knows whose throttle it is.
    Memory: 8 bytes for each of the last `n` starts; with `cost` about 100 bytes for each start in the window. An
    attempt costs O(1).

    >>> import asyncio
    >>> from aiomap import Rate, amap
    >>> from aiomap.testing import simulate  # an event loop whose hours pass at once
    >>> async def started_at(_: int) -> float:
    ...     return asyncio.get_running_loop().time()
    >>> simulate(amap(started_at, range(5), limits=[Rate(2, per=60)]))
    [0.0, 0.0, 60.0, 60.0, 120.0]
    """

    __slots__ = (
        "__weakref__",
        "_gate",
        "_last",
        "_log",
        "_next",
        "_told",
        "_window",
        "cost",
        "margin",
        "n",
        "per",
        "smooth",
    )

    def __init__(
        self,
        n: int,
        per: float = 1.0,
        *,
        cost: Callable[[Any], float] | None = None,
        smooth: bool = False,
        margin: float = 0.0,
    ) -> None:
        self.per: Final = _seconds(
            "per", per, math.ulp(0.0), "a number of seconds above 0", "Rate(100, per=60) is 100 a minute"
        )
        self.margin: Final = _seconds("margin", margin, 0.0, "a number of seconds, at least 0", "0 adds nothing")
        self.n: Final = _count(n, self.per)
        _check(cost, smooth)
        self.cost: Final = cost
        self.smooth: Final = smooth
        self._window = self.per + self.margin
        self._forget()

    def __repr__(self) -> str:
        rest = [f"per={self.per:g}"] if self.per != 1 else []
        rest += [f"cost={named(self.cost)}"] if self.cost is not None else []
        rest += ["smooth=True"] if self.smooth else []
        rest += [f"margin={self.margin:g}"] if self.margin else []
        return f"Rate({', '.join([str(self.n), *rest])})"

    def copy(self) -> Rate:
        """The same rate with no starts yet, shared with nobody."""
        return Rate(self.n, self.per, cost=self.cost, smooth=self.smooth, margin=self.margin)

    def claim(self, item: Any) -> float:
        """The item's weight. CostAboveRate if it is more than `n`; TypeError or ValueError if it is no weight."""
        if self.cost is None:
            return 1
        weight: Any = self.cost(item)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise TypeError(
                f"cost must return the weight of the item, an int or a float, but {named(self.cost)} returned "
                f"{shortened(weight)} ({type(weight).__name__})"
            )
        if not 0 <= weight < math.inf:
            raise ValueError(
                f"cost must return a finite weight of at least 0, but {named(self.cost)} returned {weight}: "
                "0 is for an item that costs nothing"
            )
        if weight > self.n:
            raise CostAboveRate(weight, repr(self))
        return weight

    def next_start(self, claim: float, now: float) -> float:
        """When a start of that weight may be; a moment that is past if at once."""
        if now < self._told:
            self._forget()
        # One weight has one answer until the next start. Most starts are asked for by somebody who need not wait.
        when = self._next if self.cost is None else self._log.next_start(claim, now)
        opens = self._gate.opens
        return when if when > opens else opens  # noqa: FURB136  (a call less)

    def closed_until(self, claim: float) -> float:
        """When the gate that a throttle closed opens."""
        return self._gate.closed_until(claim)

    def started(self, claim: float, now: float) -> float:
        """Writes the start into the log; the ticket is its time."""
        self._last = self._told = now
        self._next = self._log.add(claim, now)
        return now

    def ended(self, ticket: float, now: float, ending: Ending, retry_after: float | None) -> None:
        """Closes the gate if the attempt was throttled."""
        self._told = now
        if ending == "throttled" or self._gate.strikes:
            self._gate.ended(ticket, now, ending, retry_after)

    def spare(self, now: float) -> int:
        """How many starts of weight 1 there may be at this moment, one after the other."""
        if self.next_start(0, now) > now:
            return 0
        return self._log.spare(now)

    def is_idle(self, now: float) -> bool:
        """Whether a new rate would do as well."""
        return self._last + self._window <= now and self._gate.is_idle(now)

    def _forget(self) -> None:
        """A clock that went back is another clock, as a simulated loop has: its times mean nothing to this one."""
        log: _Counts | _Weights = _Counts(self.n, self._window) if self.cost is None else _Weights(self.n, self._window)
        self._log: _Counts | _Weights | _Spaced = _Spaced(log, self.per, self.n) if self.smooth else log
        self._next = -math.inf  # when the next start may be, if all weigh 1
        self._last = -math.inf  # start
        self._told = -math.inf  # start or end
        self._gate = Gate()


class _Counts:
    """The times of the last `n` starts, in a ring that grows up to that."""

    __slots__ = ("_n", "_oldest", "_times", "_window")

    def __init__(self, n: int, window: float) -> None:
        self._n = n
        self._window = window
        self._times = array("d")
        self._oldest = 0

    def next_start(self, _: float, __: float) -> float:
        if len(self._times) < self._n:
            return -math.inf
        return self._times[self._oldest] + self._window

    def add(self, _: float, now: float) -> float:
        if len(self._times) < self._n:
            self._times.append(now)
        else:
            self._times[self._oldest] = now
            self._oldest = (self._oldest + 1) % self._n
        return -math.inf if len(self._times) < self._n else self._times[self._oldest] + self._window

    def spare(self, now: float) -> int:
        kept = len(self._times)
        low, high = 0, kept
        while low < high:
            middle = (low + high) // 2
            if self._times[(self._oldest + middle) % kept] + self._window <= now:
                low = middle + 1
            else:
                high = middle
        return self._n - kept + low


class _Weights:
    """The times and weights of the starts of the last window."""

    __slots__ = ("_log", "_n", "_total", "_waiting", "_when", "_window")

    def __init__(self, n: int, window: float) -> None:
        self._n = n * (1 + _ROUNDING)
        self._window = window
        self._log: deque[tuple[float, float]] = deque()
        self._total = 0.0
        # The last answer, for the one who waits for it and asks at every end of an attempt: it may have been far to go.
        self._waiting = 0.0
        self._when = -math.inf

    def _drop_old(self, now: float) -> None:
        log = self._log
        while log and log[0][0] + self._window <= now:
            self._total -= log.popleft()[1]
        if not log:
            self._total = 0.0  # what rounding left

    def next_start(self, weight: float, now: float) -> float:
        self._drop_old(now)
        free = self._n - self._total
        if weight <= free:
            return -math.inf
        if weight != self._waiting:
            self._waiting, self._when = weight, self._given_back(weight - free)
        return self._when

    def _given_back(self, weight: float) -> float:
        """When so much of what is in the window will have left it."""
        when = -math.inf
        for time, given_back in self._log:
            when = time + self._window
            weight -= given_back
            if weight <= 0:
                break
        return when

    def add(self, weight: float, now: float) -> float:
        if weight:
            self._drop_old(now)
            self._log.append((now, weight))
            self._total += weight
            self._waiting = 0.0
        return -math.inf  # that depends on the next weight

    def spare(self, now: float) -> int:
        self._drop_old(now)
        return max(0, int(self._n - self._total))


class _Spaced:
    """A log that keeps starts apart as well."""

    __slots__ = ("_log", "_next", "_per", "_seconds")

    def __init__(self, log: _Counts | _Weights, per: float, n: int) -> None:
        self._log = log
        self._per = per
        self._seconds = per / n
        self._next = -math.inf

    def next_start(self, weight: float, now: float) -> float:
        return max(self._next, self._log.next_start(weight, now))

    def add(self, weight: float, now: float) -> float:
        # After `per` seconds nothing is left of it, even where n times the n-th part is more, for rounding.
        self._next = now + min(self._seconds * weight, self._per)
        return max(self._next, self._log.add(weight, now))

    def spare(self, now: float) -> int:
        return min(1, self._log.spare(now))


def _count(n: Any, per: float) -> int:
    rule = "n must be an integer of at least 1, how many starts in `per` seconds"
    try:
        number = as_integer(n)
    except TypeError:
        number = None
    if number is None or isinstance(n, bool):
        raise TypeError(f"{rule}, got {shortened(n)} ({type(n).__name__}){_instead(n, per)}")
    if number < 1:
        raise ValueError(f"{rule}, got {number}: for fewer, make per longer, as in Rate(1, per=60)")
    return number


def _instead(n: Any, per: float) -> str:
    if not isinstance(n, float) or not 0 < n < math.inf:
        return ""
    return f": write {int(n)}" if n.is_integer() else f": write Rate(1, per={per / n:g}) for {n:g} in {per:g} seconds"


def _seconds(name: str, value: object, least: float, rule: str, fix: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {rule}, got {shortened(value)} ({type(value).__name__}): {fix}")
    if not least <= value <= sys.float_info.max:
        raise ValueError(f"{name} must be {rule}, got {shortened(value)}: {fix}")
    return float(value)


def _check(cost: object, smooth: object) -> None:
    if cost is not None and not callable(cost):
        raise TypeError(
            f"cost must be None or a function of the item that gives its weight, got {shortened(cost)} "
            f"({type(cost).__name__}): write Rate(n, cost=lambda item: len(item))"
        )
    if inspect.iscoroutinefunction(cost) or inspect.iscoroutinefunction(type(cost).__call__):
        raise TypeError(
            f"cost must be a plain function of the item, but {named(cost)} is an async one, and nobody would await it"
        )
    if not isinstance(smooth, bool):
        raise TypeError(f"smooth must be True or False, got {shortened(smooth)} ({type(smooth).__name__})")
