"""The journal's file as a run has it: locked, appended to, and read.

Invariant: a row is committed whole, with its checksum, and never changed; what is given out has been checked against
its checksum.

Each step of a statement lets go of the interpreter, and a busy event loop gives it back after up to 5 ms. So what a run
waits for takes few steps: many rows in one INSERT, and thousands of rows aggregated into one.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from binascii import unhexlify
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, final

from aiomap.errors import JournalError
from aiomap.journal.database import (
    SCHEMA,
    check_kind,
    check_place,
    connected,
    damaged,
    is_empty,
    lay_out,
    own_errors,
    own_name,
    quick_check,
    schema_of,
    set_wal,
    size_of,
    sync_folder,
    transaction,
)
from aiomap.journal.lock import FileLock
from aiomap.journal.rows import FAILED, Row, checked, crc_of
from aiomap.journal.sittings import Opening, add_sitting, last_opening, opening_body

__all__ = ["JournalFile", "insert", "name_of"]

_COLUMNS: Final = "id, key, occurrence, state, position, attempts, started, elapsed, label, body, crc"

_WIDTH: Final = 11

_KEY: Final = 16  # bytes

# Few sizes, because each is a statement that is compiled once and kept.
_ROWS: Final = (2048, 256, 32, 4, 1)  # of an INSERT; 11 parameters each, of which SQLite takes 32,766 by default

_IDS: Final = (8192, 1024, 128, 16, 1)  # of a SELECT

_KEYS: Final = 16_384  # rows whose keys are loaded in one step

_BYTES: Final = 4 << 20  # of labels and bodies that are aggregated at once; on the way they take ten times that

_LOAD: Final = (
    "SELECT group_concat(id), group_concat(hex(key), ''), group_concat(state, ''), group_concat(occurrence) "
    "FROM outcome WHERE id BETWEEN ? AND ?"
)

_AGGREGATED: Final = ", ".join(
    f"group_concat({column})"
    for column in (
        *("id", "hex(key)", "occurrence", "state", "position", "attempts", "started", "elapsed"),
        *("CASE WHEN label IS NULL THEN '-' ELSE hex(label) END", "hex(body)", "crc"),
    )
)

_FAILED: Final = ord(str(FAILED))

_log: Final = logging.getLogger("aiomap.journal")


@final
class JournalFile:
    """The journal as a run has it: locked, appended to, and read. For one thread at a time, whichever it is.

    path: the file. Nothing is done before `open`; after any error of `open`, `begin` or `append` only `close` is left.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = FileLock(path)
        self._connection: sqlite3.Connection | None = None
        self._opening: Opening | None = None
        self._begun = 0  # the row of `sitting` that opened this one
        self._last = 0
        self._broken = False

    @property
    def path(self) -> str:
        """Where it is."""
        return self._path

    @property
    def identity(self) -> dict[str, Any] | None:
        """What the last sitting was opened for; `None` in a new file."""
        return None if self._opening is None else self._opening.identity

    def open(self) -> None:
        """Locks the file and checks it, or creates it. JournalLocked, JournalDamaged, JournalError."""
        self._path = own_name(self._path)
        self._lock = FileLock(self._path)
        check_place(self._path)
        self._lock.acquire()
        try:
            with own_errors(self._path):
                self._open()
        except BaseException:
            self.close(None)
            raise

    def begin(self, identity: Mapping[str, Any], *, anew: bool) -> None:
        """Opens a sitting; `anew`: the rows so far do not count from now on."""
        first = self._last + 1 if anew else self._opening.first if self._opening else 1
        with self._writing() as connection:
            self._begun = add_sitting(connection, opening_body(identity, first))
        self._opening = Opening(dict(identity), first)

    def known(self, *, failures: bool, stop: Callable[[], bool]) -> dict[bytes, int]:
        """The last row of each key that needs no run: key, or key and occurrence in 4 bytes where that is not 0.

        failures: whether a failure counts. stop: asked now and then; once it is true, what is there is returned.
        """
        known: dict[bytes, int] = {}
        first = self._opening.first if self._opening else 1
        with own_errors(self._path):
            for low in range(first, self._last + 1, _KEYS):
                if stop():
                    break
                self._load(known, range(low, min(low + _KEYS, self._last + 1)), failures=failures)
        return known

    def failures(self) -> list[int]:
        """The rows that count and are failures, later ones of the same key or not."""
        query = "SELECT group_concat(id) FROM outcome WHERE id >= ? AND state = ?"
        first = self._opening.first if self._opening else 1
        with own_errors(self._path):
            listed: bytes | None = self._usable().execute(query, (first, FAILED)).fetchall()[0][0]
        return [int(number) for number in listed.split(b",")] if listed else []

    def append(self, rows: Sequence[Row]) -> int:
        """Commits the rows, all or none, and syncs them; returns the id of the last."""
        with self._writing() as connection:
            try:
                insert(connection, rows, self._last + 1)
            except (sqlite3.DataError, OverflowError) as error:
                raise JournalError(
                    self._path, "a result is larger than SQLite takes (1 GB): have the function write it elsewhere"
                ) from error
        self._last += len(rows)
        self._lock.mark(self._last)
        return self._last

    def recall(self, ids: Sequence[int]) -> list[Row]:
        """The rows with these ids, in that order. JournalDamaged if one is not as it was written."""
        rows: dict[int, Row] = {}
        connection = self._usable()
        with own_errors(self._path):
            for part in _cut(ids, _taken(connection, _IDS)):
                _recall(connection, part, rows)
        for number in ids:
            if number not in rows:
                raise damaged(self._path, f"row {number} is not as it was written")
        return [rows[number] for number in ids]

    def close(self, counts: Mapping[str, Any] | None) -> None:
        """Ends the sitting with these counts, if given, and lets go of the file; a second time it does nothing."""
        connection = self._connection
        try:
            if counts is not None and self._begun and connection is not None and not self._broken and self._lock.held:
                body = {"closes": self._begun, "at": time.time(), "counts": dict(counts)}
                with self._writing():
                    add_sitting(connection, body)
        finally:
            self._connection = None
            if connection is not None:
                # It brings the log into the database too. If it cannot, for a reader or a full disk, the next one does.
                with suppress(sqlite3.Error):
                    connection.close()
            self._lock.release()

    def _open(self) -> None:
        if not os.path.lexists(self._path):
            self._lock.mark(0)  # it may be that of a journal that was deleted
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        unclean = size_of(self._path + "-wal") > 0
        self._connection = connection = connected(self._path, "mode=rw")
        if is_empty(connection):
            lay_out(connection, self._path)
            sync_folder(self._path)
            self._compare_mark()
            return
        check_kind(connection, self._path)
        if schema_of(connection) != SCHEMA:
            raise damaged(self._path, "its tables are not those of a journal")
        set_wal(connection, self._path)
        if unclean and (found := quick_check(connection, 1)):
            raise damaged(self._path, f"the database is damaged ({found[0]})")
        self._last = _last_row(connection, self._path)
        self._opening = last_opening(connection, self._path)
        self._compare_mark()

    def _compare_mark(self) -> None:
        gone = self._lock.marked() - self._last
        if gone > 0:
            _log.warning(
                "journal %s: the last %d rows that were committed are gone, as after a power cut on a disk that says "
                "too early that it has written; their items run again",
                self._path,
                gone,
            )
        self._lock.mark(self._last)

    def _load(self, known: dict[bytes, int], ids: range, *, failures: bool) -> None:
        columns = self._usable().execute(_LOAD, (ids[0], ids[-1])).fetchall()[0]
        numbers, hexed, states, occurrences = (column or b"" for column in columns)
        if numbers != ",".join(map(str, ids)).encode() or len(hexed) != 2 * _KEY * len(ids):
            raise damaged(self._path, f"not all rows from {ids[0]} to {ids[-1]} are there, once, and with their keys")
        joined = unhexlify(hexed)
        keys = [joined[start : start + _KEY] for start in range(0, len(joined), _KEY)]
        if not occurrences.strip(b"0,") and not states.strip(b"12" + b"3" * failures):
            known.update(zip(keys, ids, strict=True))
            return
        if len(states) != len(ids) or states.strip(b"123"):
            raise damaged(self._path, f"a row from {ids[0]} to {ids[-1]} has no state that is one")
        try:
            for key, number, state, occurrence in zip(keys, ids, states, occurrences.split(b","), strict=True):
                _note(known, name_of(key, int(occurrence)), number, counts=failures or state != _FAILED)
        except (ValueError, OverflowError) as error:
            raise damaged(self._path, f"a row from {ids[0]} to {ids[-1]} has no occurrence that is one") from error

    def _usable(self) -> sqlite3.Connection:
        if self._connection is None or not self._lock.held:
            raise JournalError(self._path, "it is not open, in this process")
        if self._broken:
            raise JournalError(self._path, "an earlier error has ended its use: start the run again")
        return self._connection

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """A transaction. After a failure there is no second try: a sync that failed once may succeed with data lost."""
        connection = self._usable()
        self._broken = True
        with own_errors(self._path), transaction(connection):
            yield connection
        self._broken = False


def _last_row(connection: sqlite3.Connection, path: str) -> int:
    count, first, last = connection.execute("SELECT count(*), min(id), max(id) FROM outcome").fetchall()[0]
    if count and (first, last) != (1, count):
        raise damaged(path, f"it has {count} rows, and they are numbered from {first} to {last}")
    return int(count)


def _taken(connection: sqlite3.Connection, sizes: Iterable[int], width: int = 1) -> list[int]:
    """The sizes whose parameters are not too many: an older SQLite takes 999."""
    most = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    return [size for size in sizes if size * width <= most]


def _cut(items: Sequence[Any], sizes: Iterable[int]) -> Iterator[Sequence[Any]]:
    start = 0
    for size in sizes:
        while len(items) - start >= size:
            yield items[start : start + size]
            start += size


def insert(connection: sqlite3.Connection, rows: Sequence[Row], first: int) -> None:
    """Adds the rows, with ids from `first` on."""
    place = f"({', '.join('?' * _WIDTH)})"
    for part in _cut(rows, _taken(connection, _ROWS, _WIDTH)):
        values: list[Any] = []
        for number, row in enumerate(part, first):
            values += (number, *row, crc_of(number, row))
        statement = f"INSERT INTO outcome({_COLUMNS}) VALUES {', '.join([place] * len(part))}"  # noqa: S608
        connection.execute(statement, values)
        first += len(part)


def _recall(connection: sqlite3.Connection, ids: Sequence[int], rows: dict[int, Row]) -> None:
    """Adds the rows with these ids that are as they were written."""
    where = f"FROM outcome WHERE id IN ({', '.join('?' * len(ids))})"
    if len(ids) > 1:
        total = f"SELECT total(length(body)) + total(length(label)) {where}"
        if connection.execute(total, ids).fetchall()[0][0] > _BYTES:
            middle = len(ids) // 2
            _recall(connection, ids[:middle], rows)
            _recall(connection, ids[middle:], rows)
            return
        columns = connection.execute(f"SELECT {_AGGREGATED} {where}", ids).fetchall()[0]
        with suppress(ValueError):  # damage: the row that it is in stays out
            _add_aggregated(columns, rows)
    for number in ids:
        if number not in rows:
            _add_single(connection, number, rows)


_CONVERTED: Final[tuple[Callable[[bytes], Any], ...]] = (
    *(int, unhexlify, int, int, int, int, int, int),
    lambda label: None if label == b"-" else unhexlify(label),
    *(unhexlify, int),
)


def _add_aggregated(columns: Sequence[bytes | None], rows: dict[int, Row]) -> None:
    split = (map(convert, (column or b"").split(b",")) for convert, column in zip(_CONVERTED, columns, strict=True))
    for number, *values in zip(*split, strict=True):
        row = checked(number, values)
        if row is not None:
            rows[number] = row


def _add_single(connection: sqlite3.Connection, number: int, rows: dict[int, Row]) -> None:
    for _, *values in connection.execute("SELECT * FROM outcome WHERE id = ?", (number,)).fetchall():
        row = checked(number, values)
        if row is not None:
            rows[number] = row


def name_of(key: bytes, occurrence: int) -> bytes:
    """What `known` has an item under."""
    return key + occurrence.to_bytes(4, "big") if occurrence else key


def _note(known: dict[bytes, int], name: bytes, number: int, *, counts: bool) -> None:
    if counts:
        known[name] = number
    else:
        known.pop(name, None)
