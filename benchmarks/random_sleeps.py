"""Row 4: 100 random sleeps, 10 at a time, the published recipe's own benchmark: is the schedule the best one?

Invariant: the schedule to reach is the one in which the next item starts at the instant at which a slot gets
free; it is computed here, not quoted. aiomap sleeps with nothing else running, the peers sleep side by side.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from concurrent.futures import ThreadPoolExecutor

import fresh
from contenders import AIOMAP, BARE_LOOP, CONTENDERS
from rounds import Effort, Figures, take_turns
from verdict import Bar, Line, Row, cell, column, raw, rival_of

LIMIT = 10
TOLERANCE = 1.005
PATIENCE = 60.0
HEAD_START = 4.0

_generator = random.Random(41)
SECONDS = [_generator.random() for _ in range(100)]


def best_schedule(durations: list[float], workers: int) -> float:
    """Give the end (seconds) of the schedule in which the next item goes to the worker that is free first."""
    free_at = [0.0] * workers
    for duration in durations:
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)


def random_sleeps(effort: Effort) -> Row:
    """Row 4: aiomap in real and in virtual time, then everybody who can be bounded, in real time."""
    alone = take_turns([AIOMAP], _real_seconds, effort.real_runs)
    virtual = take_turns([AIOMAP], lambda _: fresh.call(virtual_seconds, within=PATIENCE), 1)
    figures = alone | _side_by_side()
    return Row(
        [
            _line("100 random sleeps, real time", alone, rival_of(figures)),
            _line("the same, virtual time", virtual),
        ],
        {"alone": raw(alone), "virtual": raw(virtual), "side by side": raw(figures)},
        {"100 sleeps (s)": column(figures)},
    )


def _line(work: str, figures: dict[str, Figures], rival: str = "-") -> Line:
    best = best_schedule(SECONDS, LIMIT)
    bar = Bar(f"<= {best:.4f} s + 0.5 %", figures[AIOMAP].best <= best * TOLERANCE)
    return Line(work, f"{cell(figures[AIOMAP], '.4f')} s", (bar,), rival)


def _real_seconds(name: str, begin_at: float = 0.0) -> list[float]:
    seen: list[float] = fresh.call(real_seconds, within=PATIENCE, contender=name, begin_at=begin_at)
    return seen


def _side_by_side() -> dict[str, Figures]:
    names = [name for name, one in CONTENDERS.items() if one.in_a_list and one.bounded]
    names = [name for name in names if name not in (AIOMAP, BARE_LOOP)]
    begin_at = time.time() + HEAD_START
    with ThreadPoolExecutor(len(names)) as pool:
        found = pool.map(lambda name: take_turns([name], lambda name: _real_seconds(name, begin_at), 1), names)
        return {name: figures for one in found for name, figures in one.items()}


def real_seconds(contender: str, begin_at: float) -> list[float]:
    """Time one contender (in a child) by the wall clock, from that time of day on (at once if it is over)."""
    time.sleep(max(0.0, begin_at - time.time()))
    return [asyncio.run(_elapsed(contender))]


def virtual_seconds() -> list[float]:
    """Time aiomap (in a child) on an event loop in which only sleeping takes time."""
    from aiomap.testing import SimLoop

    return [SimLoop().run(_elapsed(AIOMAP))]


async def _elapsed(contender: str) -> float:
    in_a_list = CONTENDERS[contender].in_a_list
    if in_a_list is None:
        raise ValueError(f"{contender} has no list")
    await in_a_list(_sleep, [-1] * LIMIT, LIMIT)
    start = asyncio.get_running_loop().time()
    await in_a_list(_sleep, list(range(len(SECONDS))), LIMIT)
    return asyncio.get_running_loop().time() - start


async def _sleep(item: int) -> int:
    await asyncio.sleep(SECONDS[item] if item >= 0 else 0)
    return item
