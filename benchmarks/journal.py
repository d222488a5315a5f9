"""What it costs to record results, beside everybody who does, and what a journal of a million results costs to open.

Invariant: everybody maps the same function, ten at a time, and records in a new file of one and the same disk; each
run is an interpreter of its own, and its results are checked outside of the time that is taken. A run is timed from
the call until it returned, when all is recorded. CPU time is told apart: that of the event loop's thread, which is
what others in the loop have to wait for, and that of the process, with the threads that write.

A stall is the longest time between two turns of the event loop while results of 2 MB are recorded, one at a time;
results that arrive in the same turn would add up.
"""

from __future__ import annotations

import asyncio
import gc
import math
import tempfile
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import fresh
from recorders import JOURNAL, PLAIN, RECORDERS, WITH_MSGSPEC, Recorder
from rounds import Effort, Figures, apart, take_turns
from verdict import Bar, Line, Row, cell, raw

# Not `tempfile`'s own choice, which on many machines is memory: what is synced there costs nothing.
FOLDER = "/var/tmp"  # noqa: S108  # the directories made in it are private
LIMIT = 10
COST_REACH = 9.0
RATE_REACH = 50_000
PATIENCE = 120.0

BIG_RESULTS = 4
BIG_BYTES = 2_000_000
STALL_REACH = 10.0

RECORDED = 1_000_000
DELIVERED = 50_000
REOPENINGS = 3
OPEN_REACH = 2.5
MEMORY_REACH = 250.0

COSTS = ("loop CPU us", "process CPU us", "wall us", "wall us, recalled")
STALLS = ("stall, 2 MB str (ms)", "stall, 2 MB nested (ms)")
LOOP, PROCESS, WALL, RECALLED = COSTS
STR, NESTING = STALLS
HEAD = ("an item of 200 bytes", *COSTS, *STALLS, "lost at kill -9", "lost at a power cut", "in a stream")
OPENING = ("seconds until open", "MB more than after the import", "us per recorded result")


async def page(item: int) -> dict[str, Any]:
    """Return ten fields at once; 200 bytes as JSON, give or take the digits of the item."""
    return {
        "url": f"https://example.com/pages/{item}",
        "status": 200,
        "title": "The title of an example page",
        "language": "en",
        "bytes": 18_231 + item,
        "words": 2_907,
        "links": 41,
        "seconds": 0.273,
        "cached": False,
        "next": None,
    }


PARAGRAPH = '<p class="text">Die Straße führt über die Brücke → &quot;<a href="/karte#süd">Süden</a>&quot;.</p>\n'
WEB_PAGE = PARAGRAPH * (BIG_BYTES // len(PARAGRAPH.encode()))
ENTRIES = 19_000


def _entry(number: int) -> dict[str, Any]:
    place = [47 + number / 7, 5 + number / 11]
    return {"name": f"Brücke {number}", "place": place, "lanes": 2, "tags": {"lit": True, "toll": None}}


NESTED = {"entries": [_entry(number) for number in range(ENTRIES)]}


async def web_page(item: int) -> str:
    """Wait, then return 2 MB of HTML."""
    await asyncio.sleep(0.01)
    return WEB_PAGE


async def nested(item: int) -> dict[str, Any]:
    """Wait, then return 2 MB of lists and dicts."""
    await asyncio.sleep(0.01)
    return NESTED


def recording(effort: Effort) -> Row:
    """What a recorded result of 200 bytes costs, and how long one of 2 MB keeps the event loop."""
    rounds = math.ceil(effort.rounds / 2)  # each lasts as long as two of the others
    costs = take_turns(RECORDERS, lambda name: fresh.call(costs_of_an_item, within=PATIENCE, name=name), rounds)
    stalls = take_turns(RECORDERS, lambda name: fresh.call(longest_stalls, within=PATIENCE, name=name), rounds)
    by_clock = apart(COSTS, costs) | apart(STALLS, stalls)
    lines = [
        _on_top("recording 200-byte results", JOURNAL, by_clock),
        _on_top("the same, with msgspec", WITH_MSGSPEC, by_clock),
        _items_per_second("the same, end to end", JOURNAL, by_clock[WALL]),
        _items_per_second("the same, with msgspec", WITH_MSGSPEC, by_clock[WALL]),
        _stall("longest stall of the loop, a str of 2 MB", by_clock[STR], _short_enough(by_clock[STR])),
        _stall("the same, lists and dicts of 2 MB", by_clock[NESTING]),
    ]
    found = {what: raw(figures) for what, figures in by_clock.items()}
    return Row(lines, {"folder": _disk(), **found}, own_table=[HEAD, *(_cells(name, by_clock) for name in RECORDERS)])


def _on_top(work: str, name: str, by_clock: Mapping[str, Mapping[str, Figures]]) -> Line:
    loop, process = (by_clock[clock][name].best - by_clock[clock][PLAIN].best for clock in (LOOP, PROCESS))
    failed = not math.isfinite(loop)
    bar = Bar(f"<= {COST_REACH:g} us of the loop on top", not failed and loop <= COST_REACH)
    figure = cell(by_clock[LOOP][name]) if failed else f"+ {loop:.2f} us of the loop, + {process:.2f} us in all"
    return Line(f"{work} ({_disk()})" if name == JOURNAL else work, figure, (bar,))


def _items_per_second(work: str, name: str, wall: Mapping[str, Figures]) -> Line:
    rate = 1e6 / wall[name].best
    figure = f"{rate:,.0f}/s" if wall[name].failure is None else cell(wall[name])
    return Line(work, figure, (Bar(f">= {RATE_REACH:,}/s", rate >= RATE_REACH),), _rival(name, wall))


def _stall(work: str, stalls: Mapping[str, Figures], *bars: Bar) -> Line:
    return Line(work, f"{cell(stalls[JOURNAL])} ms", bars, _rival(JOURNAL, stalls))


def _short_enough(stalls: Mapping[str, Figures]) -> Bar:
    reached = stalls[JOURNAL].best < STALL_REACH
    # Where a loop that records nothing is held up for as long, it is the machine.
    disturbed = not reached and stalls[JOURNAL].failure is None and stalls[PLAIN].best >= STALL_REACH
    return Bar(f"< {STALL_REACH:g} ms", None if disturbed else reached)


def _rival(name: str, figures: Mapping[str, Figures]) -> str:
    others = [other for other in RECORDERS if other not in (PLAIN, JOURNAL, WITH_MSGSPEC)]
    rival = min(others, key=lambda other: figures[other].best)
    return f"{rival}, {figures[rival].best / figures[name].best:.2f} x"


def _cells(name: str, by_clock: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    chosen = RECORDERS[name]
    figures = ["-" if (name, what) == (PLAIN, RECALLED) else cell(by_clock[what][name]) for what in (*COSTS, *STALLS)]
    return [name, *figures, chosen.killed, chosen.power_cut, chosen.in_a_stream]


def _disk() -> str:
    """Name the folder and its file system, which decides what a sync costs."""
    mounted = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    holding = [(len(place), kind) for place, kind in mounted if Path(FOLDER).resolve().is_relative_to(place)]
    return f"{FOLDER}, {max(holding)[1]}"


def costs_of_an_item(name: str) -> list[float]:
    """Record, and recall what was recorded (in a child): the `COSTS`, per item."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        return asyncio.run(_costs(RECORDERS[name], Path(folder)))


async def _costs(chosen: Recorder, folder: Path) -> list[float]:
    data = list(range(chosen.items))
    await _seconds(chosen, data[: chosen.items // 10], folder / "warm-up")
    recorded = await _seconds(chosen, data, folder / "run")
    *_, recalled = await _seconds(chosen, data, folder / "run")
    return [1e6 * seconds / chosen.items for seconds in (*recorded, recalled)]


async def _seconds(chosen: Recorder, data: list[int], path: Path) -> tuple[float, float, float]:
    gc.collect()
    start = _clocks()
    results = await chosen.record(page, data, LIMIT, path)
    loop, process, wall = (after - before for before, after in zip(start, _clocks(), strict=True))
    if results != [await page(item) for item in data]:
        raise ValueError("wrong results")
    return loop, process, wall


def _clocks() -> tuple[float, float, float]:
    return time.thread_time(), time.process_time(), time.perf_counter()


def longest_stalls(name: str) -> list[float]:
    """Record big results (in a child): the `STALLS`, in ms."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        return [
            1e3 * asyncio.run(_stall_of(RECORDERS[name], function, Path(folder))) for function in (web_page, nested)
        ]


async def _stall_of(chosen: Recorder, function: Any, folder: Path) -> float:
    await chosen.record(function, [0], 1, folder / f"warm-up of {function.__name__}")
    gc.collect()
    return await _longest_turn(chosen.record(function, list(range(BIG_RESULTS)), 1, folder / function.__name__))


async def _longest_turn(work: Coroutine[Any, Any, Any]) -> float:
    """Do the work, and tell how many seconds nobody else could do anything, at worst."""
    running = asyncio.create_task(work)
    turn, longest = time.perf_counter(), 0.0
    while not running.done():
        await asyncio.sleep(0)
        last, turn = turn, time.perf_counter()
        longest = max(longest, turn - last)
    await running
    return longest


def reopening(_: Effort) -> Row:
    """How soon, in how much memory and how fast a run goes on with a million recorded results."""
    work = f"opening {RECORDED:,} recorded results"
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        path = str(Path(folder, "run.db"))
        try:
            seconds = fresh.call(record_many, within=PATIENCE, path=path)
        except fresh.MeasurementFailed as reason:
            return Row([Line(work, f"fails: {reason}", (Bar("recorded", reached=False),))], {"failure": str(reason)})
        size = Path(path).stat().st_size
        figures = take_turns([JOURNAL], lambda _: fresh.call(reopen, within=PATIENCE, path=path), REOPENINGS)
    by_kind = apart(OPENING, figures)
    opened, memory, recalled = (by_kind[what][JOURNAL] for what in OPENING)
    lines = [
        Line(work, f"{cell(opened)} s", (Bar(f"<= {OPEN_REACH:g} s", opened.best <= OPEN_REACH),)),
        Line(
            "the same, peak memory",
            f"+ {cell(memory)} MB",
            (Bar(f"<= {MEMORY_REACH:g} MB", memory.best <= MEMORY_REACH),),
        ),
        Line("the same, delivered from then on", f"{1e6 / recalled.best:,.0f}/s"),
    ]
    return Row(
        lines, {"seconds to record": seconds, "bytes": size, **{what: raw(one) for what, one in by_kind.items()}}
    )


def record_many(path: str) -> float:
    """Record a million results (in a child), keeping none; seconds."""
    start = time.perf_counter()
    asyncio.run(_record_many(path))
    return time.perf_counter() - start


async def _record_many(path: str) -> None:
    from aiomap import aimap

    async with aimap(page, range(RECORDED), LIMIT, ordered=False, journal=path) as stream:
        async for _ in stream:
            pass


def reopen(path: str) -> list[float]:
    """Go on with that journal (in a child): `OPENING`."""
    import aiomap  # noqa: F401  # what it takes is not the journal's

    imported = _megabytes("VmRSS")
    seconds, peak, seconds_each = asyncio.run(_reopen(path))
    return [seconds, peak - imported, 1e6 * seconds_each]


async def _reopen(path: str) -> tuple[float, float, float]:
    from aiomap import aimap

    start = time.perf_counter()
    async with aimap(page, range(RECORDED), LIMIT, journal=path) as stream:
        await anext(stream)
        first, peak = time.perf_counter(), _megabytes("VmHWM")
        for _ in range(DELIVERED):
            await anext(stream)
        last = time.perf_counter()
        if stream.stats.done > stream.stats.recorded:
            raise ValueError("recorded results were computed again")
    return first - start, peak, (last - first) / DELIVERED


def _megabytes(kind: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) / 1e6 for line in lines if line.startswith(kind))
