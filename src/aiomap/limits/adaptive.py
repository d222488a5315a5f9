"""How many attempts the remote takes at once, found out by asking for a little more until it says no.

Invariant: the limit stays within `min` and `max`. Only a success raises it, and only a throttle lowers it: once for a
burst of them, however many attempts report it. No attempt starts while the gate is closed.

This is TCP's way to find the capacity of a path (RFC 5681: slow start, then additive increase and multiplicative
decrease; RFC 9438: the growth slows down where the last loss was), with successes in place of acknowledgements and
throttles in place of losses.
"""

from __future__ import annotations

import math
from operator import index as as_integer
from typing import Any, Final, TypeAlias, final

from aiomap._verdict import shortened
from aiomap.limits.gate import cool_down
from aiomap.limits.limit import Ending

__all__ = ["Adaptive"]

# When the attempt started, how many decreases there had been, and whether it filled the limit.
_Ticket: TypeAlias = tuple[float, int, bool]

# An attempt that starts with so much of the limit in use counts as full.
_FULL: Final = 0.9
# What a decrease leaves: the first one, and those that follow without a clean round in between.
_DECREASE: Final = 0.9
_COLLAPSE: Final = 0.5
# At most so many clean rounds pass before the limit is tried beyond what the remote refused last.
_LONGEST_WAIT: Final = 8
# How much a new round trip time moves their mean.
_SMOOTHING: Final = 0.1
# Shorter hiccups are met by the lower limit alone: after so many refusals in a row it also cools down.
_PATIENT_STRIKES: Final = 2
# So many round trip times make a median. With fewer, the lowest median of many is far below the usual one when
# durations vary as much as they do over the web, and the tolerance is used up by chance.
_SAMPLES: Final = 50


@final
class Adaptive:
    """Finds by itself how many attempts at once the remote takes: give it as `max_concurrent_tasks`.

    It starts with a few and doubles them each round trip, until the remote throttles (`Throttled`, HTTP 429 or 503) or
    is overloaded (a timeout, a refused connection). Then it goes back by 10 %, for a whole burst of throttles once (by
    half, if the next ones follow before a clean round), climbs to just below where it was refused, waits there for up
    to 8 rounds, and tries beyond. A `Retry-After` closes it for that long, for all attempts of all maps that share it;
    if nothing gets through and the remote does not say for how long, it closes for 0.5 s, then half as long again each
    time, up to 30 s, +-20 %. When it opens, the first round trip's starts are spread out evenly.

    max: never more attempts at once than this, an integer of at least 1. It should be a number that the remote can
        bear: see (a).
    min: never fewer, from 1 to `max`.
    start: the first limit, from `min` to `max`; lowered to `max` where that is less.
    latency_tolerance: `None`: how long attempts take is no matter, for items differ. A number above 1: the limit does
        not grow while the median of the last 50 durations is more than so many times the lowest such median; it is
        never lowered for it. 2 is a good one. It is for a remote that queues instead of refusing, and takes about as
        long for each item; if the first items are far quicker than the rest, it keeps the limit too low.

    What it cannot do:
    (a) See a queue. A remote that refuses nothing gets `max` attempts at once, and they wait there instead of here.
    (b) Hold a rate. Where a single attempt at a time is too much (more than some 50 a second, no `Retry-After`), it
        keeps running into the limit: give a `Rate` in `limits` as well.
    (c) Learn from errors that say nothing about load, such as a 400: they change nothing.

    One object may be given to several maps, one after the other or at once (in one event loop): it then bounds the sum
    of their attempts, and what it has learnt serves them all. An attempt costs O(1).

    limit: the attempts at once that it allows at present. in_flight: the attempts that run.

    >>> from aiomap import Adaptive
    >>> capacity = Adaptive(max=200)
    >>> capacity.limit
    4
    >>> ticket = capacity.started(None, now=0.0)
    >>> capacity.ended(ticket, 0.1, "throttled", retry_after=5)
    >>> capacity.next_start(None, now=0.1)
    5.1
    """

    __slots__ = (
        "__weakref__",
        "_base",
        "_cliff",
        "_durations",
        "_epoch",
        "_full",
        "_gate",
        "_held",
        "_in_flight",
        "_limit",
        "_max",
        "_min",
        "_paced",
        "_paced_until",
        "_peak",
        "_ramp_to",
        "_round",
        "_round_trip",
        "_served",
        "_start",
        "_step",
        "_strikes",
        "_told",
        "_tolerance",
        "_wait",
        "_waits",
    )

    def __init__(
        self,
        max: int = 100,  # noqa: A002  (the name that a caller looks for)
        min: int = 1,  # noqa: A002  (the same)
        start: int = 4,
        *,
        latency_tolerance: float | None = None,
    ) -> None:
        self._max, self._min, self._start = _bounds(max, min, start)
        self._tolerance = _check_tolerance(latency_tolerance)
        self._limit = float(self._start)
        self._in_flight = 0

        # Where the limit goes.
        self._ramp_to = math.inf  # below this, each success adds one
        self._cliff = math.inf  # the attempts at once that were refused last
        self._step = 1.0  # beyond the cliff it grows by this
        self._waits = 1  # clean rounds to wait below the cliff, after the next decrease
        self._wait = 0  # how many of them are left

        # The round: so many successes as the limit, all of attempts that started since the last decrease.
        self._round = 0
        self._full = 0  # how many of them filled the limit
        self._peak = 0  # the most attempts at once in it

        # Decreases.
        self._epoch = 0  # how many there have been
        self._strikes = 0  # how many since the last clean round
        self._served = True  # whether anything has succeeded since the last one

        self._round_trip: float | None = None  # the mean seconds that a success takes
        self._durations: list[float] = []
        self._base = math.inf  # their lowest median
        self._held = False  # whether attempts take too long for the limit to grow

        self._told: float  # the last start or end
        self._gate: float  # no start before this
        self._paced_until: float  # before this, starts are spread out
        self._paced: float  # and the next one is then
        self._forget()

    def __repr__(self) -> str:
        tolerance = "" if self._tolerance is None else f", latency_tolerance={self._tolerance:g}"
        return f"Adaptive(max={self._max}, min={self._min}, start={self._start}{tolerance})"

    @property
    def max(self) -> int:
        """The most attempts at once that it ever allows."""
        return self._max

    @property
    def min(self) -> int:
        """The least number that it goes down to."""
        return self._min

    @property
    def limit(self) -> int:
        """How many attempts at once it allows at present."""
        return math.floor(self._limit)

    @property
    def in_flight(self) -> int:
        """How many attempts run, in all maps that share it."""
        return self._in_flight

    def claim(self, item: Any) -> None:
        """Nothing: all items are alike."""

    def next_start(self, claim: Any, now: float) -> float:  # noqa: ARG002
        """When an attempt may start: a moment that is past if at once, inf if not before another one has ended."""
        if now < self._told:
            self._forget()
        if self._in_flight >= self.limit:
            return math.inf
        return max(self._gate, self._paced)

    def closed_until(self, claim: Any) -> float:  # noqa: ARG002
        """When the gate that a throttle closed opens."""
        return self._gate

    def started(self, claim: Any, now: float) -> _Ticket:  # noqa: ARG002
        """Counts the attempt. The ticket says when it started, after how many decreases, and whether it was full."""
        self._told = now
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)
        if now < self._paced_until and self._round_trip is not None:
            self._paced = now + self._round_trip / self.limit
        return now, self._epoch, self._in_flight >= _FULL * self.limit

    def ended(self, ticket: _Ticket, now: float, ending: Ending, retry_after: float | None) -> None:
        """Learns from it: a success may raise the limit, a throttle or an overload lowers it, all else says nothing."""
        self._told = now
        self._in_flight -= 1
        if ending == "success":
            self._succeeded(ticket, now)
        elif ending == "throttled":
            self._refused(ticket, now, retry_after or 0.0)
        elif ending == "overloaded":
            self._refused(ticket, now, 0.0)

    def spare(self, now: float) -> int:
        """How many attempts may start at this moment, one after the other; while it paces, one."""
        if self.next_start(None, now) > now:
            return 0
        free = self.limit - self._in_flight
        return 1 if now < self._paced_until else free

    def _succeeded(self, ticket: _Ticket, now: float) -> None:
        started, epoch, full = ticket
        self._measure(now - started)
        if epoch != self._epoch:
            return  # it started when the limit was another
        self._served = True
        self._round += 1
        self._full += full
        if full and self._limit < self._ramp_to and not self._held:
            self._grow(1)
        if self._round >= self._limit:
            self._end_round()

    def _end_round(self) -> None:
        """A round was clean: the limit may grow, if it was what kept the attempts from being more."""
        was_full = 2 * self._full >= self._round
        self._round = self._full = self._peak = 0
        self._strikes = 0
        if was_full and not self._held and self._limit >= self._ramp_to:
            self._probe()

    def _probe(self) -> None:
        """Grows toward the cliff, stays just below it for a while, then goes beyond with growing steps."""
        cliff = self._cliff
        edge = cliff - 1
        if cliff < math.inf and self._limit < edge:
            self._grow(min(max(1, (cliff - self._limit) / 4), edge - self._limit))
            return
        if self._wait > 0:
            self._wait -= 1
            return
        if self._limit > cliff:
            self._waits = 1  # the remote takes more than it did
        step = self._step
        self._step = min(2 * step, max(1, self._limit / 8))
        self._grow(step)

    def _grow(self, by: float) -> None:
        self._limit = min(self._max, self._limit + by)

    def _refused(self, ticket: _Ticket, now: float, seconds: float) -> None:
        # Whatever started before the last decrease met the limit of that time: a burst is one refusal.
        if ticket[1] == self._epoch:
            blocked = self._strikes >= _PATIENT_STRIKES and not self._served
            self._decrease()
            seconds = seconds or (cool_down(self._strikes - _PATIENT_STRIKES) if blocked else 0.0)
        if seconds:
            self._gate = max(self._gate, now + seconds)
            self._paced_until = self._gate + (self._round_trip or 0.0)

    def _decrease(self) -> None:
        # The most at once, not what runs now: when the first of a burst reports, the rest of it may have ended.
        used = min(self._limit, self._peak or self._limit)
        self._strikes += 1
        lowered = max(self._min, used * (_DECREASE if self._strikes == 1 else _COLLAPSE))
        # Where it was refused is worth knowing only if it was served there. If nothing has got through since the last
        # decrease, the remote is out of order, and will soon take again what it took before.
        if self._strikes == 1 or self._served:
            if used <= self._cliff + 1 and self._cliff < math.inf:
                self._waits = min(_LONGEST_WAIT, 2 * self._waits)
            self._wait = self._waits
            self._cliff = used
            self._ramp_to = lowered
        self._limit = lowered
        self._epoch += 1
        self._step = 1.0
        self._round = self._full = self._peak = 0
        self._served = False

    def _measure(self, seconds: float) -> None:
        mean = self._round_trip
        self._round_trip = seconds if mean is None else mean + _SMOOTHING * (seconds - mean)
        if self._tolerance is None:
            return
        self._durations.append(seconds)
        if len(self._durations) == _SAMPLES:
            self._durations.sort()
            usual = self._durations[_SAMPLES // 2]
            self._base = min(self._base, usual)
            self._held = usual > self._tolerance * self._base
            self._durations.clear()

    def _forget(self) -> None:
        """A clock that went back is another clock, as a simulated loop has: its times mean nothing to this one."""
        self._told = self._gate = self._paced_until = self._paced = -math.inf


def _bounds(most: object, least: object, start: object) -> tuple[int, int, int]:
    most = _count("max", most, "100 is the default")
    least = _count("min", least, "1 is the default")
    start = _count("start", start, "4 is the default")
    if least > most:
        raise ValueError(f"min must be at most max, got min={least} and max={most}: write max={least} or more")
    start = min(start, most)
    if start < least:
        raise ValueError(f"start must be at least min, got start={start} and min={least}: write start={least}")
    return most, least, start


def _count(name: str, value: Any, fix: str) -> int:
    rule = f"{name} must be an integer of at least 1"
    try:
        number = as_integer(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        if isinstance(value, float) and value.is_integer() and value >= 1:
            fix = f"write {name}={int(value)}"
        raise TypeError(f"{rule}, got {shortened(value)} ({type(value).__name__}): {fix}")
    if number < 1:
        raise ValueError(f"{rule}, got {number}: {fix}")
    return number


def _check_tolerance(tolerance: Any) -> float | None:
    if tolerance is None:
        return None
    rule = "latency_tolerance must be None (durations are no matter) or a number above 1"
    fix = "2 stops the growth while the median duration is more than twice the lowest"
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
        raise TypeError(f"{rule}, got {shortened(tolerance)} ({type(tolerance).__name__}): {fix}")
    if not 1 < tolerance < math.inf:
        raise ValueError(f"{rule}, got {shortened(tolerance)}: {fix}")
    return float(tolerance)
