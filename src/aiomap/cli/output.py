"""Output: JSON Lines, one value to a line, written as they come.

Invariant: a line is handed to the operating system as a whole, at once while the last one is written, and never by the
thread of the event loop: a slow disk, or a reader of stdout who takes a break, delays no request that is under way.
"""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, final

from aiomap.errors import AiomapError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["JsonLines", "WriteFailed", "encoded", "open_output"]

# Bytes that may wait to be written. Then whoever writes must wait too.
_MOST_WAITING: Final = 1 << 20


class WriteFailed(AiomapError):
    """The output cannot be written; the cause is the `OSError` that says why."""


def encoded(value: object) -> bytes:
    r"""The value as one line of strict JSON in ASCII.

    >>> encoded({"key": "caf\xe9"})
    b'{"key":"caf\\u00e9"}\n'
    """
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def open_output(path: Path, *, force: bool) -> int:
    """A descriptor to write to; `FileExistsError` if there is a file with something to lose, unless `force`.

    What is no regular file (a pipe, `/dev/null`) is opened in any case.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_EXCL, 0o666)
    except FileExistsError:
        if not force and (path.is_file() or path.is_symlink()):
            raise
        return os.open(path, flags | os.O_TRUNC, 0o666)


@final
class JsonLines:
    """Writes lines to a descriptor, which it closes: `async with JsonLines(descriptor) as output`.

    On leaving, every line is written. `WriteFailed` if one could not be; then nothing more is written.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._thread = ThreadPoolExecutor(1, "aiomap-output")
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._writing = False
        self._written = asyncio.Event()
        self._error: BaseException | None = None

    async def __aenter__(self) -> JsonLines:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._until_at_most(0)
        finally:
            self._thread.shutdown(wait=False)
            os.close(self._descriptor)

    async def write(self, line: bytes) -> None:
        """Takes the line; waits only while more than a MiB is not written yet. A cancel loses nothing of it."""
        self._waiting.append(line)
        self._bytes += len(line)
        self._go_on()
        await self._until_at_most(_MOST_WAITING)

    async def _until_at_most(self, most: int) -> None:
        while self._bytes > most and self._error is None:
            self._written.clear()
            await self._written.wait()
        if self._error is not None:
            raise WriteFailed from self._error

    def _go_on(self) -> None:
        if self._writing or not self._waiting or self._error is not None:
            return
        chunk = b"".join(self._waiting)
        self._waiting.clear()
        self._writing = True
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._write_all, chunk)
        done.add_done_callback(lambda done: self._chunk_written(len(chunk), done.exception()))

    def _write_all(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def _chunk_written(self, count: int, error: BaseException | None) -> None:
        self._writing = False
        self._error = error
        self._bytes -= count
        self._written.set()
        self._go_on()
