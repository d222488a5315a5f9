"""The policies of a run: its `timeout`, `retry` and `limits`, what its items do at each attempt, and a second map.

Invariant: they depend on the seed alone, and leave the scenario of that seed as it is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from tests.simulation.scenario import Ending, Item, Scenario, WhenCancelled, draw

__all__ = ["Attempt", "Capacity", "Keyed", "Party", "Plan", "Rated", "RetriedOn", "Second", "Weighed", "draw_plan"]


class RetriedOn(StrEnum):
    """What the retry names as worth another attempt."""

    CONNECTION = "ConnectionError"
    TIMEOUT_TOO = "ConnectionError and TimeoutError"
    EVERYTHING = "Exception"


@dataclass(frozen=True, slots=True)
class Attempt(Item):
    """What an item does at one of its attempts. retry_after: what it says if it is throttled."""

    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Second:
    """The arguments of a `Retry`."""

    on: RetriedOn
    attempts: int
    base: float
    cap: float
    budget: float | None
    max_retry_after: float
    throttle_timeout: float


@dataclass(frozen=True, slots=True)
class Rated:
    """The arguments of a `Rate`. costs: those of the items, over and over; `None`: all weigh 1."""

    n: int
    per: float
    costs: tuple[float, ...] | None
    smooth: bool


@dataclass(frozen=True, slots=True)
class Keyed:
    """The arguments of a `PerKey`. keys: those of the items, over and over."""

    keys: tuple[str | None, ...]
    most: int | None
    rate: Rated | None


@dataclass(frozen=True, slots=True)
class Weighed:
    """A limit of the user's own: at most so much weight in flight. weights: those of the items, over and over."""

    most: int
    weights: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Capacity:
    """The arguments of an `Adaptive`."""

    most: int
    least: int
    start: int


Limit: TypeAlias = Rated | Keyed | Weighed


@dataclass(frozen=True, slots=True)
class Party:
    """One map of a run.

    scripts: what each item does at its attempts; the last goes for all that follow.
    limits: which of the plan's limits it has; adapts: whether it has the capacity too.
    ahead: its `max_queue_size`.
    """

    scenario: Scenario
    scripts: tuple[tuple[Attempt, ...], ...]
    limits: tuple[int, ...]
    adapts: bool
    ahead: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All policies of a run, and the maps that have them: two share the limits.

    chance: what chance comes to in back-offs and cool-downs, from 0 to 1.
    victim: which of the maps the cancels are for.
    breaks_for: the item of a lonely map for which the user's part of the first limit (key, cost) raises; `None`: none.
    """

    timeout: float | None
    retry: Second | None
    limits: tuple[Limit, ...]
    capacity: Capacity | None
    parties: tuple[Party, ...]
    chance: float
    victim: int
    breaks_for: int | None

    def slots(self, number: int) -> int:
        """How many slots a map has at first."""
        party = self.parties[number]
        return self.capacity.most if party.adapts and self.capacity is not None else party.scenario.limit


# Far from the seeds of scenarios, of which each has a plan.
_APART: Final = 1_000_000_000
_PERIODS: Final = (0.5, 1.0, 1.0, 2.0, 3.0)
_POLICY_ENDINGS: Final = (
    Ending.FAILS,
    Ending.FAILS,
    Ending.FAILS,
    Ending.IS_REFUSED,
    Ending.IS_THROTTLED,
    Ending.IS_THROTTLED,
    Ending.ANSWERS_429,
)
_THROTTLES: Final = frozenset({Ending.IS_THROTTLED, Ending.ANSWERS_429})


def draw_plan(seed: int) -> Plan:
    """The plan of a seed."""
    dice = random.Random(seed + _APART)
    # None at all is a run that comes to its policies at the first `Throttled`, if at all.
    bare = dice.random() < 0.15
    limits = () if bare else tuple(_limit(dice) for _ in range(dice.choice((0, 0, 1, 1, 1, 2, 3))))
    capacity = None
    if not bare and dice.random() < 0.2:
        most = dice.randint(1, 5)
        least = dice.randint(1, most)
        capacity = Capacity(most, least, dice.randint(least, most))
    timeout = None if bare or dice.random() < 0.6 else dice.choice((0.5, 1.0, 1.0, 1.5, 2.0, 3.0))
    everything = tuple(range(len(limits)))
    parties = [_party(dice, draw(seed), timeout, everything, adapts=capacity is not None)]
    if (limits or capacity) and dice.random() < 0.35:
        some = everything if dice.random() < 0.7 else everything[:1]
        adapts = capacity is not None and (not some or dice.random() < 0.8)
        parties.append(_party(dice, draw(seed + _APART), timeout, some, adapts=adapts))
    return Plan(
        timeout=timeout,
        retry=None if bare or dice.random() < 0.45 else _retry(dice),
        limits=limits,
        capacity=capacity,
        parties=tuple(parties),
        chance=dice.choice((0.0, 0.5, 0.5, 1.0)),
        victim=dice.randrange(len(parties)),
        breaks_for=dice.randint(0, 9) if len(parties) == 1 and dice.random() < 0.1 else None,
    )


def _retry(dice: random.Random) -> Second:
    return Second(
        on=dice.choice(tuple(RetriedOn)),
        attempts=dice.randint(1, 5),
        base=dice.choice((1e-6, 0.5, 1.0, 2.0)),
        cap=dice.choice((0.0, 2.0, 60.0)),
        budget=dice.choice((None, None, 0.0, 0.5)),
        max_retry_after=dice.choice((1.0, 120.0)),
        throttle_timeout=dice.choice((0.0, 1.5, 300.0, 300.0)),
    )


def _limit(dice: random.Random) -> Limit:
    kind = dice.choice(("rate", "rate", "key", "key", "weight"))
    if kind == "rate":
        return _rate(dice)
    if kind == "key":
        most = dice.choice((None, 1, 1, 2))
        keys = tuple(dice.choice((None, "a", "a", "b", "c")) for _ in range(dice.randint(1, 6)))
        return Keyed(keys, most, _rate(dice) if dice.random() < 0.35 else None)
    most = dice.randint(1, 4)
    return Weighed(most, tuple(dice.randint(0, most) for _ in range(dice.randint(1, 5))))


def _rate(dice: random.Random) -> Rated:
    n = dice.randint(1, 4)
    costs = None
    if dice.random() < 0.4:
        costs = tuple(dice.choice((0, 0.3, 0.5, 1, 1, n)) for _ in range(dice.randint(1, 5)))
    return Rated(n, dice.choice(_PERIODS), costs, dice.random() < 0.25)


def _party(
    dice: random.Random, scenario: Scenario, timeout: float | None, limits: tuple[int, ...], *, adapts: bool
) -> Party:
    """One map; its items do first what they do in the scenario, or end as only a policy can deal with."""
    share = dice.choice((0.0, 0.3, 0.3, 0.7))
    lazy = timeout is not None and dice.random() < 0.2
    scripts = tuple(_script(dice, item, share, lazy=lazy) for item in scenario.items)
    return Party(scenario, scripts, limits, adapts, dice.choice((-1, -1, 1, 2)))


def _script(dice: random.Random, item: Item, share: float, *, lazy: bool) -> tuple[Attempt, ...]:
    attempts = []
    for number in range(dice.randint(1, 4)):
        first = number == 0
        sleeps = item.sleeps if first else tuple(dice.choice((0, 1, 1, 2)) for _ in range(dice.randint(0, 2)))
        ending = dice.choice(_POLICY_ENDINGS) if dice.random() < share else item.ending
        manner = WhenCancelled.IGNORES if lazy and dice.random() < 0.3 else item.when_cancelled
        retry_after = dice.choice((None, None, 0.0, 0.5, 1.0, 3.0))
        attempts.append(Attempt(sleeps, item.busy, ending, manner, retry_after))
    if attempts[-1].ending in _THROTTLES:  # for ever would be too long
        last = attempts[-1]
        attempts.append(Attempt(last.sleeps, 0.0, Ending.RETURNS, last.when_cancelled, None))
    return tuple(attempts)
