"""The many runs of a scenario, and the report on one that went wrong.

Invariant: which cases a sweep tries depends on its arguments and on the number of steps that the clean runs take.
"""

from __future__ import annotations

import gc
import random
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import chain

import aiomap
from tests.simulation.invariants import violations
from tests.simulation.world import Case, Record, simulate

__all__ = ["Broken", "Sweep", "replay"]


class Broken(AssertionError):
    """A run broke an invariant."""

    def __init__(self, record: Record, wrong: list[str]) -> None:
        super().__init__(_report(record, wrong))
        self.case = record.case


def replay(case: Case, library: types.ModuleType = aiomap) -> Record:
    """Runs one case; `Broken` if an invariant does not hold."""
    record = simulate(case, library)
    if wrong := violations(record):
        raise Broken(record, wrong)
    return record


class Sweep:
    """Tries cases until one is broken; `count` and `digest` tell how many, and what happened in them, step for step."""

    def __init__(self, library: types.ModuleType = aiomap) -> None:
        self.count = 0
        self._library = library
        self._history = blake2b(digest_size=8)

    @property
    def digest(self) -> str:
        return self._history.hexdigest()

    def run(self, scenarios: Sequence[int], *, most: int = sys.maxsize, eager: bool = False, debug: bool = False) -> None:
        """All runs of these scenarios, at most `most`, and varied ones first, so that a few of them tell much."""
        clean = [Case(scenario, scenario % 7, eager=eager, debug=debug) for scenario in scenarios]
        steps = [self._replay(case).steps for case in clean[: most - self.count]]
        cancelled = list(chain.from_iterable(map(_cancelled, clean, steps)))
        random.Random(len(cancelled)).shuffle(cancelled)
        for case in cancelled[: most - self.count]:
            self._replay(case)

    def _replay(self, case: Case) -> Record:
        self.count += 1
        if self.count % 100 == 0:
            gc.collect()  # a SimLoop hides its garbage from the collector's own count
        record = replay(case, self._library)
        self._history.update(record.trace.encode())
        return record


def _cancelled(clean: Case, steps: int) -> Iterator[Case]:
    """With another schedule, with a cancel at every step, with pairs of them, and with a shutdown."""
    dice = random.Random(clean.scenario)
    yield replace(clean, schedule=clean.schedule + 1, collect=True)
    for step in range(2, steps + 1):
        yield replace(clean, cancels=(step,), collect=dice.random() < 0.05)
    for step in range(2, steps):
        yield replace(clean, cancels=(step, step + dice.randint(1, 6)))
    for _ in range(2):
        yield replace(clean, shutdown=dice.randint(2, steps))


def _report(record: Record, wrong: list[str]) -> str:
    story = [f"{event.at:7.2f}  {event.what} {event.index} {event.detail!r}" for event in record.log]
    return "\n".join(
        [
            *wrong,
            "",
            f"scenario: {record.scenario}",
            "what happened (virtual seconds, event, item, detail):",
            *story,
            "",
            f'replay it:  python -m tests.simulation --replay "{record.case}"',
        ]
    )
