"""Row 5: a long stream over a generator: does resident memory stay where it was after 100,000 items?

Invariant: the measurement keeps nothing; memory is read from /proc (Linux) every 100,000 items, and the
largest reading counts, not the last.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import fresh
from contenders import AIOMAP, CONTENDERS
from rounds import Effort
from verdict import Bar, Line, Row

LIMIT = 100
EVERY = 100_000
PATIENCE = 120.0
MEGABYTE = 1_000_000


def ordered_memory(effort: Effort) -> Row:
    """Row 5, for a stream in input order."""
    return _memory("ordered", effort.stream_items)


def unordered_memory(effort: Effort) -> Row:
    """Row 5, for a stream as completed."""
    return _memory("unordered", effort.stream_items)


def _memory(shape: str, items: int) -> Row:
    work = f"stream {shape}, {items:,} items"
    bar = "at most + 1 MB after 100,000 items"
    try:
        seen = fresh.call(resident_memory, within=PATIENCE, shape=shape, items=items)
    except fresh.MeasurementFailed as reason:
        return Row([Line(work, f"fails: {reason}", (Bar(bar, reached=False),))], {"failure": str(reason)})
    growth = max(seen["bytes"]) - seen["bytes"][0]
    figure = f"{seen['bytes'][0] / MEGABYTE:.1f} MB at 100,000, {seen['bytes'][-1] / MEGABYTE:.1f} MB at the end"
    return Row([Line(work, figure, (Bar(bar, growth <= MEGABYTE),))], seen)


def resident_memory(shape: str, items: int) -> dict[str, object]:
    """Map a generator of so many items (in a child): bytes resident after each 100,000, and CPU seconds."""
    readings = asyncio.run(_consume(shape, items))
    return {"bytes": readings, "cpu_seconds": time.process_time()}


async def _consume(shape: str, items: int) -> list[int]:
    readings = []
    delivered = 0
    adapter = getattr(CONTENDERS[AIOMAP], shape)
    async with adapter(_at_once, (item for item in range(items)), LIMIT) as stream:
        async for _ in stream:
            delivered += 1
            if delivered % EVERY == 0:
                readings.append(_resident_bytes())
    return readings


async def _at_once(item: int) -> int:
    return item


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
