"""What the policies need of the run that they are in.

Invariant: they stand below the engine and never import it; this is all that they know of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from aiomap._call import Call
from aiomap._outbox import Outbox

__all__ = ["Run"]


class Run(Protocol):
    """One run of a map, the engine's side."""

    loop: asyncio.AbstractEventLoop
    now: Callable[[], float]
    began: float
    stopped: bool
    error: BaseException | None  # what it will end with
    limit: int
    workers: dict[asyncio.Task[None], Call]
    unstarted: int  # workers that have not had their first step
    results: list[Any]
    outbox: Outbox | None  # where the results go instead, in a stream
    capacity: int  # items that a stream may have started and not delivered

    def fill(self) -> None:
        """Starts what may start."""
        ...

    def stop(self, error: BaseException | None = None) -> None:
        """Ends it with this exception."""
        ...

    def place(self, index: int, value: Any) -> bool:
        """Puts a value in an item's place; True when the window is full."""
        ...

    def source_failed(self, error: BaseException) -> None:
        """The input raised."""
        ...
