"""The item that a worker runs, and what the running function may know of it.

Invariant: a task runs one item at a time, so a task is enough to find it. (A context variable would do too, but it
would make every worker's context a changed one, and the test for a clean context is nearly free only for empty ones.)
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Protocol, final
from weakref import WeakKeyDictionary, WeakSet

from aiomap._pending import Pending

__all__ = ["Call", "Current", "current", "register"]


class Call:
    """One record per worker, filled in anew for each item."""

    __slots__ = ("elapsed", "index", "item", "pending", "slot", "started", "task")

    task: asyncio.Task[None]
    # Filled in before a verdict looks at them.
    item: Any
    elapsed: float

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.index = -1
        self.started = 0.0  # seconds since the start of the run
        self.pending: Pending | None = None  # in a run that has policies

    @property
    def attempt(self) -> int:
        """Which call for the item this is, from 1."""
        return 1 if self.pending is None else self.pending.calls


class Workers(Protocol):
    """A run, as far as it matters here."""

    workers: dict[asyncio.Task[None], Call]


_runs: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, WeakSet[Workers]]] = WeakKeyDictionary()


def register(loop: asyncio.AbstractEventLoop, run: Workers) -> None:
    """Lets `current` find the workers of this run, for as long as it and its loop are alive."""
    _runs.setdefault(loop, WeakSet()).add(run)


@final
@dataclass(frozen=True, slots=True)
class Current:
    """The item that the function works on.

    index: the item's position in the input, from 0.
    attempt: 1 for the first call for this item.
    slot: which of the concurrent places this is, from 0 and compact: below `max_concurrent_tasks` unless that was
        lowered meanwhile. Two items that run at the same time never have the same slot.
    """

    index: int
    attempt: int
    slot: int


def current() -> Current:
    """The index, attempt and slot of the item that the calling function works on.

    For the mapped function itself, in its own task (not in a task or thread that it starts). LookupError elsewhere.

    >>> import asyncio
    >>> from aiomap import amap, current
    >>> async def numbered(letter: str) -> str:
    ...     return f"{current().index}{letter}"
    >>> asyncio.run(amap(numbered, "a b c".split()))
    ['0a', '1b', '2c']
    """
    try:
        task = asyncio.current_task()
        runs = _runs.get(asyncio.get_running_loop(), ())
    except RuntimeError:  # no loop runs here
        task, runs = None, ()
    for run in runs:
        call = None if task is None else run.workers.get(task)
        if call is not None:
            return Current(call.index, call.attempt, call.slot)
    raise LookupError("current() was called outside of a function that aiomap runs, or in a task that it started")
