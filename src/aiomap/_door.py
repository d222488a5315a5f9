"""What a caller waits at for the end of its run.

Invariant: a cancel of the caller is known in the very step in which it is made, not when the caller gets its turn. In
between, workers may run, and would start items after the cancel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["Door"]


class Door(asyncio.Future[None]):
    """A future that calls `knocked` when the task that awaits it is cancelled."""

    def __init__(self, loop: asyncio.AbstractEventLoop, knocked: Callable[[], object]) -> None:
        super().__init__(loop=loop)
        self._knocked = knocked

    def cancel(self, msg: Any | None = None) -> bool:
        """What `Task.cancel` calls on the future that the task waits for."""
        self._knocked()
        return super().cancel(msg)

    def open(self) -> None:
        """Lets the caller go on."""
        if not self.done():
            self.set_result(None)
