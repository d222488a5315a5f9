"""OUT, the file of results: one line of JSON for each row of the journal that is a success.

Invariant: whatever happened to the file, after `repair` it is what the journal gives, to the byte: a line for each
success that counts, in the order of recording, or, once `put_in_order` has run, in that of the input. Both orders are
known by comparing, so there is no mark that could be wrong. Between repairs it only grows, by whole lines, unless the
process dies or the disk fails in the middle of one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final, final

from aiomap._foreign import printable
from aiomap.cli.output import WriteFailed
from aiomap.errors import JournalLocked
from aiomap.journal.database import damaged, is_empty, sync_folder
from aiomap.journal.reading import read_rows, reading
from aiomap.journal.rows import DONE, Row, Values, checked
from aiomap.journal.sittings import last_opening

__all__ = [
    "OutFile",
    "Repaired",
    "draft_of",
    "in_blocks",
    "key_text",
    "line_of",
    "rows_in_input_order",
    "write_all",
    "writing",
]

_BLOCK: Final = 1 << 20  # bytes that are compared or written at once
_LONGEST_LABEL: Final = 1000  # characters; a label of so many was cut, and may be no JSON any more
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_NEW: Final = "SELECT * FROM outcome WHERE id > ? ORDER BY id"
_BY_INDEX: Final = (  # SQLite takes a column beside max() from the row that has the maximum
    "SELECT max(id) AS last, position FROM outcome WHERE id >= ? GROUP BY key, occurrence ORDER BY position, last"
)
_SINGLE: Final = "SELECT * FROM outcome WHERE id = ?"


@final
@dataclass(frozen=True, slots=True)
class Repaired:
    """What `OutFile.repair` found and did.

    kept: lines that were there as they must be; cut: bytes that were taken off the end; added: lines that were missing.
    """

    kept: int
    cut: int
    added: int


def line_of(row: Row) -> bytes:
    r"""The line for a row that is DONE; its result stands in it byte for byte as in the journal.

    >>> line_of((bytes(16), 0, DONE, 7, 1, 1_764_156_600_123_456, 250_000, '"id 7"', b'{"n":1}'))
    b'{"key":"id 7","index":7,"value":{"n":1},"attempts":1,"started":1764156600.123456,"elapsed":0.25}\n'
    """
    _, _, _, position, attempts, started, elapsed, _, body = row
    head = f'{{"key":{key_text(row)},"index":{position},"value":'
    tail = f',"attempts":{attempts},"started":{started / 1e6!r},"elapsed":{elapsed / 1e6!r}}}\n'
    return b"".join((head.encode(), body, tail.encode()))


def key_text(row: Row) -> str:
    """What the item is known by, as JSON: its label, or, if it has none that is whole, the digest in hexadecimal."""
    label = row[7]
    return f'"{row[0].hex()}"' if label is None or len(label) >= _LONGEST_LABEL else label


def rows_in_input_order(journal: str) -> Iterator[Row]:
    """The rows of the successes that count, by index (of two with the same, by time of recording), as of now.

    SQLite sorts their ids, in files of its own if they are many; one row is held at a time. JournalDamaged at a row
    that is not as it was written.
    """
    return (row for _, row in _by_index(journal))


@final
class OutFile:
    """OUT, as a sitting has it; `close` it in the end. For one thread at a time, whichever that is.

    path: OUT, a regular file, or nothing yet; if it is a link, what the link stands for.
    journal: the journal's file, which must be there: nothing else says what belongs into OUT.

    OUT is locked from `repair` on: a second process that would repair it meanwhile gets JournalLocked. What the system
    refuses is a `WriteFailed` with a sentence; then only `repair` and `close` are left.
    """

    def __init__(self, path: str, journal: str) -> None:
        self._path = os.path.realpath(path)
        self._journal = journal
        self._descriptor = -1
        self._usable = False
        self._size = 0  # that it has if nobody else writes to it
        self._first = 0  # the first row that counts
        self._last = 0  # of the rows behind it, none has its line yet
        self._highest = 0  # the same, for what is written or found in the order of the input
        self._writes = threading.Lock()

    def repair(self) -> Repaired:
        """Makes OUT what the journal gives. It may be killed at any point, and called again at any time.

        OUT and the journal are read once, and OUT is written only behind the last line that is as it must be. If it is
        not in the order of recording, it is read once more, for that of the input; if that is not it either, because
        it was put in order and has grown since, it is written anew. Holds a MiB and a row. JournalError and
        JournalDamaged as for reading a journal.
        """
        with writing(self._path):
            self._usable = False
            self._first = _first_that_counts(self._journal)  # without a journal nothing is made, or touched
            self._open()
            size = os.fstat(self._descriptor).st_size
            blocks = in_blocks(self._recorded_lines())
            kept, end, missing = self._agreeing(blocks)
            if end < size:
                in_order = self._lines_in_input_order(size)
                if in_order is None:
                    os.ftruncate(self._descriptor, end)
                else:
                    kept, end, missing, blocks = in_order, size, [], iter(())
            added = 0
            for block in chain([missing], blocks):
                write_all(self._descriptor, b"".join(block))
                added += len(block)
            os.fsync(self._descriptor)
            self._size = os.fstat(self._descriptor).st_size
            self._usable = True
        return Repaired(kept, size - end, added)

    def catch_up(self) -> int:
        """Appends a line for each success that was recorded since the last call, or since `repair`; returns how many.

        From the journal, since an `Outcome` has other times than its row: they are counted from the start of the run.
        If a run has begun of which no earlier row counts, OUT is repaired.
        """
        if _first_that_counts(self._journal) != self._first:
            return self.repair().added
        added = 0
        for block in in_blocks(self._new_lines()):
            self.append(block)
            added += len(block)
        return added

    def append(self, lines: Iterable[bytes]) -> None:
        """Writes whole lines, from any thread: those of one call stay together."""
        data = b"".join(lines)
        with self._writes, writing(self._path):
            if not self._usable:
                raise WriteFailed(f"{printable(self._path)}: nothing can be appended before repair() has succeeded")
            self._usable = False  # a failure may leave a part of a line
            write_all(self._descriptor, data)
            self._size += len(data)
            self._usable = True

    def put_in_order(self) -> None:
        """Has the lines stand in the order of the input: by index, as the journal has it. All or nothing.

        Takes the room of OUT once more, beside it, while it is written. OUT stays as it is if it is in order already.
        """
        if not self._usable:
            self.repair()
        with writing(self._path):
            old = os.fstat(self._descriptor)
            if self._lines_in_input_order(old.st_size) is not None:
                return
            self._usable = False
            ordered = -1
            try:
                with draft_of(self._path, f"{self._path}.part") as descriptor:
                    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    for block in in_blocks(self._ordered_lines()):
                        write_all(descriptor, b"".join(block))
                    self._size = os.fstat(descriptor).st_size
                    ordered = os.dup(descriptor)  # the lock is on this one as well
            except BaseException:
                if ordered >= 0:
                    os.close(ordered)
                raise
            self._descriptor, ordered = ordered, self._descriptor
            self._last = self._highest
            self._usable = True
            os.close(ordered)

    def check(self) -> None:
        """WriteFailed if somebody else has removed, replaced, cut or written to OUT since it was repaired."""
        if not self._usable:
            return
        with writing(self._path):
            is_there = self._is_in_place(self._descriptor)
            if is_there and os.fstat(self._descriptor).st_size == self._size:
                return
        what = "changed by somebody else" if is_there else "removed or replaced"
        again = "what was recorded is safe, and the same command makes it whole again"
        raise WriteFailed(f"{printable(self._path)} was {what} while it was written: {again}")

    def close(self) -> None:
        """Syncs OUT and lets go of it. A second time it does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        usable, self._usable = self._usable, False
        try:
            if usable:
                with writing(self._path):
                    os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _open(self) -> None:
        made = not os.path.lexists(self._path)
        if not made and not os.path.isfile(self._path):  # noqa: PTH113  (paths are text here)
            raise WriteFailed(f"{printable(self._path)} is no regular file, and only such a one can go on: use another")
        if self._descriptor >= 0:
            if self._is_in_place(self._descriptor):
                return
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            self._lock(descriptor)
            if made:
                sync_folder(self._path)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _is_in_place(self, descriptor: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))  # noqa: PTH116  (the same)
        return False

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        else:
            free = self._is_in_place(descriptor)  # or the other one has just put it in order
        if not free:
            raise JournalLocked(self._path, "another run is writing to it: wait for its end, or write to another file")

    def _recorded_lines(self) -> Iterator[bytes]:
        self._last = 0
        for number, row in read_rows(self._journal):
            self._last = number
            if row[2] == DONE:
                yield line_of(row)

    def _ordered_lines(self) -> Iterator[bytes]:
        self._highest = 0
        for number, row in _by_index(self._journal):
            self._highest = max(self._highest, number)
            yield line_of(row)

    def _new_lines(self) -> Iterator[bytes]:
        for number, row in _rows_after(self._journal, self._last):
            self._last = number
            if row[2] == DONE:
                yield line_of(row)

    def _agreeing(self, blocks: Iterator[list[bytes]]) -> tuple[int, int, list[bytes]]:
        """How many lines stand there as given, up to which byte, and what is missing of the block that is not whole."""
        kept = end = 0
        for block in blocks:
            data = b"".join(block)
            there = os.pread(self._descriptor, len(data), end)
            if there != data:
                same = _whole_lines(block, there)
                return kept + same, end + sum(map(len, block[:same])), block[same:]
            kept, end = kept + len(block), end + len(data)
        return kept, end, []

    def _lines_in_input_order(self, size: int) -> int | None:
        """How many lines OUT has if it is all of the journal in the order of the input."""
        kept, end, missing = self._agreeing(in_blocks(self._ordered_lines()))
        if end < size or missing:
            return None
        self._last = self._highest
        return kept


def _whole_lines(block: Sequence[bytes], there: bytes) -> int:
    """How many of the lines are there."""
    start = 0
    for count, line in enumerate(block):
        if not there.startswith(line, start):
            return count
        start += len(line)
    return len(block)


def _first_that_counts(journal: str) -> int:
    """The id of the first row that counts; 0 if no run has begun."""
    with reading(journal) as connection:
        opening = None if is_empty(connection) else last_opening(connection, journal)
    return 0 if opening is None else opening.first


def _by_index(journal: str) -> Iterator[tuple[int, Row]]:
    with reading(journal) as connection:
        opening = None if is_empty(connection) else last_opening(connection, journal)
        if opening is None:
            return
        for number, _ in connection.execute(_BY_INDEX, (opening.first,)):
            for found in connection.execute(_SINGLE, (number,)):
                row = _as_written(journal, found)
                if row[2] == DONE:
                    yield number, row


def _rows_after(journal: str, last: int) -> Iterator[tuple[int, Row]]:
    with reading(journal) as connection:
        for found in () if is_empty(connection) else connection.execute(_NEW, (last,)):
            yield found[0], _as_written(journal, found)


def _as_written(journal: str, found: Values) -> Row:
    number, *values = found
    row = checked(number, values)
    if row is None:
        raise damaged(journal, f"row {number} is not as it was written")
    return row


def in_blocks(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The lines, as many at a time as make up a MiB."""
    block: list[bytes] = []
    size = 0
    for line in lines:
        block.append(line)
        size += len(line)
        if size >= _BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of it, however little the system takes at once."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


@contextmanager
def writing(path: str) -> Generator[None]:
    """What the system raises becomes a WriteFailed that says what to do; a reader who went away stays what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            reason = "the disk is full: free some space and run again; what was recorded is safe"
        raise WriteFailed(f"{printable(path)} cannot be written: {reason}") from error


@contextmanager
def draft_of(path: str, draft: str) -> Generator[int]:
    """A descriptor to write to what becomes the file at `path` on leaving, all at once; after an error nothing does.

    draft: its name until then, in the same folder; what has that name already, as after a kill, is deleted.
    """
    with suppress(FileNotFoundError):
        os.unlink(draft)  # noqa: PTH108  (paths are text here)
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(draft, path)  # noqa: PTH105  (the same)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft)  # noqa: PTH108  (the same)
        raise
    sync_folder(path)
