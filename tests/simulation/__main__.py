"""A long sweep, or one case again: `python -m tests.simulation --count 100000 --seed 1`."""

from __future__ import annotations

import argparse
import itertools
import sys
import time

from tests.simulation.sweep import Sweep, replay
from tests.simulation.world import Case


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="how many simulations (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first scenario (%(default)s)")
    parser.add_argument("--eager", action="store_true", help="with asyncio.eager_task_factory (Python 3.12)")
    parser.add_argument("--debug", action="store_true", help="in asyncio's debug mode")
    parser.add_argument("--replay", metavar="CASE", help="only this one, as a failure's message shows it")
    arguments = parser.parse_args()
    if arguments.replay:
        replay(eval(arguments.replay, {"Case": Case}))
        return 0
    began = time.perf_counter()
    sweep = Sweep()
    scenarios = itertools.count(arguments.seed)
    sweep.run(scenarios, most=arguments.count, eager=arguments.eager, debug=arguments.debug)
    took = time.perf_counter() - began
    print(f"{sweep.count} simulations in {took:.1f} s, no violation, digest {sweep.digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
