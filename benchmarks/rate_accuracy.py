"""How well a rate is kept: asked for 20 and for 1,000 starts a second, how many are there, and how many at worst?

Invariant: nobody's own books count. A start is the moment at which the function notices that it runs, and
everybody runs alone, one after the other. There are three times as many items as are asked for a second, plus
one; so a limiter that lets every second's starts go at once has no lead over one that spreads them.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import fresh
import ours
import peers
from contenders import AIOMAP
from handwritten import Function
from rounds import Effort, Figures
from verdict import Bar, Line, Row, cell

RatedMap: TypeAlias = Callable[[Function, list[int], int, int], Awaitable[Any]]

RATED: dict[str, RatedMap] = {
    AIOMAP: ours.at_a_rate,
    "throttler": peers.throttler_at_a_rate,
    "streamable": peers.streamable_at_a_rate,
    "aiometer": peers.aiometer_at_a_rate,
    "tasklane": peers.tasklane_at_a_rate,
    "pyarallel, burst=1": peers.pyarallel_at_a_rate,
    "pyarallel, burst=rate": peers.pyarallel_at_a_rate_in_bursts,
    "aiolimiter": peers.aiolimiter_at_a_rate,
}
LIMIT_AT = {20: 50, 1_000: 200}
CALL = 0.01
TOLERANCE = 0.01
PATIENCE = 60.0
HEAD = ("rate limit", "asked for", "a second, in the long run", "a second, in all", "fullest second", "CPU us a start")


def rate_accuracy(_: Effort) -> Row:
    """Starts per second, in the long run and in the fullest window of one second; CPU time per start."""
    found = {asked: {name: _measure(name, asked) for name in RATED} for asked in LIMIT_AT}
    lines = [_line(asked, seen[AIOMAP]) for asked, seen in found.items()]
    cells = [_cells(name, asked, figures) for asked, seen in found.items() for name, figures in seen.items()]
    return Row(lines, {str(asked): seen for asked, seen in found.items()}, own_table=[HEAD, *cells])


def _measure(name: str, asked: int) -> dict[str, Any]:
    try:
        seen: dict[str, Any] = fresh.call(accuracy, within=PATIENCE, contender=name, asked=asked)
    except fresh.MeasurementFailed as reason:
        return {"failure": str(reason)}
    return seen


def _line(asked: int, seen: dict[str, Any]) -> Line:
    work = f"Rate({asked:,}), {LIMIT_AT[asked]} at a time"
    texts = f"fullest second <= {1 + TOLERANCE:g} x asked", f">= {1 - TOLERANCE:g} x asked in the long run"
    if "failure" in seen:
        return Line(work, cell(Figures(failure=seen["failure"])), tuple(Bar(text, reached=False) for text in texts))
    reached = not _exceeds(asked, seen), seen["sustained"] >= (1 - TOLERANCE) * asked
    figure = f"{seen['sustained']:,.1f}/s, {seen['fullest']:,} in the fullest second"
    return Line(work, figure, tuple(Bar(*pair) for pair in zip(texts, reached, strict=True)))


def _cells(name: str, asked: int, seen: dict[str, Any]) -> Sequence[str]:
    if "failure" in seen:
        return name, f"{asked:,}/s", cell(Figures(failure=seen["failure"])), "-", "-", "-"
    fullest = f"**{seen['fullest']:,}**" if _exceeds(asked, seen) else f"{seen['fullest']:,}"
    return name, f"{asked:,}/s", f"{seen['sustained']:,.1f}", f"{seen['overall']:,.1f}", fullest, f"{seen['cpu']:.0f}"


def _exceeds(asked: int, seen: dict[str, Any]) -> bool:
    return bool(seen["fullest"] > (1 + TOLERANCE) * asked)


def accuracy(contender: str, asked: int) -> dict[str, float]:
    """Measure one contender (in a child).

    The long run leaves out the first second's worth of starts. CPU time, in us, holds that of the function's sleep.
    """
    return asyncio.run(_accuracy(RATED[contender], asked, LIMIT_AT[asked]))


async def _accuracy(rated: RatedMap, asked: int, limit: int) -> dict[str, float]:
    starts: list[float] = []

    async def call(item: int) -> int:
        starts.append(time.monotonic())
        await asyncio.sleep(CALL)
        return item

    await rated(call, [0], limit, asked)
    starts.clear()
    data = list(range(3 * asked + 1))
    gc.collect()
    begun = time.process_time()
    await rated(call, data, limit, asked)
    cpu = time.process_time() - begun
    if len(starts) != len(data):
        raise ValueError(f"{len(starts)} starts for {len(data)} items")
    return {
        "sustained": 2 * asked / (starts[-1] - starts[asked]),
        "overall": 3 * asked / (starts[-1] - starts[0]),
        "fullest": fullest_second(starts),
        "cpu": 1e6 * cpu / len(data),
    }


def fullest_second(starts: list[float]) -> int:
    """Give the most starts in any half-open window of one second; `starts` are in order."""
    most = oldest = 0
    for number, start in enumerate(starts, 1):
        while start - starts[oldest] >= 1:
            oldest += 1
        most = max(most, number - oldest)
    return most
