"""Entries as they arrive: a thread waits for what a pipe has to say, so the event loop stays free.

Invariant: each entry is handed over once, in order, as soon as it is there. What is read ahead is bounded, in entries
and in bytes. The thread keeps no process alive, and whoever closes the iteration waits for nobody.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final, final

from aiomap.inputs.entries import Entries
from aiomap.inputs.record import Entry

__all__ = ["arriving"]

# What may wait to be taken. Then nothing more is read.
_MOST: Final = 256
_MOST_BYTES: Final = 1 << 20


async def arriving(entries: Entries) -> AsyncGenerator[Entry]:
    """The entries, for an event loop that must not wait for them; what reading them raises, it raises.

    The pipe is left in blocking mode: what set `O_NONBLOCK` here would set it for every process that shares it. A read
    that is under way when it is closed ends with the pipe, or with the process; what it gives is lost.
    """
    handover = _Handover(entries)
    # Of its own, not of the loop's executor, whose end waits for every thread in it.
    threading.Thread(target=handover.read, name="aiomap-input", daemon=True).start()
    try:
        while batch := await handover.batch():
            for entry in batch:
                yield entry
    finally:
        handover.stop()


@final
class _Handover:
    """Entries on their way from the thread that reads them to the event loop in which it was made."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._changed = threading.Condition()  # to be held for all that follows
        self._batch: list[Entry] = []
        self._taken = 0  # bytes that were read when the last batch was taken
        self._over = self._stopped = False
        self._error: BaseException | None = None

    def read(self) -> None:
        """What the thread does, up to the end of the entries or to `stop`."""
        error: BaseException | None = None
        try:
            for entry in self._entries:
                if not self._hand_over(entry):
                    break
            self._entries.close()
        except BaseException as raised:
            error = raised
        with self._changed:
            self._over, self._error = True, error
            self._tell()

    def _hand_over(self, entry: Entry) -> bool:
        """Returns once there is room for another one; whether anybody wants it."""
        with self._changed:
            self._batch.append(entry)
            if len(self._batch) == 1:
                self._tell()
            while not self._stopped and self._is_full():
                self._changed.wait()
            return not self._stopped

    def _is_full(self) -> bool:
        return len(self._batch) >= _MOST or bool(self._batch and self._entries.unpacked - self._taken >= _MOST_BYTES)

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def batch(self) -> list[Entry]:
        """What has arrived, at least one entry; none at the end."""
        while True:
            self._arrived.clear()
            with self._changed:
                batch, self._batch = self._batch, []
                over = self._over
                self._taken = self._entries.unpacked
                self._changed.notify()
            if batch:
                return batch
            if over:
                break
            await self._arrived.wait()
        if self._error is not None:
            raise self._error
        return []

    def stop(self) -> None:
        """Nobody takes any more."""
        with self._changed:
            self._stopped = True
            self._batch.clear()
            self._changed.notify()
