"""The values that a map hands out.

Invariant: they are immutable, and hold no task, loop or engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Generic, Never, Protocol, TypeVar, cast, final

T = TypeVar("T")
R = TypeVar("R")


class _Skip:
    """The type of SKIP."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "SKIP"

    def __reduce__(self) -> str:
        # A function may return it from another process: it must arrive as the same object.
        return "SKIP"


# Typed Never, which fits every return type: a function annotated `-> Page` may return it.
SKIP: Final[Never] = cast("Never", _Skip())
"""Returned by your function, it leaves the item out of the results: `amap` gives a shorter list, a stream goes on.

>>> import asyncio
>>> from aiomap import SKIP, amap
>>> async def even(number: int) -> int:
...     return number if number % 2 == 0 else SKIP
>>> asyncio.run(amap(even, range(5)))
[0, 2, 4]
"""


# Without slots: with them, a frozen generic dataclass cannot be made as `Outcome[str, bytes](...)`.
@final
@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """How one item ended, as `aoutcomes` yields it.

    index: the item's position in the input, from 0.
    item: the element of the input itself.
    value: what the function returned; `None` if it failed.
    error: what it raised; `None` if it succeeded.
    attempts: how often the function was called for the item.
    started: seconds from the start of the run to the start of the last attempt.
    elapsed: seconds from there to its end.

    >>> Outcome(0, "a", 1, None, 1, 0.0, 0.5).ok
    True
    """

    index: int
    item: T
    value: R | None
    error: Exception | None
    attempts: int
    started: float
    elapsed: float

    @property
    def ok(self) -> bool:
        """Whether the item succeeded (its value may still be `None`)."""
        return self.error is None


@final
@dataclass(frozen=True, slots=True)
class Stats:
    """One consistent snapshot of a run.

    `pulled` is the sum of `running`, `waiting`, `retrying`, `done`, `failed`, `skipped`, `cancelled` and `recorded`.

    pulled: items taken from the input.
    running: attempts that run at this instant.
    waiting: items taken from the input and not started yet.
    retrying: items that wait for their next attempt.
    done: items that succeeded, delivered or not.
    failed: items that failed for good, whatever `on_error` made of them.
    skipped: items whose function returned SKIP.
    cancelled: items cut short because the run was stopped.
    recorded: items that the journal has from an earlier run, whatever they came to; they are counted here alone.
    buffered: items that have ended and wait in the stream, to be taken or for their turn.
    slot_seconds: where the time of the slots went, in slot-seconds since the start. Keys: `function` (an attempt ran),
        `source` (free, the input had nothing), `limit`, `gate`, `backoff` (free, a policy said wait), `consumer` (free,
        the buffer was full or the stream paused), `idle` (free, nothing left to do).
    """

    pulled: int
    running: int
    waiting: int
    retrying: int
    done: int
    failed: int
    skipped: int
    cancelled: int
    recorded: int
    buffered: int
    slot_seconds: Mapping[str, float]


class Observer(Protocol):
    """Looks on ten times a second, and once when the run is over. It never raises."""

    def update(self, stats: Stats) -> None: ...

    def close(self, stats: Stats) -> None: ...
