"""The published recipe's own example, and its benchmark: 100 random sleeps, 10 at a time."""

from __future__ import annotations

import asyncio
import heapq
import random
from typing import Any, Self

from aiomap import amap
from aiomap.testing import simulate


class Bar:
    """What tqdm gives, without the screen."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.n = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self) -> None:
        self.n += 1


def best_list_schedule(durations: list[float], slots: int) -> float:
    """When the last of them ends if each starts, in order, as soon as a slot is free (Graham, 1966)."""
    free = [0.0] * slots
    for seconds in durations:
        heapq.heappush(free, heapq.heappop(free) + seconds)
    return max(free)


def test_the_recipes_example_runs_unchanged() -> None:
    random.seed(41)
    inputs = [random.random() for _ in range(100)]
    bars: list[Bar] = []

    async def mycoroutine(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds * 2

    async def main() -> Any:
        with Bar(total=len(inputs)) as pbar:
            bars.append(pbar)
            return await amap(mycoroutine, inputs, 10, callback=lambda *_: pbar.update())

    assert simulate(main) == [seconds * 2 for seconds in inputs]
    assert [bar.n for bar in bars] == [100]


def test_100_random_sleeps_take_what_the_best_list_schedule_takes() -> None:
    random.seed(41)
    inputs = [random.random() for _ in range(100)]
    best = best_list_schedule(inputs, 10)

    async def main() -> float:
        await amap(asyncio.sleep, inputs, 10)
        return asyncio.get_running_loop().time()

    assert round(best, 4) == 5.3395
    assert best <= simulate(main) <= best * 1.000001
