"""Who else uses a limit: runs that were given the same object.

Invariant: while several runs want the same limit, starts go round in turn. A run that starts an attempt goes to the end
of the line, and whoever frees something asks the line, first to last, before it may take again. A run that does not
want, or cannot, is passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Final, Protocol

from aiomap.limits.limit import Limit
from aiomap.limits.per_key import PerKey

__all__ = ["Sharer", "Sharing"]


class Sharer(Protocol):
    """A run, as the others see it."""

    shared: bool  # another run uses one of its limits
    blocked: bool  # something waits to start, a slot is free, and a limit said no
    asked: bool  # it may start one before the line is asked again

    def fill(self) -> None:
        """Starts what may start."""
        ...

    def reopen(self, limit: Limit, key: Hashable) -> None:
        """An attempt of that key has ended somewhere."""
        ...

    def wants(self) -> bool:
        """Whether something waits to start, with a slot free for it."""
        ...

    def is_running(self) -> bool:
        """Whether an attempt runs whose end could free something."""
        ...


class _Line:
    """The runs that use one limit, the one that started last at the end."""

    def __init__(self, limit: Limit, loop: asyncio.AbstractEventLoop) -> None:
        self.limit: Final = limit  # holds it, so that its id stays its own
        self.loop: Final = loop
        self.runs: list[Sharer] = []
        self._asking = False

    def ask_soon(self) -> None:
        if not self._asking:
            self._asking = True
            self.loop.call_soon(self._ask)

    def _ask(self) -> None:
        self._asking = False
        runs = list(self.runs)
        for run in runs:
            run.blocked, run.asked = False, True
        for run in runs:
            run.fill()


_lines: Final[dict[int, _Line]] = {}


class Sharing:
    """One run's places in the lines of its limits."""

    def __init__(self, run: Sharer, limits: tuple[Limit, ...], loop: asyncio.AbstractEventLoop) -> None:
        for limit in limits:
            line = _lines.get(id(limit))
            if line is not None and line.loop is not loop and not line.loop.is_closed():
                raise RuntimeError(
                    f"{limit!r} is in use by a map in another event loop, and a limit works in one loop at a time: "
                    "give each loop its own, with its part of the whole"
                )
        self._run = run
        self._mine: list[_Line] = []
        for limit in limits:
            line = _lines.get(id(limit))
            if line is None or line.loop is not loop:
                line = _lines[id(limit)] = _Line(limit, loop)
            line.runs.append(run)
            self._mine.append(line)
            if len(line.runs) > 1:
                for each in line.runs:
                    each.shared = True

    def must_wait(self) -> bool:
        """Whether another run has a better right to start; then `fill` is called when the line has been asked."""
        if self._run.asked:
            return False
        for line in self._mine:
            if line.runs[-1] is self._run and any(run.wants() for run in line.runs[:-1]):
                line.ask_soon()
                return True
        return False

    def started(self) -> None:
        """The run has started an attempt."""
        self._run.asked = False
        for line in self._mine:
            line.runs.remove(self._run)
            line.runs.append(self._run)
            # A key that is busy now may be that of the item whose turn it is elsewhere, and others may pass it there.
            if isinstance(line.limit, PerKey) and any(run.blocked for run in line.runs[:-1]):
                line.ask_soon()

    def freed(self, limit: Limit, key: Hashable) -> None:
        """An attempt of the run has ended: something may be free again, in the place of that key if there is one."""
        line = _lines[id(limit)]
        for run in line.runs:
            if run is not self._run:
                run.reopen(limit, key)
                if run.blocked:
                    line.ask_soon()

    def anybody_runs(self) -> bool:
        """Whether in another run an attempt runs whose end could free something."""
        return any(run.is_running() for line in self._mine for run in line.runs if run is not self._run)

    def leave(self) -> None:
        """The run is over."""
        for line in self._mine:
            line.runs.remove(self._run)
            if line.runs:
                line.ask_soon()
            elif _lines.get(id(line.limit)) is line:
                del _lines[id(line.limit)]
        self._mine.clear()
