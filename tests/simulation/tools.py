"""The real policies of a run, made from its plan.

Invariant: one plan makes each limit once, so that all maps of the run share it; and nothing is left to chance.
"""

from __future__ import annotations

import asyncio
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from tests.simulation.policies import Keyed, Limit, Plan, Rated, RetriedOn

__all__ = ["TooManyRequests", "Tools", "no_chance", "timers_of"]

ERRORS: dict[RetriedOn, tuple[type[Exception], ...]] = {
    RetriedOn.CONNECTION: (ConnectionError,),
    RetriedOn.TIMEOUT_TOO: (ConnectionError, TimeoutError),
    RetriedOn.EVERYTHING: (Exception,),
}


class TooManyRequests(Exception):
    """What an HTTP client makes of an answer with status 429."""

    status = 429

    def __init__(self, retry_after: float | None) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after
        self.headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}


class Weight:
    """A limit as a user writes one."""

    def __init__(self, most: int, weight: Callable[[int], int]) -> None:
        self.most, self.free, self._weight = most, most, weight
        self.misused: list[str] = []

    def claim(self, item: int) -> int:
        return self._weight(item)

    def next_start(self, claim: int, now: float) -> float:
        return now if claim <= self.free else float("inf")

    def started(self, claim: int, now: float) -> tuple[int, float]:
        if claim > self.free:
            self.misused.append(f"{claim} was started with {self.free} free")
        self.free -= claim
        return claim, now

    def ended(self, ticket: tuple[int, float], now: float, ending: str, retry_after: float | None) -> None:
        weight, began = ticket
        if now < began or (retry_after is not None and ending == "success"):
            self.misused.append(f"ended{ticket, now, ending, retry_after}")
        self.free += weight


class Tools:
    """What the maps of a run are called with."""

    def __init__(self, plan: Plan, library: ModuleType, broke: Callable[[int, Exception], object]) -> None:
        self._plan, self._library, self._broke = plan, library, broke
        self._limits: list[Any] = []
        self._adaptive: Any = None

    def policies(self, number: int) -> dict[str, Any]:
        """The keywords for a map."""
        self._make()
        plan = self._plan
        party = plan.parties[number]
        retry = None
        if plan.retry is not None:
            names = ("attempts", "base", "cap", "budget", "max_retry_after", "throttle_timeout")
            arguments = {name: getattr(plan.retry, name) for name in names}
            retry = self._library.Retry(on=ERRORS[plan.retry.on], **arguments)
        return {"timeout": plan.timeout, "retry": retry, "limits": [self._limits[each] for each in party.limits]}

    def slots(self, number: int) -> Any:
        """The third argument for a map."""
        self._make()
        party = self._plan.parties[number]
        return self._adaptive if party.adapts else party.scenario.limit

    def capacity_limit(self) -> int:
        """How many attempts at once the `Adaptive` allows now."""
        return sys.maxsize if self._adaptive is None else self._adaptive.limit

    def capacity_opens(self, now: float) -> float:
        """When it would let an attempt start, as things are."""
        return now if self._adaptive is None else self._adaptive.next_start(None, now)

    def unclean(self) -> Iterator[str]:
        """What the limits hold although nothing runs any more."""
        for limit in self._limits:
            if isinstance(limit, Weight):
                if limit.free != limit.most or limit.misused:
                    yield f"the weight limit has {limit.free} free of {limit.most}, {limit.misused}"
            else:
                running = {key: state.running for key, state in getattr(limit, "_keys", {}).items() if state.running}
                if running:
                    yield f"{limit!r} still counts {running}"
        if self._adaptive is not None and self._adaptive.in_flight:
            yield f"{self._adaptive!r} still counts {self._adaptive.in_flight} in flight"
        sharing = sys.modules.get("aiomap._sharing")
        if sharing is not None and sharing._lines:
            yield f"the lines of limits are not empty: {sharing._lines}"
            sharing._lines.clear()

    def _make(self) -> None:
        if not self._limits and self._adaptive is None:
            breaks_for = [self._plan.breaks_for, *[None] * len(self._plan.limits)]
            self._limits = [self._made(limit, item) for limit, item in zip(self._plan.limits, breaks_for, strict=False)]
            if (capacity := self._plan.capacity) is not None:
                self._adaptive = self._library.Adaptive(capacity.most, capacity.least, capacity.start)

    def _made(self, limit: Limit, breaks_for: int | None) -> Any:
        if isinstance(limit, Rated):
            cost = None if limit.costs is None else self._by_turns(limit.costs, breaks_for)
            return self._library.Rate(limit.n, limit.per, cost=cost, smooth=limit.smooth)
        if isinstance(limit, Keyed):
            rate = None if limit.rate is None else self._made(limit.rate, None)
            return self._library.PerKey(self._by_turns(limit.keys, breaks_for), limit.most, rate)
        return Weight(limit.most, self._by_turns(limit.weights, breaks_for))

    def _by_turns(self, values: tuple[Any, ...], breaks_for: int | None) -> Callable[[int], Any]:
        def value(item: int) -> Any:
            if item == breaks_for:
                error = LookupError(item)
                self._broke(item, error)
                raise error
            return values[item % len(values)]

        return value


@contextmanager
def no_chance(plan: Plan | None) -> Iterator[None]:
    """Whatever aiomap draws evenly from a range is always at the same place in it; and it may warn."""
    if plan is None:
        yield
        return
    chance, uniform = plan.chance, random.uniform
    random.uniform = lambda a, b: a + (b - a) * chance
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"item \d+ goes on although", RuntimeWarning)
            yield
    finally:
        random.uniform = uniform


def timers_of(library: ModuleType, loop: asyncio.AbstractEventLoop) -> list[asyncio.TimerHandle]:
    """The timers of aiomap's that are set in the loop."""
    name = library.__name__
    timers: list[asyncio.TimerHandle] = [each for each in getattr(loop, "_scheduled") if not each.cancelled()]  # noqa: B009
    owners = [(timer, getattr(getattr(timer, "_callback", None), "__self__", None)) for timer in timers]
    return [timer for timer, owner in owners if type(owner).__module__.partition(".")[0] == name]
