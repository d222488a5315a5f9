r"""Input: the lines of a file, a pipe or a terminal, numbered and in constant memory.

Invariant: a line ends at `\n` and nowhere else, so that line 7 here is line 7 in `sed` and `wc`. No more is held than
one chunk and one line, whatever the input; no line ends the input, however bad it is.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, final

__all__ = ["MOST_BYTES", "CountedLines", "Line", "LineCutter", "arriving_lines", "lines_of", "read_lines"]

MOST_BYTES: Final = 16 << 20
"""The longest line that is kept, in bytes."""

# Of a longer line this much is kept, for people to find it by.
_SHOWN: Final = 200
_CHUNK: Final = 1 << 16
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# Up to this size (bytes) a file is read once more to count its lines: about a second.
_COUNTED: Final = 1 << 30


@final
@dataclass(frozen=True, slots=True)
class Line:
    r"""A line that is not blank.

    number: its place in the input, from 1; blank lines count.
    content: its bytes, without the `\n` and one `\r` before it.
    too_long: there were more than `MOST_BYTES` of them, and `content` is only the beginning.
    """

    number: int
    content: bytes
    too_long: bool = False


@final
class LineCutter:
    r"""Cuts chunks of bytes into lines, wherever the chunks end.

    most: how many bytes a line may have.

    A byte order mark, which editors on Windows put before the first line, is dropped.

    >>> cutter = LineCutter()
    >>> [line.content for line in cutter.feed(b"one\r\n\ntw")]
    [b'one']
    >>> [(line.number, line.content) for line in cutter.feed(b"o") + cutter.end()]
    [(3, b'two')]
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._number = 1
        self._parts: list[bytes] = []
        self._length = 0

    def feed(self, chunk: bytes) -> list[Line]:
        """The lines that this chunk completes."""
        first, *others = chunk.split(b"\n")
        lines: list[Line] = []
        self._extend(first)
        for part in others:
            lines += self.end()
            self._extend(part)
        return lines

    def end(self) -> list[Line]:
        r"""The line that was begun and has no `\n`, unless it is blank."""
        content = b"".join(self._parts).removesuffix(b"\r")
        too_long = len(content) > self._most or self._length > len(content) + 1
        if self._number == 1:
            content = content.removeprefix(_BYTE_ORDER_MARK)
        line = Line(self._number, content[:_SHOWN] if too_long else content, too_long)
        self._number += 1
        self._parts.clear()
        self._length = 0
        return [line] if too_long or content.strip() else []

    def _extend(self, part: bytes) -> None:
        self._length += len(part)
        if self._length <= self._most + 1:  # one more than allowed: it may turn out to be a \r
            self._parts.append(part)
        else:
            self._parts = [b"".join([*self._parts, part])[:_SHOWN]]


def read_lines(file: BinaryIO) -> Iterator[Line]:
    r"""The lines of a file, from where it stands.

    >>> from io import BytesIO
    >>> [line.content for line in read_lines(BytesIO(b"a\n\nb"))]
    [b'a', b'b']
    """
    cutter = LineCutter()
    while chunk := file.read(_CHUNK):
        yield from cutter.feed(chunk)
    yield from cutter.end()


@final
class CountedLines(Iterable[Line]):
    """The lines of a seekable file, with `len()`, which reads it once more: about 0.1 us a line."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = file.tell()

    def __iter__(self) -> Iterator[Line]:
        self._file.seek(self._start)
        return read_lines(self._file)

    def __len__(self) -> int:
        # Whoever iterates may ask for the length in between, as list() does.
        position = self._file.tell()
        self._file.seek(self._start)
        try:
            return _count_lines(self._file)
        finally:
            self._file.seek(position)


def _count_lines(file: BinaryIO) -> int:
    count = 0
    begun = False
    mark = _BYTE_ORDER_MARK
    while chunk := file.read(1 << 20):
        first, *others = chunk.removeprefix(mark).split(b"\n")
        mark = b""
        begun = begun or bool(first.strip())
        if others:
            *whole, last = others
            count += begun + sum(map(bool, map(bytes.strip, whole)))
            begun = bool(last.strip())
    return count + begun


async def arriving_lines(descriptor: int) -> AsyncGenerator[Line, None]:
    """The lines of a pipe, a socket or a terminal, as they arrive; the event loop stays free meanwhile.

    The descriptor is left in blocking mode: what set `O_NONBLOCK` here would set it for every process that shares it.
    """
    cutter = LineCutter()
    while chunk := await _arriving(descriptor):
        for line in cutter.feed(chunk):
            yield line
    for line in cutter.end():
        yield line


async def _arriving(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, _CHUNK)


def lines_of(file: BinaryIO) -> Iterable[Line] | AsyncIterable[Line]:
    """The lines of any open file, in the way that suits its kind."""
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode):
        return CountedLines(file) if status.st_size <= _COUNTED else read_lines(file)
    if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode) or file.isatty():
        return arriving_lines(file.fileno())
    return read_lines(file)
