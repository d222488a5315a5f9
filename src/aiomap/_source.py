"""The input: one shared iterator of `(index, item)` that every worker pulls from.

Invariant: the user's iterable is entered in one context only, never by two at once, and never again after it ended or
raised. A plain iterable is pulled by whoever has a free slot. An async one is iterated and closed by a single task
(`AsyncSource.feed`), which stays one item ahead of the free slots.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextvars import Context
from itertools import chain, repeat
from operator import length_hint
from typing import Any, Final, Generic, Protocol, TypeVar, cast

__all__ = ["AsyncSource", "Source", "SyncSource"]

T = TypeVar("T")

# Iterators whose `__next__` runs no code of the user's: they need no context of their own, and know what is left.
_PLAIN: Final[frozenset[type]] = frozenset(
    type(iter(empty)) for empty in cast("tuple[Iterable[object], ...]", ([], (), range(0), set(), {}))
)

# How many items an async source may hand over before it lets other tasks run.
_BURST: Final = 64


class Source(Protocol):
    """What the workers take their items from: an input, or the policies that stand before one."""

    shut: bool  # no worker may take another item just now

    @property
    def items(self) -> Iterator[tuple[int, Any]]:
        """The items, with their positions; at its end when none may be taken now."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come, but for what waits."""
        ...

    @property
    def waiting(self) -> int:
        """Items taken from the input and not handed to a worker yet."""
        ...

    @property
    def retrying(self) -> int:
        """Items that were, and wait for their next attempt."""
        ...

    @property
    def why(self) -> str:
        """Why a slot is free: an account of `SlotTime`."""
        ...

    def available(self, most: int) -> int:
        """How many of the next `most` items may be there now; 0 only if none is."""
        ...

    def more(self) -> bool:
        """Whether it is worth asking for another item."""
        ...

    def stop(self) -> None:
        """Takes nothing more from the input."""
        ...

    def close(self) -> None:
        """The same, and has the input closed."""
        ...


class SyncSource(Generic[T]):
    """A plain iterable. The workers' `next()` reaches the user's iterator without a Python frame in between."""

    retrying: int = 0
    why: str = "source"  # why a slot is free: the next item is not there

    def __init__(self, data: Iterable[T], context: Context) -> None:
        iterator: Iterator[T] = context.run(iter, data)
        self._plain = iterator if type(iterator) in _PLAIN else None
        pulled = iterator
        if self._plain is None:
            pulled = cast("Iterator[T]", map(cast("Any", context.run), repeat(next), repeat(iterator)))
        # `chain` drops an iterator that has ended, and so never asks it again, however many workers still ask.
        self.items: Iterator[tuple[int, T]] = chain(enumerate(pulled), self._end())
        self.ended = False
        self.shut = False  # no worker may take another item just now

    def _end(self) -> Iterator[tuple[int, T]]:
        self.ended = True
        yield from ()

    def available(self, most: int) -> int:
        """How many of the next `most` items may be there; one at least, until the input was found to be at its end."""
        if self.ended:
            return 0
        return most if self._plain is None else min(most, max(1, length_hint(self._plain)))

    def more(self) -> bool:
        """Whether it is worth asking for another item."""
        return not self.ended

    @property
    def waiting(self) -> int:
        """Items taken from the input and not handed to a worker: none, a worker takes its own."""
        return 0

    def stop(self) -> None:
        """Takes nothing more. The iterator is left alone, as a `for` loop leaves it."""
        self.ended = True
        self.items = iter(())

    close = stop


class AsyncSource(Generic[T]):
    """An async iterable, iterated and closed by `feed` alone; what it has fetched waits here for a worker."""

    retrying: int = 0

    def __init__(
        self,
        data: AsyncIterable[T],
        free: Callable[[], int],
        arrived: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._data, self._free, self._arrived, self._failed = data, free, arrived, failed
        self.task: asyncio.Task[None] | None = None
        self._told = False
        self._ahead: deque[tuple[int, T]] = deque()
        self._wanted: asyncio.Future[None] | None = None
        self.items: Iterator[tuple[int, T]] = self
        self.ended = False
        self.shut = False  # no worker may take another item just now

    def __iter__(self) -> Iterator[tuple[int, T]]:
        return self

    def __next__(self) -> tuple[int, T]:
        if not self._ahead:
            raise StopIteration
        taken = self._ahead.popleft()
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)
        return taken

    def available(self, most: int) -> int:
        """How many of the next `most` items are there."""
        return min(most, len(self._ahead))

    def more(self) -> bool:
        """Whether there is another item."""
        return bool(self._ahead)

    @property
    def waiting(self) -> int:
        """Items taken from the input and not handed to a worker."""
        return len(self._ahead)

    @property
    def why(self) -> str:
        """Why a slot is free: the next item is not there, or is about to be taken."""
        return "idle" if self._ahead else "source"

    def stop(self) -> None:
        """Takes nothing more."""
        self.ended = True

    def close(self) -> None:
        """Takes nothing more, and cancels the task that runs `feed`, which closes the input."""
        self.ended = True
        if self.task is not None and not self._told:
            self._told = True
            self.task.cancel()

    async def feed(self) -> None:
        """Iterates the input until it ends, raises or is stopped, and closes it in the same task."""
        try:
            iterator = aiter(self._data)
            try:
                await self._pull(iterator)
            finally:
                self.ended = True
                close = getattr(iterator, "aclose", None)
                if close is not None:
                    await close()
        except BaseException as error:
            if not (self._told and isinstance(error, asyncio.CancelledError)):
                self._failed(error)

    async def _pull(self, iterator: AsyncIterator[T]) -> None:
        index = 0
        while not self.ended:
            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                return
            self._ahead.append((index, item))
            index += 1
            self._arrived()
            # A free slot takes its item in the next turn of the loop, so such an item is not yet one too many.
            while not self.ended and len(self._ahead) > min(self._free(), _BURST):
                self._wanted = asyncio.get_running_loop().create_future()
                await self._wanted
