"""Modelled servers: what remotes with a limit of some kind do with an attempt.

Invariant: a server knows only `now` and its own seeded random numbers. So it serves a loop over a heap of events and an
asyncio loop on virtual time alike:

    answer = server.request(now)
    if isinstance(answer, Accepted):  # wait answer.duration, then, however the wait ended:
        server.done(now)
    else:                             # wait answer.after, then the attempt ends as answer.ending

`request` is called at the start of an attempt, with times that never go back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from heapq import heapreplace
from random import Random
from typing import Literal, NamedTuple, TypeAlias

__all__ = [
    "Accepted",
    "Banning",
    "Bucket",
    "Queue",
    "Rejected",
    "Server",
    "Slots",
    "Window",
    "drifting",
    "lognormal",
]

Durations: TypeAlias = Callable[[float], float]
"""How long an attempt takes that starts at that time."""

# A refusal costs no work, only the way there and back.
_WAY = 0.03


class Accepted(NamedTuple):
    """The attempt succeeds, `duration` seconds after its start."""

    duration: float


class Rejected(NamedTuple):
    """The attempt fails, `after` seconds after its start."""

    retry_after: float | None = None
    after: float = _WAY
    ending: Literal["throttled", "overloaded"] = "throttled"
    """overloaded: a refused connection, say, which can bear no `retry_after`."""


class Server(ABC):
    @abstractmethod
    def request(self, now: float) -> Accepted | Rejected:
        """An attempt starts."""

    def done(self, now: float) -> None:  # noqa: B027  (most servers do not mind)
        """An accepted attempt has ended."""

    @abstractmethod
    def ideal(self, until: float) -> float:
        """How many attempts it could have completed by then, had it been asked for neither more nor less."""


def lognormal(random: Random, mean: float, cv: float) -> Durations:
    """cv: standard deviation over mean. 0.5 is a well-behaved API, 2 the web."""
    sigma = math.sqrt(math.log1p(cv * cv))
    mu = math.log(mean) - sigma * sigma / 2
    return lambda _: random.lognormvariate(mu, sigma)


def drifting(durations: Durations, factor: float, over: float) -> Durations:
    """The same, but they grow steadily, up to so many times, over so many seconds."""
    return lambda now: durations(now) * (1 + (factor - 1) * min(1, now / over))


class Slots(Server):
    """Takes so many attempts at once, and refuses the rest at once.

    capacity: a number, or (since, number) pairs by time; 0 is an outage, in which connections are refused.
    """

    def __init__(self, capacity: int | Sequence[tuple[float, int]], durations: Durations) -> None:
        self._changes = [(0.0, capacity)] if isinstance(capacity, int) else list(capacity)
        self._durations = durations
        self._running = 0
        self._drawn = 0
        self._worked = 0.0

    def capacity(self, now: float) -> int:
        return [number for since, number in self._changes if since <= now][-1]

    def request(self, now: float) -> Accepted | Rejected:
        capacity = self.capacity(now)
        if not capacity:
            return Rejected(ending="overloaded")
        if self._running >= capacity:
            return Rejected()
        self._running += 1
        duration = self._durations(now)
        self._drawn += 1
        self._worked += duration
        return Accepted(duration)

    def done(self, now: float) -> None:  # noqa: ARG002
        self._running -= 1

    def ideal(self, until: float) -> float:
        """By the mean of the durations that chance has given, which decides nothing then."""
        ends = [since for since, _ in self._changes[1:]] + [until]
        capacity = sum(number * (end - since) for (since, number), end in zip(self._changes, ends, strict=True))
        return capacity * self._drawn / self._worked


class Bucket(Server):
    """Takes `rate` attempts a second, and `burst` more after a pause (a token bucket), however many run at once.

    way: seconds that a refusal takes.
    """

    def __init__(self, rate: float, burst: float, durations: Durations, *, says_when: bool, way: float = _WAY) -> None:
        self._rate, self._burst, self._durations, self._says_when, self._way = rate, burst, durations, says_when, way
        self._tokens = burst
        self._last = 0.0

    def request(self, now: float) -> Accepted | Rejected:
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1:
            # RFC 9110 has whole seconds only.
            wait = math.ceil((1 - self._tokens) / self._rate) if self._says_when else None
            return Rejected(wait, self._way)
        self._tokens -= 1
        return Accepted(self._durations(now))

    def ideal(self, until: float) -> float:
        return self._burst + self._rate * until


class Window(Server):
    """Takes `n` attempts in each `per` seconds, counted anew at fixed times."""

    def __init__(self, n: int, per: float, durations: Durations, *, says_when: bool) -> None:
        self._n, self._per, self._durations, self._says_when = n, per, durations, says_when
        self._number = -1
        self._taken = 0

    def request(self, now: float) -> Accepted | Rejected:
        number = math.floor(now / self._per)
        if number != self._number:
            self._number, self._taken = number, 0
        if self._taken == self._n:
            return Rejected(math.ceil((number + 1) * self._per - now) if self._says_when else None)
        self._taken += 1
        return Accepted(self._durations(now))

    def ideal(self, until: float) -> float:
        return self._n * until / self._per


class Banning(Slots):
    """Whoever asks for more than it takes at once is shut out for `ban` seconds, and anew with each further attempt."""

    def __init__(self, capacity: int, durations: Durations, ban: float) -> None:
        super().__init__(capacity, durations)
        self._ban = ban
        self._banned_until = -math.inf

    def request(self, now: float) -> Accepted | Rejected:
        answer = super().request(now) if now >= self._banned_until else Rejected()
        if isinstance(answer, Rejected):
            self._banned_until = now + self._ban
            return Rejected(self._ban, answer.after)
        return answer


class Queue(Server):
    """Refuses nothing: who finds all workers busy waits, first come first served."""

    def __init__(self, workers: int, durations: Durations) -> None:
        self._durations = durations
        self._free_at = [0.0] * workers
        self._drawn = 0
        self._worked = 0.0

    def request(self, now: float) -> Accepted:
        duration = self._durations(now)
        self._drawn += 1
        self._worked += duration
        end = max(now, self._free_at[0]) + duration
        heapreplace(self._free_at, end)
        return Accepted(end - now)

    def ideal(self, until: float) -> float:
        return len(self._free_at) * until * self._drawn / self._worked
