"""What is wrong with a journal, and what can be saved of it.

Invariant: the damaged file is only read. A row is saved only if its checksum says that it is what was written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

from aiomap.errors import JournalDamaged
from aiomap.journal.database import (
    SCHEMA,
    TOLERANT,
    check_free,
    check_place,
    connected,
    is_empty,
    is_loss,
    lay_out,
    number_of,
    own_errors,
    own_name,
    quick_check,
    schema_of,
    sync_folder,
    transaction,
)
from aiomap.journal.file import insert
from aiomap.journal.lock import FileLock
from aiomap.journal.reading import reading
from aiomap.journal.rows import Row, Values, checked
from aiomap.journal.sittings import Opening, add_sitting, as_opening, opening_body, sitting_of

__all__ = ["Report", "check", "repair"]

_BATCH: Final = 256  # rows that are copied at once
_SMALLEST: Final = 40  # bytes: no row takes less

_SHOWN: Final = 10  # findings of SQLite's own check

_FEW: Final = 1000  # sittings that are looked for if their last one cannot be read


@dataclass(frozen=True, slots=True)
class Report:
    """What a look at a whole journal found.

    rows: how many rows are as they were written; problems: a sentence for each thing that is wrong.
    """

    rows: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def check(path: str) -> Report:
    """Reads everything and says what is wrong. JournalError only for what is no journal or cannot be read at all."""
    marked = FileLock(own_name(path)).marked()  # before the rest is looked at: a run may be on
    with reading(path, TOLERANT) as connection:
        losses = _Losses()
        if is_empty(connection):
            for number in range(1, marked + 1):
                losses.add_row("row", number, "missing")
            return Report(0, losses.sentences())
        with losses.noted("the tables"):
            if schema_of(connection) != SCHEMA:
                losses.add("the tables are not those of a journal")
        with losses.noted("the database"):
            losses.add(*quick_check(connection, _SHOWN))
        with losses.noted("the sittings"):
            for _ in _whole_sittings(connection, losses):
                pass
        rows = 0
        with losses.noted("the rows"):
            rows = sum(1 for _ in _whole_rows(connection, 1, marked, losses))
        return Report(rows, losses.sentences())


def repair(path: str, into: str) -> Report:
    """Writes all rows that count and are whole into a new journal, and says what was left out.

    Needs the lock of both. JournalError if `into` exists, JournalDamaged if no row says whose results these are.
    """
    path, into = own_name(path), own_name(into)
    locks = FileLock(path), FileLock(into)
    try:
        check_place(path)
        check_free(into)
        for lock in locks:
            lock.acquire()
        with reading(path, TOLERANT) as source:
            report = _saved(source, path, into, locks[0].marked())
        locks[1].mark(report.rows)
        return report
    finally:
        for lock in locks:
            lock.release()


def _saved(source: sqlite3.Connection, path: str, into: str, marked: int) -> Report:
    losses = _Losses()
    opening: Opening | None = None
    with losses.noted("the sittings"):
        for body in _whole_sittings(source, losses):
            opening = as_opening(body) or opening
    if opening is None:
        raise JournalDamaged(path, "no row that says whose results these are can be read, so nothing can be saved")
    draft = f"{into}.draft-{os.getpid()}"
    try:
        with own_errors(into):
            os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            rows = _copy(source, draft, opening, marked, losses)
            _place(draft, into)
    finally:
        for name in (draft, draft + "-wal", draft + "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108  (paths are text here)
    return Report(rows, losses.sentences())


def _copy(source: sqlite3.Connection, draft: str, opening: Opening, marked: int, losses: _Losses) -> int:
    rows = 0
    target = connected(draft, "mode=rw")
    try:
        lay_out(target, draft)
        with transaction(target):
            add_sitting(target, opening_body(opening.identity, 1))
        whole = _whole_rows(source, opening.first, marked, losses)
        while batch := list(islice(whole, _BATCH)):
            with transaction(target):
                insert(target, batch, rows + 1)
            rows += len(batch)
        # Here, and not by `close`, which would hide errors.
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        target.close()
    return rows


def _place(draft: str, into: str) -> None:
    """Gives the draft its name, unless somebody else has it by now."""
    try:
        os.link(draft, into)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        check_free(into)
        os.rename(draft, into)  # noqa: PTH104  (paths are text here)
    sync_folder(into)


class _Losses:
    """What is wrong, in sentences; rows that follow one another and miss for one reason share one."""

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._run: tuple[str, int, int, str] | None = None

    def add(self, *sentences: str) -> None:
        self._end_run()
        self._sentences += sentences

    def add_row(self, what: str, number: int, why: str) -> None:
        first = number
        if self._run and (self._run[0], self._run[2] + 1, self._run[3]) == (what, number, why):
            first = self._run[1]
        else:
            self._end_run()
        self._run = what, first, number, why

    def sentences(self) -> tuple[str, ...]:
        self._end_run()
        return tuple(self._sentences)

    @contextmanager
    def noted(self, what: str) -> Generator[None]:
        """An error of the database in here is a loss."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if not is_loss(error):
                raise
            self.add(f"{what} cannot be read ({error})")

    def _end_run(self) -> None:
        if self._run is None:
            return
        what, low, high, why = self._run
        numbers = f"{what} {low}" if low == high else f"{what}s {low} to {high}"
        self._sentences.append(f"{numbers}: {why}")
        self._run = None


def _whole_rows(connection: sqlite3.Connection, low: int, marked: int, losses: _Losses) -> Iterator[Row]:
    """The rows from `low` on that are as they were written; what is lost is told."""
    bound = _page_bytes(connection) // _SMALLEST
    last = _highest(connection, "outcome", bound)
    high = max((marked or bound) if last is None else last, marked)
    yield from _whole(connection, "outcome", checked, range(low, high + 1), losses)
    with losses.noted("the last rows"):
        strange = "SELECT count(*) FROM outcome WHERE id < 1 OR id > ?"
        if connection.execute(strange, (high,)).fetchall() != [(0,)]:
            losses.add("there are rows with numbers that no row was given")


def _whole_sittings(connection: sqlite3.Connection, losses: _Losses) -> Iterator[dict[str, Any]]:
    last = _highest(connection, "sitting", _page_bytes(connection) // _SMALLEST)
    yield from _whole(connection, "sitting", sitting_of, range(1, 1 + (_FEW if last is None else last)), losses)


def _whole(
    connection: sqlite3.Connection,
    table: str,
    as_written: Callable[[int, Values], T | None],
    ids: range,
    losses: _Losses,
) -> Iterator[T]:
    """What stands under these ids, without what is lost.

    A walk ends at the first row that is not there, and goes on behind it: in a damaged tree a row that the walk misses,
    or a page that it cannot read, may be one that hides others. So the row at which it ended is looked for by itself.
    """
    low, last = ids.start, ids.stop - 1
    while low <= last:
        for found in _walk(connection, table, as_written, range(low, ids.stop)):
            yield found
            low += 1
        if low <= last:
            single, why = _single(connection, table, as_written, low)
            if single is not None:
                yield single
            else:
                losses.add_row("row" if table == "outcome" else table, low, why)
            low += 1


def _walk(
    connection: sqlite3.Connection, table: str, as_written: Callable[[int, Values], T | None], ids: range
) -> Iterator[T]:
    query = f"SELECT * FROM {table} WHERE id BETWEEN ? AND ? ORDER BY id"  # noqa: S608  (a name of ours)
    try:
        for expected, (number, *values) in zip(ids, connection.execute(query, (ids[0], ids[-1])), strict=False):
            found = as_written(number, values) if number == expected else None
            if found is None:
                return
            yield found
    except sqlite3.DatabaseError as error:
        if not is_loss(error):
            raise


def _single(
    connection: sqlite3.Connection, table: str, as_written: Callable[[int, Values], T | None], number: int
) -> tuple[T | None, str]:
    """The row, or why there is none. No more than it is read: its page may be the last that can be."""
    try:
        rows = connection.execute(f"SELECT * FROM {table} WHERE id = ?", (number,)).fetchall()  # noqa: S608
    except sqlite3.DatabaseError as error:
        if not is_loss(error):
            raise
        return None, "cannot be read"
    if not rows:
        return None, "missing"
    return as_written(number, rows[0][1:]), "not as written"


def _highest(connection: sqlite3.Connection, table: str, bound: int) -> int | None:
    """The highest id, 0 if there is none, `None` if that cannot be read."""
    try:
        query = f"SELECT max(id) FROM {table} WHERE id BETWEEN 1 AND ?"  # noqa: S608  (a name of ours)
        return connection.execute(query, (bound,)).fetchall()[0][0] or 0
    except sqlite3.DatabaseError:
        return None


def _page_bytes(connection: sqlite3.Connection) -> int:
    return number_of(connection, "page_count") * number_of(connection, "page_size")


T = TypeVar("T")
