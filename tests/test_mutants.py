"""The simulation is worth something: each known way to break the engine is noticed, in a few seconds at most."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from tests.simulation.mutants import MUTANTS, Mutant, load
from tests.simulation.sweep import Broken, Sweep

pytestmark = pytest.mark.once


@contextmanager
def _nobody_looks_at_what_a_broken_engine_leaves_behind() -> Iterator[None]:
    """Its coroutines are never awaited, and complain when they are collected."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
            gc.collect()
    finally:
        sys.unraisablehook = hook


def _sweep(library: ModuleType, *, policies: bool) -> None:
    sweep = Sweep(library)
    if policies:
        sweep.run(range(1500), policies=True)
        sweep.run_and_cancel(range(80), most=500, policies=True)
    else:
        sweep.run_and_cancel(range(80), most=500)
        sweep.run(range(80, 1500))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_simulation_notices_when(mutant: Mutant, tmp_path: Path) -> None:
    """Within 2,000 runs: of 80 scenarios with and without cancels, then of others without."""
    library = load(mutant, tmp_path)
    with _nobody_looks_at_what_a_broken_engine_leaves_behind(), pytest.raises(Broken):
        _sweep(library, policies=mutant.policies)
