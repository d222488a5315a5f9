"""Deterministic simulation of whole maps: random scenarios, random schedules, a cancel at every step.

    scenario    what happens in a run, drawn from a seed
    policies    the timeout, retry and limits that go with it in some runs, and a second map that shares them
    world       runs it with the real engine on virtual time; source is the input, tools are the policies, record what
                they write down
    invariants  what may not happen, judged from the record
    trial       what may not happen in runs with policies; rules are the limits once more, to judge by
    sweep       the many runs of a scenario, and how to repeat one of them
    mutants     known ways to break the engine, each of which the invariants must notice

`python -m tests.simulation --count 100000 --seed 1000` tries more than the tests do. A failure is known by its `Case`,
and its message ends with the one call that replays it.
"""

from __future__ import annotations

from tests.simulation.record import Case
from tests.simulation.sweep import replay

__all__ = ["Case", "replay"]
