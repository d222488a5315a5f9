"""Deterministic simulation of whole maps: random scenarios, random schedules, a cancel at every step.

    scenario    what happens in a run, drawn from a seed
    world       runs it with the real engine on virtual time; source is the input, record what both write down
    invariants  what may not happen, judged from the record
    sweep       the many runs of a scenario, and how to repeat one of them
    mutants     known ways to break the engine, each of which the invariants must notice

`python -m tests.simulation --count 100000 --seed 1000` tries more than the tests do. A failure is known by its `Case`,
and its message ends with the one call that replays it.
"""

from __future__ import annotations

from tests.simulation.record import Case
from tests.simulation.sweep import replay

__all__ = ["Case", "replay"]
