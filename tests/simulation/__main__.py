"""A long sweep, from the command line."""

from __future__ import annotations

import argparse
import itertools
import time

from tests.simulation.sweep import Sweep


def main() -> None:
    """Sweeps scenario after scenario until enough was simulated, or one is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=main.__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="how many simulations, or a few more (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first scenario (%(default)s)")
    parser.add_argument("--eager", action="store_true", help="with asyncio.eager_task_factory (Python 3.12)")
    parser.add_argument("--debug", action="store_true", help="in asyncio's debug mode")
    arguments = parser.parse_args()
    began = time.perf_counter()
    sweep = Sweep(eager=arguments.eager, debug=arguments.debug)
    for first in itertools.count(arguments.seed, 5):
        if sweep.count >= arguments.count:
            break
        for policies in (False, True):
            sweep.run_and_cancel(range(first, first + 5), policies=policies)
    took = time.perf_counter() - began
    print(f"{sweep.count} simulations in {took:.1f} s, no promise broken, digest {sweep.digest}")  # noqa: T201


if __name__ == "__main__":
    main()
