r"""Input: lines, numbered and in constant memory.

Invariant: a line ends at `\n` and nowhere else, so that line 7 here is line 7 in `sed` and `wc`. No more is held than
one chunk and one line, whatever the input; no line ends the input, however bad it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

__all__ = ["MOST_BYTES", "Line", "LineCutter"]

MOST_BYTES: Final = 16 << 20
"""The longest line that is kept, in bytes."""

# Of a longer line this much is kept, for people to find it by.
_SHOWN: Final = 200
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@final
@dataclass(frozen=True, slots=True)
class Line:
    r"""A line.

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
    blank: whether lines of blanks alone are given too.

    A byte order mark, which editors on Windows put before the first line, is dropped.

    >>> cutter = LineCutter()
    >>> [line.content for line in cutter.feed(b"one\r\n\ntw")]
    [b'one']
    >>> [(line.number, line.content) for line in cutter.feed(b"o") + cutter.end()]
    [(3, b'two')]
    """

    def __init__(self, most: int = MOST_BYTES, *, blank: bool = False) -> None:
        self._most = most
        self._blank = blank
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
        r"""The line that was begun and has no `\n`, unless it is blank and such lines are not given."""
        content = b"".join(self._parts).removesuffix(b"\r")
        too_long = len(content) > self._most or self._length > len(content) + 1
        if self._number == 1:
            content = content.removeprefix(_BYTE_ORDER_MARK)
        line = Line(self._number, content[:_SHOWN] if too_long else content, too_long)
        self._number += 1
        self._parts.clear()
        self._length = 0
        return [line] if too_long or self._blank or content.strip() else []

    def _extend(self, part: bytes) -> None:
        self._length += len(part)
        if self._length <= self._most + 1:  # one more than allowed: it may turn out to be a \r
            self._parts.append(part)
        else:
            self._parts = [b"".join([*self._parts, part])[:_SHOWN]]
