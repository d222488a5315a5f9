"""Row 7: real HTTP over loopback, 100 at a time: does the map cost throughput that a hand-written loop has?

Invariant: both use one and the same aiohttp session, in turn, in one process, against a server that has a
core to itself. The figure is the median of the ratios of many short rounds, because a disturbed round is far
off; its 95 % interval is the percentile bootstrap over the rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fresh
import handwritten
import ours
from contenders import ListMap
from handwritten import Function
from rounds import Effort
from verdict import Bar, Line, Row

LIMIT = 100
REQUESTS = 4_000
RESAMPLES = 2_000
REACH = 0.98
BAR = f">= {REACH} x by hand"
PATIENCE = 180.0
SERVER = Path(__file__).with_name("http_server.py")


def loopback_http(effort: Effort) -> Row:
    """Row 7: throughput of aiomap over that of hand-written workers, by the wall clock and by CPU time."""
    work = f"HTTP over loopback, {LIMIT} at a time"
    try:
        seen = fresh.call(seconds_of_rounds, within=PATIENCE, rounds=effort.http_rounds)
    except fresh.MeasurementFailed as reason:
        return Row([Line(work, f"fails: {reason}", (Bar(BAR, reached=False),))], {"failure": str(reason)})
    lines = [_line(f"{work}, by {clock}", by_hand, mapped) for clock, (by_hand, mapped) in seen.items()]
    return Row(lines, seen)


def _line(work: str, by_hand: list[float], mapped: list[float]) -> Line:
    ratios = [slow / fast for slow, fast in zip(by_hand, mapped, strict=True)]
    low, high = interval(ratios)
    rate = REQUESTS / statistics.median(mapped)
    figure = f"{statistics.median(ratios):.3f} x by hand [{low:.3f}, {high:.3f}] ({rate:,.0f}/s)"
    reached = None if low < REACH <= high else low >= REACH
    return Line(work, figure, (Bar(BAR, reached),))


def interval(ratios: list[float]) -> tuple[float, float]:
    """Give the 95 % interval of the median: resample the rounds, take the percentiles."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return medians[round(0.025 * RESAMPLES)], medians[round(0.975 * RESAMPLES) - 1]


def seconds_of_rounds(rounds: int) -> dict[str, list[list[float]]]:
    """Fetch in turn (in a child): for each clock the seconds of every round, by hand and mapped."""
    cores = sorted(os.sched_getaffinity(0))
    with _server(cores[-1]) as (host, port):
        os.sched_setaffinity(0, {cores[0]})
        return asyncio.run(_fetch_in_turn(f"http://{host}:{port}/", rounds))


@contextlib.contextmanager
def _server(core: int) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        number = listening.fileno()
        command = [sys.executable, str(SERVER), str(number)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[number]) as server:
            os.sched_setaffinity(server.pid, {core})
            yield listening.getsockname()


async def _fetch_in_turn(url: str, rounds: int) -> dict[str, list[list[float]]]:
    import aiohttp

    async with aiohttp.ClientSession() as session:

        async def fetch(item: int) -> int:
            async with session.get(url) as response:
                await response.read()
            return item

        return await _take_turns(fetch, rounds)


async def _take_turns(fetch: Function, rounds: int) -> dict[str, list[list[float]]]:
    ways: tuple[ListMap, ListMap] = (handwritten.worker_floor, ours.in_a_list)
    taken: dict[ListMap, list[tuple[float, float]]] = {way: [] for way in ways}
    for way in ways:
        await _seconds(way, fetch)
    for number in range(rounds):
        for way in ways if number % 2 else reversed(ways):
            taken[way].append(await _seconds(way, fetch))
    wall, processor = ([[seconds[clock] for seconds in taken[way]] for way in ways] for clock in (0, 1))
    return {"the wall clock": wall, "CPU time": processor}


async def _seconds(way: ListMap, fetch: Function) -> tuple[float, float]:
    gc.collect()
    wall, processor = time.perf_counter(), time.process_time()
    await way(fetch, list(range(REQUESTS)), LIMIT)
    return time.perf_counter() - wall, time.process_time() - processor
