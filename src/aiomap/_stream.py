"""The stream that `aimap` and `aoutcomes` give back.

Invariant: the engine never refers to the stream, so a stream that nobody holds any more is collected, and stops its
run on the way. It is a class and not an async generator: those are finalised late, in a foreign task, while their
workers go on (PEP 533 and 789 tell why).
"""

from __future__ import annotations

import asyncio
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from aiomap._arguments import check_limit
from aiomap._engine import Engine
from aiomap._outbox import Outbox
from aiomap._outcome import Stats
from aiomap._verdict import ends_the_program

if TYPE_CHECKING:
    from aiomap.limits.adaptive import Adaptive

__all__ = ["Stream"]

R = TypeVar("R")


class Stream(Generic[R]):
    """Results as they come: an async iterator with a way out.

    Nothing is taken from the input before the first result is asked for. Leave the loop as you like, but inside of
    `async with`: on leaving that, no task of the map is alive, and an async generator that was the input is closed.
    One task at a time may wait for the next result.

    >>> import asyncio
    >>> from aiomap import aimap
    >>> async def square(number: int) -> int:
    ...     return number * number
    >>> async def first_above(limit: int) -> int:
    ...     async with aimap(square, range(1_000_000)) as squares:
    ...         async for number in squares:
    ...             if number > limit:
    ...                 return number
    ...     raise LookupError(limit)
    >>> asyncio.run(first_above(50))
    64
    """

    __slots__ = ("__weakref__", "_adaptive", "_engine", "_outbox", "_raised", "_ready")

    def __init__(self, engine: Engine, outbox: Outbox, adaptive: Adaptive | None = None) -> None:
        self._engine = engine
        self._adaptive = adaptive
        self._outbox = outbox
        self._ready = outbox.ready
        self._raised = False

    def __aiter__(self) -> Stream[R]:
        return self

    async def __anext__(self) -> R:
        """The next result. Raises what ended the run, once, after all results that precede it; then StopAsyncIteration.

        Cancelling the waiting task loses no result and does not stop the run.
        """
        ready = self._ready
        # Not by what popleft raises: that would stand as the context of whatever the run ends with.
        result: R = ready.popleft() if ready else await self._next()
        if self._outbox.full:
            self._outbox.made_room()
        return result

    async def _next(self) -> R:
        if not self._engine.started:
            self._engine.start()
        while not self._ready:
            if self._engine.ended:
                self._end()
            await self._outbox.changed()
        result: R = self._ready.popleft()
        return result

    def _end(self) -> None:
        if self._engine.error is None or self._raised:
            raise StopAsyncIteration
        self._raised = True
        raise self._engine.error

    async def __aenter__(self) -> Stream[R]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, asyncio.CancelledError) and not self._engine.ended:
            self._engine.cancel()  # so that a second cancel, while this waits, is known for one
        await self.aclose()

    async def aclose(self) -> None:
        """Stops the run: nothing starts any more, what runs is cancelled once, and all of it has ended on return.

        Results that are there already can still be taken. May be called again. A KeyboardInterrupt or SystemExit that
        an item raised leaves from here if no `__anext__` raised it.
        """
        engine = self._engine
        if asyncio.current_task() in engine.workers:
            raise RuntimeError(
                "aclose() was called by the function that the stream maps, and would wait for itself; use drain()"
            )
        if not engine.ended:
            engine.stop()
            await engine.finish()
        if engine.error is not None and not self._raised and ends_the_program(engine.error):
            self._raised = True
            raise engine.error

    def pause(self) -> None:
        """Holds back new starts. What runs goes on, and its results are delivered."""
        self._engine.pause(True)

    def resume(self) -> None:
        """Lets starts go on after `pause`."""
        self._engine.pause(False)

    def drain(self) -> None:
        """Takes no more input. What was taken is finished and delivered, then the stream ends. Undoes `pause`."""
        self._engine.drain()

    @property
    def max_concurrent_tasks(self) -> int:
        """How many items may run at once. Raising it takes effect at once; lowering it never cancels what runs.

        With an `Adaptive`: the number that it has found so far. Setting it is another bound, beside that one.
        """
        limit = self._engine.limit
        return limit if self._adaptive is None else min(limit, self._adaptive.limit)

    @max_concurrent_tasks.setter
    def max_concurrent_tasks(self, limit: int) -> None:
        self._engine.set_limit(check_limit(limit))

    @property
    def stats(self) -> Stats:
        """One consistent snapshot of the run, in O(1)."""
        return self._engine.stats()

    def __del__(self) -> None:
        engine = self._engine
        if not engine.started or engine.ended or engine.loop.is_closed():
            return
        engine.halt()
        # The collector may run in any thread.
        engine.loop.call_soon_threadsafe(engine.stop)
        warnings.warn(
            "a stream of aiomap was left before its end and is stopped only now; write "
            "`async with aimap(...) as results:` round the loop",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
