"""Deterministic simulation of whole maps: random scenarios, random schedules, a cancel at every step.

    scenario    what happens in a run, drawn from a seed
    world       runs it with the real engine on virtual time, and writes down what happened
    invariants  what may not happen, judged from what was written down
    sweep       the many runs of one scenario, and how to repeat any of them
    mutants     known ways to break the engine, each of which the invariants must notice

A failure is known by its `Case`. Replay it with one call, as the failure's message says:

    python -m tests.simulation --replay "Case(scenario=17, schedule=3, cancels=(5, 9))"
"""
