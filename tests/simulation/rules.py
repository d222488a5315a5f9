"""The limits of a run once more, as simple as can be: what they allow, judged from starts and ends.

Invariant: nothing here asks the limit objects themselves, but for the `Adaptive`, whose number is its own business.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

from tests.simulation.policies import Keyed, Plan, Rated, Weighed

__all__ = ["Heard", "Rules"]

Heard: TypeAlias = Literal["success", "throttled", "other"]


class _Gate:
    def __init__(self, chance: float) -> None:
        self.opens = -math.inf
        self._asked = -math.inf
        self._strikes = 0
        self._chance = chance

    def ended(self, began: float, now: float, heard: Heard, retry_after: float | None) -> None:
        fresh = began >= self.opens
        if heard == "success" and fresh:
            self._strikes = 0
        if heard != "throttled":
            return
        self._strikes += fresh
        if retry_after:
            self.opens = max(self.opens, now + retry_after)
        elif fresh:
            spread = 0.8 + (1.2 - 0.8) * self._chance
            wait = min(30.0, 0.5 * 1.5 ** (self._strikes - 1)) * spread
            self.opens = max(self.opens, now + wait)


class _Rate:
    def __init__(self, rated: Rated, chance: float) -> None:
        self.rated = rated
        self.gate = _Gate(chance)
        self.starts: list[tuple[float, float]] = []

    def weight(self, item: int) -> float:
        costs = self.rated.costs
        return 1 if costs is None else costs[item % len(costs)]

    def allows(self, item: int, now: float) -> bool:
        weight = self.weight(item)
        total = sum(other for began, other in self.starts if began + self.rated.per > now)
        if weight and total + weight > self.rated.n * (1 + 1e-9):
            return False
        return all(opens <= now for opens in (self.gate.opens, self._apart()))

    def times(self) -> Iterator[float]:
        """When it may allow more."""
        yield self.gate.opens
        yield self._apart()
        for began, _ in self.starts:
            yield began + self.rated.per

    def started(self, item: int, now: float) -> None:
        self.starts.append((now, self.weight(item)))

    def _apart(self) -> float:
        if not self.rated.smooth or not self.starts:
            return -math.inf
        began, weight = self.starts[-1]
        return began + min(self.rated.per / self.rated.n * weight, self.rated.per)


class _Key:
    def __init__(self, keyed: Keyed, chance: float) -> None:
        self._most = keyed.most
        self.running = 0
        self._rate = None if keyed.rate is None else _Rate(keyed.rate, chance)
        self.gate = _Gate(chance) if self._rate is None else self._rate.gate

    def allows(self, item: int, now: float) -> bool:
        busy = self._most is not None and self.running >= self._most
        return not busy and self.gate.opens <= now and (self._rate is None or self._rate.allows(item, now))

    def times(self) -> Iterator[float]:
        yield self.gate.opens
        if self._rate is not None:
            yield from self._rate.times()

    def started(self, item: int, now: float) -> None:
        self.running += 1
        if self._rate is not None:
            self._rate.started(item, now)


class _Keys:
    def __init__(self, keyed: Keyed, chance: float) -> None:
        self._keyed, self._chance = keyed, chance
        self._keys: dict[str, _Key] = {}

    def name(self, item: int) -> str | None:
        return self._keyed.keys[item % len(self._keyed.keys)]

    def of(self, item: int) -> _Key | None:
        name = self.name(item)
        return None if name is None else self._keys.setdefault(name, _Key(self._keyed, self._chance))

    def times(self) -> Iterator[float]:
        for key in self._keys.values():
            yield from key.times()


class _Weight:
    def __init__(self, weighed: Weighed) -> None:
        self._weighed = weighed
        self.taken = 0

    def weight(self, item: int) -> int:
        return self._weighed.weights[item % len(self._weighed.weights)]

    def allows(self, item: int) -> bool:
        return self.taken + self.weight(item) <= self._weighed.most


class Rules:
    """All limits of a run, and the gate that each of its maps has for itself."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._limits = [self._rule(limit) for limit in plan.limits]
        self._gates = [_Gate(plan.chance) for _ in plan.parties]
        self.asked_to_wait: list[tuple[float, int, tuple[int, str] | None]] = []
        self.in_flight = 0  # in all maps that have the `Adaptive`

    def _rule(self, limit: Rated | Keyed | Weighed) -> _Rate | _Keys | _Weight:
        if isinstance(limit, Rated):
            return _Rate(limit, self._plan.chance)
        return _Keys(limit, self._plan.chance) if isinstance(limit, Keyed) else _Weight(limit)

    def _of(self, party: int) -> Iterator[_Rate | _Keys | _Weight]:
        for number in self._plan.parties[party].limits:
            yield self._limits[number]

    def keys(self, party: int, item: int) -> list[tuple[int, str]]:
        """The keys that the item has, with the numbers of their limits."""
        numbers = self._plan.parties[party].limits
        keyed = [(number, rule) for number in numbers if isinstance(rule := self._limits[number], _Keys)]
        return [(number, name) for number, rule in keyed if (name := rule.name(item)) is not None]

    def is_keyed(self, party: int) -> int:
        """How many of the map's limits go by key."""
        return sum(isinstance(rule, _Keys) for rule in self._of(party))

    def closed_key(self, party: int, item: int, now: float) -> tuple[int, str] | None:
        """The key that keeps the item from starting, if one does."""
        for number, name in self.keys(party, item):
            rule = self._limits[number]
            assert isinstance(rule, _Keys)
            key = rule.of(item)
            if key is not None and not key.allows(item, now):
                return number, name
        return None

    def all_let(self, party: int, item: int, now: float) -> bool:
        """Whether the limits that go by no key let the item start, and no gate for all is closed."""
        if self._gates[party].opens > now:
            return False
        for rule in self._of(party):
            if isinstance(rule, _Rate) and not rule.allows(item, now):
                return False
            if isinstance(rule, _Weight) and not rule.allows(item):
                return False
        return True

    def times(self, party: int) -> Iterator[float]:
        """When something may change by itself."""
        yield self._gates[party].opens
        for rule in self._of(party):
            if not isinstance(rule, _Weight):
                yield from rule.times()

    def started(self, party: int, item: int, now: float) -> str | None:
        """Counts a start; what was wrong with it, if anything."""
        wrong = None
        if (key := self.closed_key(party, item, now)) is not None:
            wrong = f"its key {key} is closed"
        elif not self.all_let(party, item, now):
            wrong = "a limit or a gate does not allow it"
        for until, whose, closed in self.asked_to_wait:
            if now < until and (whose == party if closed is None else closed in self.keys(party, item)):
                wrong = f"a Retry-After of {closed or 'all'} is to be kept until {until:g}"
        self.in_flight += self._plan.parties[party].adapts
        for rule in self._of(party):
            if isinstance(rule, _Rate):
                rule.started(item, now)
            elif isinstance(rule, _Weight):
                rule.taken += rule.weight(item)
            elif (of := rule.of(item)) is not None:
                of.started(item, now)
        return wrong

    def ended(self, party: int, item: int, began: float, now: float, heard: Heard, retry_after: float | None) -> None:
        """Counts an end, and closes the gate of whoever knows best where a throttle comes from."""
        adapts = self._plan.parties[party].adapts
        self.in_flight -= adapts
        keys = self.keys(party, item)
        throttled = heard == "throttled"
        others: Heard = "other" if throttled and (keys or (adapts and retry_after is None)) else heard
        rated = any(isinstance(rule, _Rate) for rule in self._of(party))
        own: Heard = "other" if throttled and (keys or adapts or rated) else heard
        self._gates[party].ended(began, now, own, retry_after)
        for rule in self._of(party):
            if isinstance(rule, _Rate):
                rule.gate.ended(began, now, others, retry_after)
            elif isinstance(rule, _Weight):
                rule.taken -= rule.weight(item)
            elif (of := rule.of(item)) is not None:
                of.running -= 1
                of.gate.ended(began, now, heard, retry_after)
        if throttled and retry_after:
            until = now + retry_after
            self.asked_to_wait += [(until, party, key) for key in keys] or [(until, party, None)]
