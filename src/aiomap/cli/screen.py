"""What a sitting shows on stderr while it runs.

Invariant: what is drawn comes from a `View` alone. The cursor rests where text of others does no harm, so whatever ends
the process, there is nothing to be put right. Drawing never waits for the terminal, and its failure is never the run's.
"""

from __future__ import annotations

import math
import os
import re
import select
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO, final

from aiomap._foreign import printable
from aiomap.cli.view import SIGNS, State, View, block, line

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Screen"]

# Seconds between two blocks, and between two lines.
_FRAMES: Final = 0.1
_LINES: Final = 30.0
# For a terminal, or a file, whose encoding has not the signs of the block.
_POOR: Final = str.maketrans(SIGNS, "=>|~x")


@final
class Screen:
    """Draws on stderr: a block on a terminal, else a line every 30 seconds, or nothing if `quiet`.

    Inside of `with Screen() as screen`, call `show` as often as you like, from the thread of the event loop. On a
    terminal, what others write to `sys.stderr` and `sys.stdout` meanwhile comes out above the block. On leaving, the
    block is gone, and the cursor stands where it was. In the background it is a line every 30 seconds, too.

    quiet: nothing is drawn, only said; right also where the data itself goes to the terminal.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        stream: TextIO | None = sys.stderr
        self._face: _Face | None = None
        self._state: State = "running"
        if stream is not None and not quiet:
            pen = _Pen(stream)
            self._face = _Block(pen) if _can_move(stream) else _Lines(pen)

    def __enter__(self) -> Screen:
        if self._face is not None:
            self._face.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._face is not None:
            self._face.leave()

    @property
    def width(self) -> int:
        """Cells of a line, for the text of `end`."""
        return 100 if self._face is None else self._face.width()

    def show(self, view: View) -> None:
        """Takes note of how the run stands, and draws it if it is time to, or if the state is another one."""
        view.tally.look(view.seconds, view.stats)
        changed, self._state = view.state != self._state, view.state
        if self._face is not None:
            self._face.show(view, at_once=changed)

    def say(self, text: str) -> None:
        """Prints a message of one or more lines, above the block if there is one. It is made printable."""
        text = "\n".join(map(printable, text.split("\n")))
        if self._face is not None:
            self._face.say(text)
        elif sys.stderr is not None:
            with suppress(OSError):
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()

    def abandon(self) -> None:
        """For a signal handler that ends or stops the process: clears the block, and waits for nobody."""
        if self._face is not None:
            self._face.abandon()


class _Face(Protocol):
    def enter(self) -> None: ...

    def leave(self) -> None: ...

    def show(self, view: View, *, at_once: bool) -> None: ...

    def say(self, text: str) -> None: ...

    def abandon(self) -> None: ...

    def width(self) -> int: ...


def _can_move(stream: TextIO) -> bool:
    """Whether it is a terminal whose cursor can be moved."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


@final
class _Pen:
    """Writes to a stream until that fails: at once or not at all with `draw`, to the end with `put`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self._encoding = stream.encoding or "ascii"
        self._rich = _has(SIGNS, self._encoding)
        self._own: int | None = None
        self._rest = b""  # of what was drawn

    def descriptor(self) -> int | None:
        """That of the stream; `None` if it has none."""
        try:
            return None if self._stream is None else self._stream.fileno()
        except (OSError, ValueError):
            return None

    def draw(self, text: str) -> bool:
        """Whether there was room for it. A terminal that takes nothing, after Ctrl-S, must not halt the run."""
        if self._own is None:
            self._own = _reopened(self.descriptor())
        if self._own is None:
            ready = _ready(self.descriptor())
            if ready:
                self.put(text)
            return ready
        self._go_on()
        if self._rest:
            return False
        self._rest = self._fit(text).encode(self._encoding, "replace")
        self._go_on()
        return True

    def put(self, text: str) -> None:
        """Writes it behind what was drawn, however long that takes."""
        while self._rest and self._own is not None:
            _ready(self._own, None)
            self._go_on()
        if self._stream is None:
            return
        try:
            self._stream.write(self._fit(text))
            self._stream.flush()
        except (OSError, ValueError):  # what a closed file raises
            self._stream = None

    def put_down(self) -> None:
        """Closes what was opened for `draw`, once all of it is written."""
        self.put("")
        if self._own is not None:
            os.close(self._own)
            self._own = None

    def _fit(self, text: str) -> str:
        if self._rich:
            return text
        return text.translate(_POOR).encode(self._encoding, "replace").decode(self._encoding)

    def _go_on(self) -> None:
        if self._own is None or not self._rest:
            return
        try:
            self._rest = self._rest[os.write(self._own, self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._stream, self._rest = None, b""


def _reopened(descriptor: int | None) -> int | None:
    """The same terminal, to write to without waiting; `None` if it is no terminal.

    Opened anew, since a descriptor that does not wait shares that with all the others of its kind: those of our stdout,
    and of the shell.
    """
    if descriptor is None or sys.platform == "win32":
        return None
    try:
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def _ready(descriptor: int | None, timeout: float | None = 0) -> bool:
    """Whether a line can be written at once; after `timeout` milliseconds, `None` for any time."""
    if descriptor is None or sys.platform == "win32":
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(timeout))


def _has(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


@final
class _Lines:
    """A line every 30 seconds, and one at the end."""

    def __init__(self, pen: _Pen) -> None:
        self._pen = pen
        self._next = time.monotonic() + _LINES
        self._view: View | None = None

    def enter(self) -> None:
        """Nothing to be done."""

    def leave(self) -> None:
        view = self._view
        # What broke before anything was read has a sentence of its own.
        if view is not None and (view.ended != "broken" or view.stats.pulled):
            self._pen.put(line(view) + "\n")
        self._pen.put_down()

    def show(self, view: View, *, at_once: bool) -> None:
        self._view = view
        now = time.monotonic()
        if (now >= self._next or at_once) and self._pen.draw(line(view) + "\n"):
            self._next = now + _LINES

    def say(self, text: str) -> None:
        self._pen.put(text + "\n")

    def abandon(self) -> None:
        """Nothing to be done."""

    def width(self) -> int:
        return 100


# From the row below on, then the cursor's own: all from the first cell of the screen on at once is what some terminals
# take for a page to be kept, and they move it to the lines that have scrolled away.
_CLEAR: Final = "\r\n\x1b[J\x1b[A\x1b[K"
# Without the terminal's own way to go on in the next line: it cuts what is wider than we took it for.
_CUTTING, _WRAPPING = "\x1b[?7l", "\x1b[?7h"


@final
class _Block:
    """Three lines, drawn again and again below an empty one, on which the cursor rests.

    Since the cursor is above what is drawn, no change of the terminal's size, which may break lines anew, makes it lose
    the place. What others write, and the ^C of the terminal itself, lands on the empty line, and scrolls away above.
    """

    def __init__(self, pen: _Pen) -> None:
        self._pen = pen
        self._lines = _Lines(pen)  # while the terminal is not ours
        self._next = -math.inf
        self._drawn = self._open = False
        self._colours = not os.environ.get("NO_COLOR")
        self._lock = threading.RLock()  # others write from any thread
        self._above: list[tuple[str, TextIO, _Above]] = []

    def enter(self) -> None:
        for name in ("stderr", "stdout"):
            stream: TextIO | None = getattr(sys, name)
            if stream is not None and stream.isatty():
                above = _Above(self, stream)
                self._above.append((name, stream, above))
                setattr(sys, name, above)

    def leave(self) -> None:
        for name, stream, above in self._above:
            if getattr(sys, name) is above:  # else somebody has put something else there, and will put it back
                setattr(sys, name, stream)
        with self._lock:
            self._make_way()
            self._end_line()
            self._pen.put_down()

    def show(self, view: View, *, at_once: bool) -> None:
        now = time.monotonic()
        if now < self._next and not at_once:
            return
        self._next = now + _FRAMES
        # Without waiting: whoever holds the lock may be a thread that the terminal keeps waiting.
        if self._lock.acquire(blocking=False):
            try:
                if self._in_foreground():
                    self._draw(view)
                else:
                    self._drawn = False  # the shell has the cursor now
                    self._lines.show(view, at_once=at_once)
            finally:
                self._lock.release()

    def _draw(self, view: View) -> None:
        width, height = self._size()
        lines = block(view, width)[: height - 1]
        if lines and self._colours:
            lines[0] = _coloured(lines[0])
        if not lines:
            return
        *upper, last = lines
        text = "".join(f"\n\x1b[K{text}" for text in upper)
        begin = "\n" if self._open else "\r\x1b[K"
        if self._pen.draw(f"{_CUTTING}{begin}{text}\n\x1b[J{last}\r\x1b[{len(lines)}A{_WRAPPING}"):
            self._drawn, self._open = True, False

    def say(self, text: str) -> None:
        with self._lock:
            self._make_way()
            self._end_line()
            self._pen.put(text + "\n")

    def pass_on(self, text: str, stream: TextIO) -> int:
        """Writes what others have to say where the block is, which is drawn again below it."""
        with self._lock:
            self._make_way()
            count = stream.write(text)
            stream.flush()
            if text:
                self._open = not text.endswith("\n")
            return count

    def abandon(self) -> None:
        descriptor = self._pen.descriptor()
        if self._drawn and descriptor is not None and _ready(descriptor):
            os.write(descriptor, _CLEAR.encode())
            self._drawn = False

    def width(self) -> int:
        return self._size()[0]

    def _make_way(self) -> None:
        if self._drawn:
            self._drawn = False
            self._pen.put(_CLEAR)

    def _end_line(self) -> None:
        """So that what others have begun, and not ended, is not written over."""
        if self._open:
            self._open = False
            self._pen.put("\n")

    def _size(self) -> tuple[int, int]:
        descriptor = self._pen.descriptor()
        try:
            columns, rows = os.get_terminal_size(-1 if descriptor is None else descriptor)
        except OSError:
            columns = rows = 0
        return columns or 80, rows or 24  # some do not know their size, and say 0

    def _in_foreground(self) -> bool:
        """Whether the terminal is ours: the shell's user may have sent us to the background."""
        descriptor = self._pen.descriptor()
        if descriptor is None or sys.platform == "win32":
            return True
        try:
            return os.tcgetpgrp(descriptor) == os.getpgrp()
        except OSError:  # it is not the terminal that controls us
            return True


def _coloured(text: str) -> str:
    text = re.sub("[━╸]+", "\x1b[32m\\g<0>\x1b[0m", text)
    return re.sub(r"failed [1-9][\d,]*", "\x1b[31m\\g<0>\x1b[0m", text)


@final
class _Above:
    """Stands in for `sys.stderr` or `sys.stdout`; also for those who keep it when the screen is gone."""

    def __init__(self, face: _Block, stream: TextIO) -> None:
        self._face, self._stream = face, stream

    def write(self, text: str) -> int:
        return self._face.pass_on(text, self._stream)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
