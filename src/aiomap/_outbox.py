"""Where a stream's results wait for their consumer.

Invariant: `ready` holds what may be delivered, in the order of delivery; `held() <= spare`, unless a worker was told
just now to stop. The kinds differ in when `put` makes a result ready.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from aiomap._outcome import SKIP

__all__ = ["Durable", "Ordered", "Outbox"]

_NONE: Final = object()


class Outbox:
    """Results in the order of completion.

    The engine keeps up to date how many results may be held (`spare`), and whether a slot is free for which only a
    delivery can make room (`full`). When it is, whoever takes something out calls `made_room`.
    """

    __slots__ = ("_waiter", "full", "made_room", "ready", "reserved", "spare")

    def __init__(self) -> None:
        self.ready: deque[Any] = deque()
        self.spare = 0
        self.reserved = 0
        self.full = False
        self.made_room: Callable[[], object] = lambda: None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, index: int, value: Any) -> bool:  # noqa: ARG002
        """Takes the result of an item (SKIP: there is none). True when more than `spare` are held now."""
        if value is not SKIP:
            self.ready.append(value)
            if self._waiter is not None:
                self.wake()
        return len(self.ready) > self.spare

    def reserve(self, places: int) -> None:
        """Keeps room for that many results, which are on their way without a worker; below 0 gives it back."""
        self.reserved += places
        self.spare -= places

    def held(self) -> int:
        """How many results are there and not delivered, or have a place reserved."""
        return len(self.ready) + self.reserved

    def wake(self) -> None:
        """Makes the waiting consumer look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._waiter = None

    async def changed(self) -> None:
        """Waits for `wake`. One consumer at a time: RuntimeError for a second."""
        if self._waiter is not None:
            raise RuntimeError(
                "another task waits for this stream's next result already; give each task its own stream"
            )
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            if self._waiter is waiter:
                self._waiter = None


class Ordered(Outbox):
    """Results in the order of the input: what is out of order waits in `_early`."""

    __slots__ = ("_early", "_next")

    def __init__(self) -> None:
        super().__init__()
        self._early: dict[int, Any] = {}
        self._next = 0

    def put(self, index: int, value: Any) -> bool:
        """Takes the result of an item (SKIP: there is none). True when more than `spare` are held now."""
        if index != self._next:
            self._early[index] = value
        elif self._early:
            self._release(index, value)
        else:
            self._next = index + 1
            if value is not SKIP:
                self.ready.append(value)
                if self._waiter is not None:
                    self.wake()
            return len(self.ready) > self.spare
        return len(self.ready) + len(self._early) > self.spare

    def _release(self, index: int, value: Any) -> None:
        """What waited for this item, and follows it without a gap, is ready now."""
        skipped = 0
        while value is not _NONE:
            if value is SKIP:
                skipped += 1
            else:
                self.ready.append(value)
            index += 1
            value = self._early.pop(index, _NONE)
        self._next = index
        if self.ready:
            self.wake()
        if skipped and self.full:
            self.made_room()

    def held(self) -> int:
        """How many results are there and not delivered, or have a place reserved."""
        return len(self.ready) + len(self._early) + self.reserved


class Durable(Outbox):
    """Results that go on to another outbox, the one that orders them, only when the journal has them on the disk."""

    __slots__ = ("_committed", "_inner", "_waiting", "recorded")

    def __init__(self, inner: Outbox) -> None:
        super().__init__()
        self.ready = inner.ready
        self._inner = inner
        self.recorded = self._committed = 0  # rows of the journal so far, and those of them that are on the disk
        self._waiting: deque[tuple[int, int, Any]] = deque()

    def put(self, index: int, value: Any) -> bool:
        """Takes the result of an item, which is in the row that was recorded last or in an earlier one."""
        if self.recorded > self._committed:
            self._waiting.append((self.recorded, index, value))
        else:
            self._pass_on(index, value)
        return self.held() - self.reserved > self.spare

    def release(self, committed: int) -> None:
        """So many rows are on the disk now."""
        self._committed = committed
        while self._waiting and self._waiting[0][0] <= committed:
            self._pass_on(*self._waiting.popleft()[1:])

    def _pass_on(self, index: int, value: Any) -> None:
        held = self._inner.held()
        self._inner.put(index, value)
        self.wake()
        if self.full and self._inner.held() <= held:  # it is left out, or one that waited for it is
            self.made_room()

    def held(self) -> int:
        """How many results are there and not delivered, or have a place reserved."""
        return self._inner.held() + len(self._waiting) + self.reserved
