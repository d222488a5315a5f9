"""What outcomes have left to be written, and the thread that writes it.

Invariant: of an outcome only what its output keeps is held, not its value. Whoever starts nothing while it is full has
no more here than twice `_MOST_BYTES` and what was in flight. One thread at a time has the output.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Final, Protocol, final

from aiomap._outcome import Outcome
from aiomap.inputs import Entry

__all__ = ["Backlog", "Output"]

# What may wait to be written. Then it is full.
_MOST: Final = 5000  # outcomes
_MOST_BYTES: Final = 8 << 20
# Seconds after the last outcome for which the output is asked to go on: it follows the journal, which commits later.
_LATER: Final = 5.0


class Output(Protocol):
    """Where the outcomes go: `keep` is called in the event loop, `add` and `finish` in a thread, one at a time."""

    def keep(self, outcome: Outcome[Entry, Any]) -> bytes:
        """What `add` will need of an outcome, those of earlier sittings too; the outcome itself is not held.

        Without a journal its value is what `Json.encode` has made of it.
        """
        ...

    def add(self, kept: list[bytes]) -> None:
        """Writes what was kept of some outcomes, or of none, in the order of `keep`; and what else there is by now."""
        ...

    def finish(self, *, whole: bool) -> None:
        """The sitting is over; `whole`: all of the input was seen."""
        ...


@final
class Backlog:
    """Has an output written.

    wrote: called each time something was written, or could not be: then `error` says why, and it is over.
    """

    def __init__(self, output: Output, wrote: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._output, self._wrote = output, wrote
        self._kept: list[bytes] = []
        self._bytes = 0
        self._follows_until = -math.inf
        self._idle = asyncio.Event()  # nothing is being written
        self._idle.set()

    @property
    def is_full(self) -> bool:
        """Whether so much waits that nothing should come to it."""
        return len(self._kept) >= _MOST or self._bytes >= _MOST_BYTES

    def take(self, outcome: Outcome[Entry, Any]) -> None:
        """Keeps what is to be written of it."""
        kept = self._output.keep(outcome)
        self._kept.append(kept)
        self._bytes += len(kept)
        if self.is_full:
            self.write()

    def write(self) -> None:
        """Has what was kept written by a thread, unless that is at it still. To be called now and then."""
        loop = asyncio.get_running_loop()
        if self._kept:
            self._follows_until = loop.time() + _LATER
        if loop.time() < self._follows_until and self._idle.is_set() and self.error is None:
            self._idle.clear()
            added = loop.run_in_executor(None, self._output.add, self._taken())
            added.add_done_callback(self._added)

    async def written(self) -> None:
        """Waits for what is being written."""
        while not self._idle.is_set():
            await self._idle.wait()

    def finish(self, *, whole: bool) -> None:
        """Writes the rest, and finishes the output: in any thread, and once nothing is being written."""
        self._output.add(self._taken())
        self._output.finish(whole=whole)

    def _taken(self) -> list[bytes]:
        kept, self._kept, self._bytes = self._kept, [], 0
        return kept

    def _added(self, added: asyncio.Future[None]) -> None:
        self._idle.set()
        self.error = added.exception()
        if self.is_full:
            self.write()
        self._wrote()
