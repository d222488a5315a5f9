"""Who records results so that a later run need not compute them again, and what of that survives.

Invariant: an adapter calls its recorder in the obvious way, with the same function, data and limit as everybody
else; called again with the same path, it gives the same list and runs only what is missing. What has no map of its
own gets hand-written workers. `killed` and `power_cut` say what is lost of the results that the function returned.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import handwritten
import ours

Pages: TypeAlias = Callable[[int], Any]
Recording: TypeAlias = Callable[[Any, list[int], int, Path], Coroutine[Any, Any, list[Any]]]

PLAIN = "aiomap, no journal"
JOURNAL = "aiomap, journal="
WITH_MSGSPEC = "aiomap, journal=, with msgspec"


@dataclass(frozen=True, slots=True)
class Recorder:
    """One way to record; `items` is the length of a timed run, which lasts about a second."""

    items: int
    record: Recording
    killed: str
    power_cut: str
    in_a_stream: str


async def nowhere(function: Pages, data: list[int], limit: int, path: Path) -> list[Any]:
    """Record nothing."""
    return await ours.in_a_list(function, data, limit)


async def in_a_journal(function: Pages, data: list[int], limit: int, path: Path) -> list[Any]:
    """Record with what the standard library has, as after a plain installation."""
    sys.modules["msgspec"] = None  # type: ignore[assignment]  # Python's own way to say: not there
    return await _in_a_journal(function, data, limit, path)


async def in_a_journal_with_msgspec(function: Pages, data: list[int], limit: int, path: Path) -> list[Any]:
    """Record in the same bytes, which msgspec makes."""
    import msgspec  # noqa: F401  # aiomap does without if it is not there, and then this is no figure of its own

    return await _in_a_journal(function, data, limit, path)


async def _in_a_journal(function: Pages, data: list[int], limit: int, path: Path) -> list[Any]:
    from aiomap import amap

    return await amap(function, data, limit, journal=path)


async def in_a_checkpoint(function: Pages, data: list[int], limit: int, path: Path) -> list[Any]:
    """`checkpoint=` goes with pyarallel's collected maps, not with its streams."""
    from pyarallel import async_parallel_map

    result = await async_parallel_map(function, data, concurrency=limit, window_size=limit, checkpoint=path)
    return result.values()


async def in_a_cache(function: Pages, data: list[int], limit: int, path: Path) -> list[Any]:
    """`Memory.cache` takes coroutine functions, and gives one back."""
    from joblib import Memory

    return await handwritten.worker_floor(Memory(path, verbose=0).cache(function), data, limit)


async def in_lines(function: Pages, data: list[int], limit: int, path: Path, *, sync: bool) -> list[Any]:
    """Append a line of JSON to a file when an item returned; read all of them before the first one."""
    recorded = _read_lines(path)
    with path.open("a", encoding="utf-8") as file:

        async def call(item: int) -> Any:
            if item in recorded:
                return recorded[item]
            result = await function(item)
            file.write(json.dumps([item, result]) + "\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())
            return result

        return await handwritten.worker_floor(call, data, limit)


def _read_lines(path: Path) -> dict[int, Any]:
    path.touch()
    with path.open(encoding="utf-8") as file:
        return dict(json.loads(line) for line in file)


ALL = "all"
COMMIT = "the last 100 ms or 512 results"
ONE = "the one being written"
UNWRITTEN = "what the system had not written yet, up to half a minute"
TORN = "a torn last line stops the next run"

RECORDERS = {
    PLAIN: Recorder(100_000, nowhere, ALL, ALL, "yes"),
    JOURNAL: Recorder(50_000, in_a_journal, COMMIT, COMMIT, "yes"),
    WITH_MSGSPEC: Recorder(50_000, in_a_journal_with_msgspec, COMMIT, COMMIT, "yes"),
    "pyarallel, checkpoint=": Recorder(
        3_000, in_a_checkpoint, "those in its window", f"{UNWRITTEN}; its SQLite file stays whole", "no, lists only"
    ),
    "joblib.Memory": Recorder(300, in_a_cache, ONE, UNWRITTEN, "yes, it wraps the function"),
    "JSON Lines, fsync": Recorder(
        1_000, functools.partial(in_lines, sync=True), f"{ONE}; {TORN}", f"{ONE}; {TORN}", "by hand"
    ),
    "JSON Lines, no fsync": Recorder(
        20_000, functools.partial(in_lines, sync=False), f"{ONE}; {TORN}", f"{UNWRITTEN}; {TORN}", "by hand"
    ),
}
