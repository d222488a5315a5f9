"""A limit of its own for each key: each host, each account, each model.

Invariant: what happens to one key is nothing to another. The state of a key is dropped as soon as a new one would do as
well, so that a million keys, one after the other, take no memory.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from operator import index as as_integer
from typing import Any, Final, TypeAlias, final

from aiomap._verdict import named, shortened
from aiomap.limits.gate import Gate
from aiomap.limits.limit import Ending
from aiomap.limits.rate import Rate

__all__ = ["PerKey"]

# The key and what the attempt weighs for the key's rate.
_Claim: TypeAlias = tuple[Hashable, float]


@final
class PerKey:
    """At most so many attempts at once, and so many starts in a time, for each key.

    Items of one key start in input order; a key that is busy or closed never holds up the items of another, as long as
    no more than `max(1000, 16 * max_concurrent_tasks)` items wait for their keys. A throttled attempt (`Throttled`,
    HTTP 429) closes its own key only, which is all that a `PerKey` with neither of the two bounds does.

    key: a plain function of the item that gives something hashable; `None` for an item that belongs to no key, which
        is not limited here. Called once per item.
    max_concurrent_tasks: attempts of one key at once, at least 1; `None`: no bound.
    rate: a `Rate` that each key gets a copy of; `None`: no bound.

    Memory: a few hundred bytes per key that is busy, was throttled and has had no success since, or has starts in its
    rate's window.

    >>> import asyncio
    >>> from urllib.parse import urlsplit
    >>> from aiomap import PerKey, Rate, amap
    >>> async def fetch(link: str) -> str:
    ...     return f"page of {link}"
    >>> polite = PerKey(lambda link: urlsplit(link).hostname, max_concurrent_tasks=2, rate=Rate(4))
    >>> asyncio.run(amap(fetch, ["http://a/1", "http://b/1"], max_concurrent_tasks=100, limits=[polite]))
    ['page of http://a/1', 'page of http://b/1']
    """

    __slots__ = ("__weakref__", "_idle", "_keys", "_last", "key", "max_concurrent_tasks", "rate")

    def __init__(
        self, key: Callable[[Any], Hashable], max_concurrent_tasks: int | None = None, rate: Rate | None = None
    ) -> None:
        _check(key, rate)
        self.key: Final = key
        self.max_concurrent_tasks: Final = _count(max_concurrent_tasks)
        self.rate: Final = rate
        self._keys: dict[Hashable, _Key] = {}
        # Not a dict: to find its first key takes as long as there were others before it.
        self._idle: OrderedDict[Hashable, None] = OrderedDict()
        self._last = -math.inf

    def __repr__(self) -> str:
        rest = [f"max_concurrent_tasks={self.max_concurrent_tasks}"] if self.max_concurrent_tasks is not None else []
        rest += [f"rate={self.rate}"] if self.rate is not None else []
        return f"PerKey({', '.join([named(self.key), *rest])})"

    def claim(self, item: Any) -> _Claim | None:
        """The item's key and weight. TypeError if the key is not hashable."""
        key = self.key(item)
        if key is None:
            return None
        try:
            hash(key)
        except TypeError as error:
            fix = f": return tuple(...) of it, or {named(self.key)} of something simpler"
            raise TypeError(
                f"key must return something hashable, but {named(self.key)} returned {shortened(key)} "
                f"({type(key).__name__}){fix}"
            ) from error
        return key, 1 if self.rate is None else self.rate.claim(item)

    def next_start(self, claim: _Claim | None, now: float) -> float:
        """When an attempt of the key may start; inf while as many as may be run."""
        if claim is None:
            return -math.inf
        if now < self._last:
            self._forget(now)
        state = self._keys.get(claim[0])
        if state is None:
            return -math.inf
        if state.running == self.max_concurrent_tasks:
            return math.inf
        return state.limit.next_start(claim[1], now)

    def closed_until(self, claim: _Claim | None) -> float:
        """When the gate of the key opens, if a throttle closed it."""
        state = self._keys.get(claim[0]) if claim is not None else None
        return -math.inf if state is None else state.limit.closed_until(1)

    def started(self, claim: _Claim | None, now: float) -> tuple[Hashable, float] | None:
        """Counts the attempt; the ticket is the key and the time of the start."""
        if claim is None:
            return None
        self._last = now
        self._drop_idle(now)
        state = self._keys.get(claim[0])
        if state is None:
            state = self._keys[claim[0]] = _Key(Gate() if self.rate is None else self.rate.copy())
        self._idle.pop(claim[0], None)
        state.running += 1
        state.limit.started(claim[1], now)
        return claim[0], now

    def ended(
        self, ticket: tuple[Hashable, float] | None, now: float, ending: Ending, retry_after: float | None
    ) -> None:
        """Counts it off, and closes the key's gate if the attempt was throttled."""
        if ticket is None:
            return
        key, start = ticket
        self._last = now
        state = self._keys[key]
        state.running -= 1
        state.limit.ended(start, now, ending, retry_after)
        if state.running:
            return
        if state.limit.is_idle(now):
            del self._keys[key]
        else:
            self._idle[key] = None

    def _drop_idle(self, now: float) -> None:
        """Looks at the two keys that have not been looked at for longest: more leave than can come."""
        for key in [key for key, _ in zip(self._idle, range(2), strict=False)]:
            if self._keys[key].limit.is_idle(now):
                del self._keys[key], self._idle[key]
            else:
                self._idle.move_to_end(key)

    def _forget(self, now: float) -> None:
        """A clock that went back is another clock: see `Rate`."""
        self._last = now
        for key in self._idle:
            del self._keys[key]
        self._idle.clear()


class _Key:
    """What is known of one key: how many of its attempts run, and its rate or, without one, its gate."""

    __slots__ = ("limit", "running")

    def __init__(self, limit: Rate | Gate) -> None:
        self.running = 0
        self.limit = limit


def _check(key: object, rate: object) -> None:
    if not callable(key):
        raise TypeError(
            f"key must be a function of the item that gives its key, got {shortened(key)} ({type(key).__name__}): "
            "write PerKey(lambda item: item.host)"
        )
    if inspect.iscoroutinefunction(key) or inspect.iscoroutinefunction(type(key).__call__):
        raise TypeError(
            f"key must be a plain function of the item, but {named(key)} is an async one, and nobody would await it"
        )
    if rate is not None and not isinstance(rate, Rate):
        raise TypeError(
            f"rate must be None or a Rate, got {shortened(rate)} ({type(rate).__name__}): "
            "write PerKey(key, rate=Rate(4)) for 4 a second"
        )


def _count(most: Any) -> int | None:
    if most is None:
        return None
    rule = "max_concurrent_tasks must be None (no bound) or an integer of at least 1"
    try:
        number = as_integer(most)
    except TypeError:
        number = None
    if number is None or isinstance(most, bool):
        fix = f": write {int(most)}" if isinstance(most, float) and most.is_integer() and most >= 1 else ""
        raise TypeError(f"{rule}, got {shortened(most)} ({type(most).__name__}){fix}")
    if number < 1:
        raise ValueError(f"{rule}, got {number}: 1 runs one item of each key at a time")
    return number
