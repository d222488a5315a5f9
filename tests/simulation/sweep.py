"""The many runs of a scenario, and the report on one that went wrong.

Invariant: which cases a sweep tries depends on its arguments, and on how many steps the runs without a cancel take.
"""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from types import ModuleType

import aiomap
from tests.simulation.record import Case, Record
from tests.simulation.trial import violations
from tests.simulation.world import simulate

__all__ = ["Broken", "Sweep", "replay"]


class Broken(AssertionError):
    """A run broke a promise."""


def replay(case: Case, library: ModuleType = aiomap) -> Record:
    """Runs one case; `Broken` if an invariant does not hold."""
    record = simulate(case, library)
    if broken := violations(record):
        raise Broken(_report(record, broken))
    return record


class Sweep:
    """Tries cases until one is `Broken`; `count` tells how many."""

    def __init__(self, library: ModuleType = aiomap, *, eager: bool = False, debug: bool = False) -> None:
        self.count = 0
        self._library, self._eager, self._debug = library, eager, debug
        self._history = blake2b(digest_size=8)

    @property
    def digest(self) -> str:
        """A hash of everything that happened, step for step."""
        return self._history.hexdigest()

    def run(self, scenarios: Sequence[int], *, policies: bool = False) -> list[tuple[Case, int]]:
        """One run of each scenario without a cancel; gives the cases, and the steps that each took."""
        first = Case(0, 0, eager=self._eager, debug=self._debug, policies=policies)
        cases = [replace(first, scenario=scenario, schedule=scenario % 7) for scenario in scenarios]
        return [(case, self._replay(case).steps) for case in cases]

    def run_and_cancel(self, scenarios: Sequence[int], *, most: int = sys.maxsize, policies: bool = False) -> None:
        """Each scenario with a cancel at every step and more, at most `most` runs, in an order that varies much."""
        cases = [
            variant for case, steps in self.run(scenarios, policies=policies) for variant in _variants(case, steps)
        ]
        random.Random(len(cases)).shuffle(cases)
        for case in cases[:most]:
            self._replay(case)

    def _replay(self, case: Case) -> Record:
        self.count += 1
        if self.count % 100 == 0:
            gc.collect()  # a SimLoop hides its garbage from the collector's own count
        record = replay(case, self._library)
        self._history.update(record.trace.encode())
        return record


def _variants(case: Case, steps: int) -> Iterator[Case]:
    """With another schedule, with a cancel at every step, with pairs of them, and with a shutdown."""
    dice = random.Random(case.scenario)
    yield replace(case, schedule=case.schedule + 1, collect=True)
    for step in range(2, steps + 1):
        yield replace(case, cancels=(step,), collect=dice.random() < 0.05)
    for step in range(2, steps):
        yield replace(case, cancels=(step, step + dice.randint(1, 6)))
    for _ in range(2):
        yield replace(case, shutdown=dice.randint(2, steps))


def _report(record: Record, broken: list[str]) -> str:
    story = [f"{event.at:7.2f}  {event.of} {event.what} {event.item} {event.detail!r}" for event in record.events]
    lines = [
        *broken,
        f"\nscenario: {record.scenario}" if record.plan is None else f"\nplan: {record.plan}",
        "\nwhat happened (virtual seconds, map, event, item, detail):",
        *story,
        f'\nreplay it:  python -c "from tests.simulation import *; replay({record.case})"',
    ]
    return "\n".join(lines)
