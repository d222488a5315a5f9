"""Row 6: 100,000 items asleep at the same time: what does the map add to what the event loop's timers cost?

Invariant: everybody is asleep before anybody wakes, or the run fails; so the concurrency is really reached.
"""

from __future__ import annotations

import asyncio
import gc
import time

import fresh
from contenders import AIOMAP, CONTENDERS, FLOOR
from rounds import Effort, take_turns
from verdict import Row, against, column, raw

SLEEPERS = 100_000
ASLEEP_WITHIN = 4.0
PATIENCE = 60.0
RIVALS = ("published recipe", "semaphore + gather")


def many_sleepers(effort: Effort) -> Row:
    """Row 6: CPU time per sleeper, all of them at once."""
    figures = take_turns([AIOMAP, FLOOR, *RIVALS], _microseconds, effort.sleeper_rounds)
    line = against(f"{SLEEPERS:,} sleepers at once", figures, FLOOR, 1.4)
    return Row([line], raw(figures), {f"{SLEEPERS:,} sleepers": column(figures)})


def _microseconds(name: str) -> list[float]:
    seen: list[float] = fresh.call(microseconds_per_sleeper, within=PATIENCE, contender=name)
    return seen


def microseconds_per_sleeper(contender: str) -> list[float]:
    """Let 100,000 items sleep until one instant (in a child), with as many slots; CPU time per item."""
    return [1e6 * asyncio.run(_cpu_seconds(contender)) / SLEEPERS]


async def _cpu_seconds(contender: str) -> float:
    in_a_list = CONTENDERS[contender].in_a_list
    if in_a_list is None:
        raise ValueError(f"{contender} has no list")
    loop = asyncio.get_running_loop()
    data = list(range(SLEEPERS))
    gc.collect()
    wake_at = loop.time() + ASLEEP_WITHIN

    async def sleep(item: int) -> int:
        left = wake_at - loop.time()
        if left <= 0:
            raise TimeoutError(f"only {item:,} were asleep after {ASLEEP_WITHIN} s")
        await asyncio.sleep(left)
        return item

    start = time.process_time()
    await in_a_list(sleep, data, SLEEPERS)
    return time.process_time() - start
