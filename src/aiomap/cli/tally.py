"""What a sitting has come to so far: how many items ended how, how long they took, and how fast it goes.

Invariant: it takes the same memory after ten items and after a billion. Percentiles are read off a histogram, to within
one percent; speeds come from a few looks at the run's counts.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final, final

from aiomap._foreign import redacted
from aiomap._outcome import Stats

__all__ = ["OTHERS", "Example", "Tally", "ended"]

OTHERS: Final = "(others)"
"""The class of failures that are of a class beyond the first hundred."""

_MOST_CLASSES: Final = 100
# Characters that are kept of what came from outside.
_LONGEST_NAME: Final = 100
_LONGEST_MESSAGE: Final = 300
_CONSIDERED: Final = 2000

# Each bucket of the histogram reaches two percent higher than the one below.
_STEP: Final = math.log(1.02)
_SHORTEST: Final = 1e-6  # seconds

# Seconds. What happens now, and what can be expected to go on: a long enough time to hold some pauses and retries.
_NOW: Final = 10.0
_LATELY: Final = 300.0
_LOOKS: Final = 20


def ended(stats: Stats) -> int:
    """The items that have ended in this sitting, for good and by themselves."""
    return stats.done + stats.failed + stats.skipped


@final
@dataclass(frozen=True, slots=True)
class Example:
    """The first failure of its class.

    where: where the item stands in the input, as in "line 17"; empty if the message says it.
    message: what happened, as it came from outside, but without secrets.
    """

    where: str
    message: str


@final
class Tally:
    """Counts the items of a sitting as they end, and is shown the run's own counts now and then.

    failed: how many items failed, by class.
    examples: the first failure of each class.
    retries: attempts beside the first of an item.
    longest: seconds of the longest last attempt.

    >>> tally = Tally()
    >>> for elapsed in (0.1, 0.2, 0.3):
    ...     tally.add_success(elapsed, attempts=1)
    >>> tally.add_failure("timeout", "line 4", "no answer", elapsed=2.0, attempts=4)
    >>> round(tally.percentile(0.5), 2), tally.failed["timeout"], tally.retries
    (0.2, 1, 3)
    """

    def __init__(self) -> None:
        self.failed: Counter[str] = Counter()
        self.examples: dict[str, Example] = {}
        self.retries = 0
        self.longest = 0.0
        self._latencies: Counter[int] = Counter()
        self._now = _Window(_NOW)
        self._lately = _Window(_LATELY)

    def add_success(self, elapsed: float, attempts: int) -> None:
        """An item succeeded, within so many seconds at the last of so many attempts."""
        self.retries += attempts - 1
        self._add_latency(elapsed)

    def add_failure(self, kind: str, where: str, message: str, elapsed: float, attempts: int) -> None:
        """An item failed for good, at the last of so many attempts; `kind` is the class of its failure."""
        kind = kind[:_LONGEST_NAME]
        if kind not in self.failed and len(self.failed) >= _MOST_CLASSES:
            kind = OTHERS
        self.failed[kind] += 1
        if kind not in self.examples:
            shown = redacted(message[:_CONSIDERED])  # before it is cut: what is left of a secret is one
            self.examples[kind] = Example(where[:_LONGEST_NAME], shown[:_LONGEST_MESSAGE])
        self.retries += attempts - 1
        if kind != "bad_input":  # it was never called for
            self._add_latency(elapsed)

    def _add_latency(self, elapsed: float) -> None:
        self.longest = max(self.longest, elapsed)
        self._latencies[round(math.log(max(elapsed, _SHORTEST)) / _STEP)] += 1

    @property
    def timed(self) -> bool:
        """Whether there is any latency to speak of."""
        return bool(self._latencies)

    def percentile(self, fraction: float) -> float:
        """The seconds that this fraction of the last attempts did not exceed; 0 if there were none."""
        left = fraction * self._latencies.total()
        for bucket in sorted(self._latencies):
            left -= self._latencies[bucket]
            if left <= 0:
                return math.exp(bucket * _STEP)
        return 0.0

    def look(self, seconds: float, stats: Stats) -> None:
        """Takes in how the run stands after so many seconds of the sitting; to be called often, at no great cost."""
        seen = _Look(seconds, ended(stats), dict(stats.slot_seconds))
        self._now.add(seen)
        self._lately.add(seen)

    @property
    def rate_now(self) -> float:
        """Items that ended per second, in the last 10 seconds."""
        return self._now.rate()

    @property
    def rate_lately(self) -> float:
        """Items that ended per second, in the last 5 minutes."""
        return self._lately.rate()

    @property
    def wait(self) -> str | None:
        """Where most time of the slots went in the last 10 seconds: a key of `Stats.slot_seconds`; `None`: nowhere."""
        return self._now.wait()


@final
@dataclass(frozen=True, slots=True)
class _Look:
    seconds: float
    ended: int
    slot_seconds: dict[str, float]


@final
class _Window:
    """The looks of the last `span` seconds, and one from before it; about twenty of them."""

    def __init__(self, span: float) -> None:
        self._span = span
        self._looks = deque([_Look(0.0, 0, {})])

    def add(self, seen: _Look) -> None:
        looks = self._looks
        if len(looks) > 1 and seen.seconds - looks[-2].seconds < self._span / _LOOKS:
            looks.pop()  # the latest one stays only once there is a good distance between it and the one before
        looks.append(seen)
        while len(looks) > 1 and seen.seconds - looks[1].seconds >= self._span:
            looks.popleft()

    def rate(self) -> float:
        first, last = self._looks[0], self._looks[-1]
        passed = last.seconds - first.seconds
        return (last.ended - first.ended) / passed if passed > 0 else 0.0

    def wait(self) -> str | None:
        first, last = self._looks[0], self._looks[-1]
        grown = {why: spent - first.slot_seconds.get(why, 0.0) for why, spent in last.slot_seconds.items()}
        most = max(grown, key=grown.__getitem__, default=None)
        return most if most is not None and grown[most] > 0 else None
