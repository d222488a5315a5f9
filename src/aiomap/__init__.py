"""Apply an async function to many inputs, a few at a time, without overwhelming anyone, and lose nothing.

pages = await amap(fetch, links, max_concurrent_tasks=10)      # a list, in input order
"""

from __future__ import annotations

from aiomap._blocking import in_process, in_thread
from aiomap._call import Current, current
from aiomap._map import aimap, amap, aoutcomes, run
from aiomap._on_error import OnError, Tolerate
from aiomap._outcome import SKIP, Outcome, Stats
from aiomap._stream import Stream
from aiomap.errors import AiomapError, CallbackError, ItemCancelled, MissingExtra, TooManyFailures

__all__ = [
    "SKIP",
    "AiomapError",
    "CallbackError",
    "Current",
    "ItemCancelled",
    "MissingExtra",
    "OnError",
    "Outcome",
    "Stats",
    "Stream",
    "Tolerate",
    "TooManyFailures",
    "aimap",
    "amap",
    "aoutcomes",
    "current",
    "in_process",
    "in_thread",
    "run",
]
