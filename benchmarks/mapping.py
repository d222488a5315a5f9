"""Rows 1, 2 and 3: what a map costs per item, in CPU time, when the function itself costs next to nothing.

Invariant: everybody maps the same function over a list that exists already, ten at a time (the default of `amap`),
inside a running event loop; `gc.collect()` before each run, the collector left on. What comes back is checked
outside of the time that is taken: a list must be right, a stream must have given a result for every item.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import fresh
from contenders import AIOMAP, ALL_POLICIES, BARE_LOOP, CONTENDERS, FLOOR, ISOLATED, POLICIES, ListMap, StreamMap
from handwritten import Function
from rounds import Effort, Figures, take_turns
from verdict import Bar, Line, Row, against, cell, column, raw

LIMIT = 10
POLICIES_REACH = 2.0
REPEATS = 3
PATIENCE = 60.0


async def at_once(item: int) -> int:
    """Return without a suspension."""
    return item


async def suspends_once(item: int) -> int:
    """Give the event loop one turn."""
    await asyncio.sleep(0)
    return item


FUNCTIONS: dict[str, Function] = {"at once": at_once, "suspends once": suspends_once}


def list_at_once(effort: Effort) -> Row:
    """Row 1: a list, the function returns at once; also with variables in the caller's context."""
    names = [name for name, contender in CONTENDERS.items() if contender.in_a_list]
    plain = _take_turns(effort, names, "in_a_list", "at once")
    crowded = _take_turns(effort, [AIOMAP, BARE_LOOP], "in_a_list", "at once", variables=3)
    return Row(
        [
            against("list, returns at once", plain, BARE_LOOP, 2.5, peers_at_least=8),
            against("the same, 3 context variables", crowded, BARE_LOOP, 4),
            Line("the same, isolate=True", f"{cell(plain[ISOLATED])} us"),
        ],
        {"plain": raw(plain), "3 context variables": raw(crowded)},
        {"list, at once": column(plain), "list, at once, 3 variables": column(crowded)},
    )


def list_suspends_once(effort: Effort) -> Row:
    """Row 2: a list, the function suspends once."""
    names = [name for name, contender in CONTENDERS.items() if contender.in_a_list and name != BARE_LOOP]
    figures = _take_turns(effort, names, "in_a_list", "suspends once")
    line = against("list, suspends once", figures, FLOOR, 1.15, peers_at_least=1)
    return Row([line], raw(figures), {"list, `sleep(0)`": column(figures)})


def list_policies(effort: Effort) -> Row:
    """Row 1 under policies that never bind: what they cost on top of the plain list, measured in turn with it."""
    names = [policy.name for policy in POLICIES]
    figures = _take_turns(effort, [AIOMAP, *names], "guarded", "at once")
    return Row([_on_top(name, figures) for name in names], raw(figures))


def _on_top(name: str, figures: dict[str, Figures]) -> Line:
    failure = figures[AIOMAP].failure or figures[name].failure
    cost = figures[name].best - figures[AIOMAP].best
    bar = Bar(f"<= {POLICIES_REACH:g} us on top", failure is None and cost <= POLICIES_REACH)
    figure = cell(Figures(failure=failure)) if failure else f"+ {cost:.2f} us"
    return Line(f"list, returns at once, {name}", figure, (bar,) if name == ALL_POLICIES else ())


def stream_ordered(effort: Effort) -> Row:
    """Row 3, first half: a stream in input order, the function returns at once."""
    names = [name for name, contender in CONTENDERS.items() if contender.ordered]
    return _stream(effort, names, "ordered", at_most=7)


def stream_unordered(effort: Effort) -> Row:
    """Row 3, second half: a stream as completed, the function returns at once."""
    names = [name for name, contender in CONTENDERS.items() if contender.unordered]
    return _stream(effort, names, "unordered", at_most=6)


def _stream(effort: Effort, names: Sequence[str], shape: str, at_most: float) -> Row:
    figures = _take_turns(effort, [BARE_LOOP, *names], shape, "at once")
    line = against(f"stream {shape}, returns at once", figures, BARE_LOOP, at_most, peers_at_least=6)
    return Row([line], raw(figures), {f"stream, {shape}": column(figures)})


def _take_turns(
    effort: Effort, names: Sequence[str], shape: str, function: str, variables: int = 0
) -> dict[str, Figures]:
    def measure(name: str) -> list[float]:
        seen: list[float] = fresh.call(
            microseconds_per_item,
            within=PATIENCE,
            contender=name,
            shape=shape if getattr(CONTENDERS[name], shape) else "in_a_list",
            function=function,
            variables=variables,
        )
        return seen

    return take_turns(names, measure, effort.rounds)


def microseconds_per_item(contender: str, shape: str, function: str, variables: int) -> list[float]:
    """Measure one contender (in a child): CPU time per item in each of three runs after a warm-up."""
    chosen = CONTENDERS[contender]
    context = contextvars.copy_context()
    for number in range(variables):
        context.run(contextvars.ContextVar[int](f"variable_{number}").set, number)
    time_once = _time_stream if shape in {"ordered", "unordered"} else _time_list
    runs = _warm_up_and_time(time_once, getattr(chosen, shape), FUNCTIONS[function], chosen.items)
    return [1e6 * seconds / chosen.items for seconds in context.run(asyncio.run, runs)]


async def _warm_up_and_time(
    time_once: Callable[[Any, Function, list[int]], Awaitable[float]],
    adapter: Any,
    function: Function,
    items: int,
) -> list[float]:
    await time_once(adapter, function, list(range(max(LIMIT, items // 10))))
    data = list(range(items))
    return [await time_once(adapter, function, data) for _ in range(REPEATS)]


async def _time_list(adapter: ListMap, function: Function, data: list[int]) -> float:
    gc.collect()
    start = time.process_time()
    results = await adapter(function, data, LIMIT)
    seconds = time.process_time() - start
    if results != data:
        raise ValueError("wrong results")
    return seconds


async def _time_stream(adapter: StreamMap, function: Function, data: list[int]) -> float:
    gc.collect()
    start = time.process_time()
    async with adapter(function, data, LIMIT) as stream:
        results = [result async for result in stream]
    seconds = time.process_time() - start
    if len(results) != len(data):
        raise ValueError(f"{len(results)} results of {len(data)}")
    return seconds
