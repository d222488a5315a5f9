"""Let contenders take turns, and keep every figure of every round.

Invariant: noise hits all alike. Everybody runs once before anybody runs again, and the figure that counts is
the smallest one: what disturbs a run can only make it longer.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fresh import MeasurementFailed


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Rounds of the CPU rows, of the sleepers, of imports and of HTTP; how often to sleep in real time; how
    many items the long stream has.
    """

    rounds: int
    sleeper_rounds: int
    import_rounds: int
    http_rounds: int
    real_runs: int
    stream_items: int


NORMAL = Effort(5, sleeper_rounds=3, import_rounds=9, http_rounds=40, real_runs=3, stream_items=10_000_000)
QUICK = Effort(2, sleeper_rounds=1, import_rounds=3, http_rounds=10, real_runs=1, stream_items=1_000_000)


@dataclass(slots=True)
class Figures:
    """What one contender reached in all rounds, smaller is better; or why there is nothing."""

    values: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def best(self) -> float:
        """The smallest figure; infinity if the contender failed."""
        return math.inf if self.failure else min(self.values)


def take_turns(contenders: Iterable[str], measure: Callable[[str], list[float]], rounds: int) -> dict[str, Figures]:
    """Measure every contender once a round; one that fails is left out from then on."""
    figures = {name: Figures() for name in contenders}
    for number in range(1, rounds + 1):
        print(f"  round {number} of {rounds}", file=sys.stderr)
        for name, reached in figures.items():
            if reached.failure is None:
                _add(reached, measure, name)
    return figures


def _add(reached: Figures, measure: Callable[[str], list[float]], name: str) -> None:
    try:
        reached.values += measure(name)
    except MeasurementFailed as reason:
        reached.failure = str(reason)


def apart(what: tuple[str, ...], figures: Mapping[str, Figures]) -> dict[str, dict[str, Figures]]:
    """Take apart what came from each run as one list."""
    return {
        kind: {name: Figures(one.values[place :: len(what)], one.failure) for name, one in figures.items()}
        for place, kind in enumerate(what)
    }
