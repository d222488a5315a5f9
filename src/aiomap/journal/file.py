"""The journal's file: one SQLite database that only grows.

Invariant: a row is committed whole, with its checksum, and never changed; what is given out has been checked against
its checksum. No error of SQLite leaves this module as itself, and no connection stays open behind one.

Each step of a statement lets go of the interpreter, and a busy event loop gives it back after up to 5 ms. So what a run
waits for takes few steps: many rows in one INSERT, and thousands of rows aggregated into one.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sqlite3
import stat
import struct
import time
from binascii import unhexlify
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, final
from urllib.parse import quote
from zlib import crc32

from aiomap.errors import JournalDamaged, JournalError
from aiomap.journal.lock import FileLock
from aiomap.journal.rows import FAILED, Row

__all__ = ["JournalFile", "Report", "check", "identity_of", "read_rows", "repair"]

T = TypeVar("T")

_APPLICATION: Final = 0x61696F6D  # "aiom"
_VERSION: Final = 1
_TABLES: Final = {
    "outcome": "CREATE TABLE outcome(id INTEGER PRIMARY KEY, key BLOB NOT NULL, occurrence INTEGER NOT NULL, "
    "state INTEGER NOT NULL, position INTEGER NOT NULL, attempts INTEGER NOT NULL, started REAL NOT NULL, "
    "elapsed REAL NOT NULL, label TEXT, body BLOB NOT NULL, crc INTEGER NOT NULL)",
    "sitting": "CREATE TABLE sitting(id INTEGER PRIMARY KEY, body TEXT NOT NULL, crc INTEGER NOT NULL)",
}
_SCHEMA: Final = [(b"table", name.encode(), name.encode(), sql.encode()) for name, sql in _TABLES.items()]
_COLUMNS: Final = "id, key, occurrence, state, position, attempts, started, elapsed, label, body, crc"
_WIDTH: Final = 11
_SMALLEST: Final = 40  # bytes: no row takes less
_KEY: Final = 16  # bytes

_STRICT: Final = ("trusted_schema=OFF", "cell_size_check=ON", "synchronous=FULL", "fullfsync=ON")
# For reading what is left: without the first, SQLite reads no file that has lost its end, and with the last, no page
# with one bad row in it. Nothing is written over such a connection, and the checksums tell right from wrong.
_TOLERANT: Final = ("writable_schema=ON", "trusted_schema=OFF", "cell_size_check=OFF")

# Few sizes, because each is a statement that is compiled once and kept.
_ROWS: Final = (2048, 256, 32, 4, 1)  # of an INSERT; 11 parameters each, of which SQLite takes 32,766 by default
_IDS: Final = (8192, 1024, 128, 16, 1)  # of a SELECT
_KEYS: Final = 16_384  # rows whose keys are loaded in one step
_BYTES: Final = (
    4 << 20
)  # of labels and bodies that are aggregated at once; as hex and as a list they take ten times that

_LAST_OF_EACH: Final = (
    "SELECT * FROM outcome WHERE id IN (SELECT max(id) FROM outcome WHERE id >= ? GROUP BY key, occurrence) ORDER BY id"
)
_LOAD: Final = (
    "SELECT group_concat(id), group_concat(hex(key), ''), group_concat(state, ''), group_concat(occurrence) "
    "FROM outcome WHERE id BETWEEN ? AND ?"
)
# 20 digits bring a float back exactly. If a version of SQLite prints one wrong, its row has a wrong checksum and is
# read again, as it is.
_AGGREGATED: Final = ", ".join(
    f"group_concat({column})"
    for column in (
        *("id", "hex(key)", "occurrence", "state", "position", "attempts"),
        *("printf('%!.20g', started)", "printf('%!.20g', elapsed)"),
        *("CASE WHEN label IS NULL THEN '-' ELSE hex(label) END", "hex(body)", "crc"),
    )
)

_FAILED: Final = ord(str(FAILED))

_SPARE: Final = 64 << 10  # bytes: with less, an error of the disk is that it is full
_SHOWN: Final = 10  # findings of SQLite's own check
_FEW: Final = 1000  # sittings that are looked for if their last one cannot be read

_log: Final = logging.getLogger("aiomap.journal")

_Values: TypeAlias = Sequence[Any]
"""What stands in a row of the database after its id; the last value is the checksum."""


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


class _Opening(NamedTuple):
    """The last row that opened a sitting."""

    identity: dict[str, Any]
    first: int  # the first row that counts


@final
class JournalFile:
    """The journal as a run has it: locked, appended to, and read. For one thread at a time, whichever it is.

    path: the file. Nothing is done before `open`; after any error of `open`, `begin` or `append` only `close` is left.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = FileLock(path)
        self._connection: sqlite3.Connection | None = None
        self._opening: _Opening | None = None
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
        self._path = _own_name(self._path)
        self._lock = FileLock(self._path)
        _check_place(self._path)
        self._lock.acquire()
        try:
            with _own_errors(self._path):
                self._open()
        except BaseException:
            self.close(None)
            raise

    def begin(self, identity: Mapping[str, Any], *, anew: bool) -> None:
        """Opens a sitting; `anew`: the rows so far do not count from now on."""
        first = self._last + 1 if anew else self._opening.first if self._opening else 1
        with self._writing() as connection:
            self._begun = _add_sitting(connection, _opening_body(identity, first))
        self._opening = _Opening(dict(identity), first)

    def known(self, *, failures: bool, stop: Callable[[], bool]) -> dict[bytes, int]:
        """The last row of each key that needs no run: key, or key and occurrence in 4 bytes where that is not 0.

        failures: whether a failure counts. stop: asked now and then; once it is true, what is there is returned.
        """
        known: dict[bytes, int] = {}
        first = self._opening.first if self._opening else 1
        with _own_errors(self._path):
            for low in range(first, self._last + 1, _KEYS):
                if stop():
                    break
                self._load(known, range(low, min(low + _KEYS, self._last + 1)), failures=failures)
        return known

    def append(self, rows: Sequence[Row]) -> int:
        """Commits the rows, all or none, and syncs them; returns the id of the last."""
        with self._writing() as connection:
            try:
                _insert(connection, rows, self._last + 1)
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
        with _own_errors(self._path):
            for part in _cut(ids, _taken(connection, _IDS)):
                _recall(connection, part, rows)
        for number in ids:
            if number not in rows:
                raise _damaged(self._path, f"row {number} is not as it was written")
        return [rows[number] for number in ids]

    def close(self, counts: Mapping[str, Any] | None) -> None:
        """Ends the sitting with these counts, if given, and lets go of the file; a second time it does nothing."""
        connection = self._connection
        try:
            if counts is not None and self._begun and connection is not None and not self._broken and self._lock.held:
                body = {"closes": self._begun, "at": time.time(), "counts": dict(counts)}
                with self._writing():
                    _add_sitting(connection, body)
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
        unclean = _size(self._path + "-wal") > 0
        self._connection = connection = _connected(self._path, "mode=rw")
        if _is_empty(connection):
            _lay_out(connection, self._path)
            _sync_folder(self._path)
            self._compare_mark()
            return
        _check_kind(connection, self._path)
        if _schema(connection) != _SCHEMA:
            raise _damaged(self._path, "its tables are not those of a journal")
        _set_wal(connection, self._path)
        if unclean and (found := _quick_check(connection, 1)):
            raise _damaged(self._path, f"the database is damaged ({found[0]})")
        self._last = _last_row(connection, self._path)
        self._opening = _last_opening(connection, self._path)
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
            raise _damaged(self._path, f"not all rows from {ids[0]} to {ids[-1]} are there, once, and with their keys")
        joined = unhexlify(hexed)
        keys = [joined[start : start + _KEY] for start in range(0, len(joined), _KEY)]
        if not occurrences.strip(b"0,") and not states.strip(b"12" + b"3" * failures):
            known.update(zip(keys, ids, strict=True))
            return
        if len(states) != len(ids) or states.strip(b"123"):
            raise _damaged(self._path, f"a row from {ids[0]} to {ids[-1]} has no state that is one")
        try:
            for key, number, state, occurrence in zip(keys, ids, states, occurrences.split(b","), strict=True):
                _note(known, _name(key, int(occurrence)), number, counts=failures or state != _FAILED)
        except (ValueError, OverflowError) as error:
            raise _damaged(self._path, f"a row from {ids[0]} to {ids[-1]} has no occurrence that is one") from error

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
        with _own_errors(self._path), _transaction(connection):
            yield connection
        self._broken = False


def read_rows(path: str) -> Iterator[tuple[int, Row]]:
    """The last row that counts of each key and occurrence, with its id and by it, as of now: a run may be on.

    JournalDamaged at a row that is not as it was written.
    """
    with _reading(path) as connection:
        opening = None if _is_empty(connection) else _last_opening(connection, path)
        if opening is None:
            return
        for number, *values in connection.execute(_LAST_OF_EACH, (opening.first,)):
            row = _checked(number, values)
            if row is None:
                raise _damaged(path, f"row {number} is not as it was written")
            yield number, row


def identity_of(path: str) -> dict[str, Any]:
    """What the last sitting was opened for. JournalError if there was none."""
    with _reading(path) as connection:
        opening = None if _is_empty(connection) else _last_opening(connection, path)
    if opening is None:
        raise JournalError(path, "no run has begun in it")
    return opening.identity


def check(path: str) -> Report:
    """Reads everything and says what is wrong. JournalError only for what is no journal or cannot be read at all."""
    marked = FileLock(_own_name(path)).marked()  # before the rest is looked at: a run may be on
    with _reading(path, _TOLERANT) as connection:
        losses = _Losses()
        if _is_empty(connection):
            for number in range(1, marked + 1):
                losses.add_row("row", number, "missing")
            return Report(0, losses.sentences())
        with losses.noted("the tables"):
            if _schema(connection) != _SCHEMA:
                losses.add("the tables are not those of a journal")
        with losses.noted("the database"):
            losses.add(*_quick_check(connection, _SHOWN))
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
    path, into = _own_name(path), _own_name(into)
    locks = FileLock(path), FileLock(into)
    try:
        _check_place(path)
        _check_free(into)
        for lock in locks:
            lock.acquire()
        with _reading(path, _TOLERANT) as source:
            report = _saved(source, path, into, locks[0].marked())
        locks[1].mark(report.rows)
        return report
    finally:
        for lock in locks:
            lock.release()


def _saved(source: sqlite3.Connection, path: str, into: str, marked: int) -> Report:
    losses = _Losses()
    opening: _Opening | None = None
    with losses.noted("the sittings"):
        for body in _whole_sittings(source, losses):
            opening = _as_opening(body) or opening
    if opening is None:
        raise JournalDamaged(path, "no row that says whose results these are can be read, so nothing can be saved")
    draft = f"{into}.draft-{os.getpid()}"
    try:
        with _own_errors(into):
            os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            rows = _copy(source, draft, opening, marked, losses)
            _place(draft, into)
    finally:
        for name in (draft, draft + "-wal", draft + "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108  (paths are text here)
    return Report(rows, losses.sentences())


def _copy(source: sqlite3.Connection, draft: str, opening: _Opening, marked: int, losses: _Losses) -> int:
    rows = 0
    target = _connected(draft, "mode=rw")
    try:
        _lay_out(target, draft)
        with _transaction(target):
            _add_sitting(target, _opening_body(opening.identity, 1))
        whole = _whole_rows(source, opening.first, marked, losses)
        while batch := list(islice(whole, _ROWS[1])):
            with _transaction(target):
                _insert(target, batch, rows + 1)
            rows += len(batch)
        target.execute(
            "PRAGMA wal_checkpoint(TRUNCATE)"
        ).fetchall()  # here, and not by `close`, which would hide errors
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
        _check_free(into)
        os.rename(draft, into)  # noqa: PTH104  (paths are text here)
    _sync_folder(into)


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
            if not _is_loss(error):
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
    yield from _whole(connection, "outcome", _checked, range(low, high + 1), losses)
    with losses.noted("the last rows"):
        strange = "SELECT count(*) FROM outcome WHERE id < 1 OR id > ?"
        if connection.execute(strange, (high,)).fetchall() != [(0,)]:
            losses.add("there are rows with numbers that no row was given")


def _whole_sittings(connection: sqlite3.Connection, losses: _Losses) -> Iterator[dict[str, Any]]:
    last = _highest(connection, "sitting", _page_bytes(connection) // _SMALLEST)
    yield from _whole(connection, "sitting", _sitting, range(1, 1 + (_FEW if last is None else last)), losses)


def _whole(
    connection: sqlite3.Connection,
    table: str,
    as_written: Callable[[int, _Values], T | None],
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
    connection: sqlite3.Connection, table: str, as_written: Callable[[int, _Values], T | None], ids: range
) -> Iterator[T]:
    query = f"SELECT * FROM {table} WHERE id BETWEEN ? AND ? ORDER BY id"  # noqa: S608  (a name of ours)
    try:
        for expected, (number, *values) in zip(ids, connection.execute(query, (ids[0], ids[-1])), strict=False):
            found = as_written(number, values) if number == expected else None
            if found is None:
                return
            yield found
    except sqlite3.DatabaseError as error:
        if not _is_loss(error):
            raise


def _single(
    connection: sqlite3.Connection, table: str, as_written: Callable[[int, _Values], T | None], number: int
) -> tuple[T | None, str]:
    """The row, or why there is none. No more than it is read: its page may be the last that can be."""
    try:
        rows = connection.execute(f"SELECT * FROM {table} WHERE id = ?", (number,)).fetchall()  # noqa: S608
    except sqlite3.DatabaseError as error:
        if not _is_loss(error):
            raise
        return None, "cannot be read"
    if not rows:
        return None, "missing"
    return as_written(number, rows[0][1:]), "not as written"


@contextmanager
def _reading(path: str, settings: Sequence[str] = _STRICT) -> Generator[sqlite3.Connection]:
    """One state of the file, for reading alone; what goes wrong in here is a JournalError."""
    path = _own_name(path)
    _check_place(path, write=False)
    if not os.path.lexists(path):
        raise JournalError(path, "there is no such file")
    # Without a log nobody has it open, and a reader that says so need not write beside it: the folder may be read-only.
    still = not os.path.exists(path + "-wal")  # noqa: PTH110  (paths are text here)
    try:
        with _own_errors(path):
            connection = _connected(path, "mode=ro&immutable=1" if still else "mode=ro", settings)
            try:
                connection.execute("PRAGMA query_only=ON")
                connection.execute("BEGIN")
                if not _is_empty(connection):
                    _check_kind(connection, path)
                yield connection
            finally:
                connection.close()
    except JournalError as error:
        if still and os.path.exists(path + "-wal"):  # noqa: PTH110  (the same)
            raise JournalError(path, "a run began while it was read: read it again") from error
        raise


def _connected(path: str, how: str, settings: Sequence[str] = _STRICT) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(os.path.abspath(path)))}?{how}",  # noqa: PTH100  (the same)
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.text_factory = bytes  # damaged text is for the checksum to find, not for the decoder
        for setting in settings:
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    number: int = connection.execute(f"PRAGMA {pragma}").fetchall()[0][0]
    return number


def _schema(connection: sqlite3.Connection) -> list[Any]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether it is a file that somebody was killed over before it became a journal."""
    marked = _number(connection, "application_id") or _number(connection, "user_version")
    return not marked and not _schema(connection)


def _lay_out(connection: sqlite3.Connection, path: str) -> None:
    _set_wal(connection, path)
    with _transaction(connection):
        for sql in _TABLES.values():
            connection.execute(sql)
        connection.execute(f"PRAGMA application_id={_APPLICATION}")
        connection.execute(f"PRAGMA user_version={_VERSION}")


def _set_wal(connection: sqlite3.Connection, path: str) -> None:
    if connection.execute("PRAGMA journal_mode=WAL").fetchall() != [(b"wal",)]:
        raise JournalError(
            path, "SQLite keeps no write-ahead log there, as on a network file system: use a path on a local disk"
        )


def _check_kind(connection: sqlite3.Connection, path: str) -> None:
    if _number(connection, "application_id") != _APPLICATION:
        raise JournalError(path, "it is another application's database, and is left as it is: use another path")
    version = _number(connection, "user_version")
    if version > _VERSION:
        raise JournalError(
            path, f"it was made by a newer aiomap (format {version}): upgrade aiomap, or use another path"
        )
    if version != _VERSION:
        raise _damaged(path, f"its format is {version}, which no aiomap has made")


def _quick_check(connection: sqlite3.Connection, most: int) -> list[str]:
    """What SQLite finds, up to `most` sentences of it."""
    lines = connection.execute(f"PRAGMA quick_check({most})").fetchall()
    found = [" ".join(line.decode(errors="replace").split()) for (line,) in lines]
    return [] if found == ["ok"] else found


def _last_row(connection: sqlite3.Connection, path: str) -> int:
    count, first, last = connection.execute("SELECT count(*), min(id), max(id) FROM outcome").fetchall()[0]
    if count and (first, last) != (1, count):
        raise _damaged(path, f"it has {count} rows, and they are numbered from {first} to {last}")
    return int(count)


def _highest(connection: sqlite3.Connection, table: str, bound: int) -> int | None:
    """The highest id, 0 if there is none, `None` if that cannot be read."""
    try:
        query = f"SELECT max(id) FROM {table} WHERE id BETWEEN 1 AND ?"  # noqa: S608  (a name of ours)
        return connection.execute(query, (bound,)).fetchall()[0][0] or 0
    except sqlite3.DatabaseError:
        return None


def _page_bytes(connection: sqlite3.Connection) -> int:
    return _number(connection, "page_count") * _number(connection, "page_size")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _opening_body(identity: Mapping[str, Any], first: int) -> dict[str, Any]:
    import platform
    from importlib.metadata import version

    return {
        "opens": dict(identity),
        "first": first,
        "at": time.time(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "aiomap": version("aiomap"),
    }


def _add_sitting(connection: sqlite3.Connection, body: Mapping[str, Any]) -> int:
    number: int = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM sitting").fetchall()[0][0]
    text = json.dumps(body, allow_nan=False)
    values = number, text, _sitting_crc(number, text.encode())
    connection.execute("INSERT INTO sitting(id, body, crc) VALUES (?, ?, ?)", values)
    return number


def _sitting_crc(number: int, body: bytes) -> int:
    return crc32(b"%d:%b" % (number, body))


def _sitting(number: int, values: _Values) -> dict[str, Any] | None:
    """The body of that row if it is as it was written."""
    body, crc = values
    if not isinstance(body, bytes) or crc != _sitting_crc(number, body):
        return None
    content: dict[str, Any] | list[Any] | str | float | None = json.loads(body)
    return content if isinstance(content, dict) else None


def _as_opening(body: Mapping[str, Any]) -> _Opening | None:
    return _Opening(body["opens"], body["first"]) if "opens" in body else None


def _last_opening(connection: sqlite3.Connection, path: str) -> _Opening | None:
    aggregated = "SELECT group_concat(id), group_concat(hex(body)), group_concat(crc) FROM sitting"
    ids, bodies, crcs = ((column or b"").split(b",") for column in connection.execute(aggregated).fetchall()[0])
    opening: _Opening | None = None
    if ids == [b""]:
        return None
    try:
        for expected, number, body, crc in zip(range(1, len(ids) + 1), ids, bodies, crcs, strict=True):
            content = _sitting(expected, (unhexlify(body), int(crc))) if int(number) == expected else None
            if content is None:
                raise _damaged(path, f"sitting {expected} is not as it was written")
            opening = _as_opening(content) or opening
    except ValueError as error:
        raise _damaged(path, "the sittings are not as they were written") from error
    return opening


# id, occurrence, state, position, attempts, started, elapsed, and how long key and label are: so that no two rows
# are one text.
_HEAD: Final = struct.Struct(">qqqqqddqq").pack


def _crc(number: int, row: Row) -> int:
    key, occurrence, state, position, attempts, started, elapsed, label, body = row
    # SQLite knows no negative zero.
    times = started + 0.0, elapsed + 0.0
    if label is None:
        return crc32(body, crc32(_HEAD(number, occurrence, state, position, attempts, *times, len(key), -1) + key))
    text = label.encode()
    head = _HEAD(number, occurrence, state, position, attempts, *times, len(key), len(text))
    return crc32(body, crc32(head + key + text))


def _checked(number: int, values: _Values) -> Row | None:
    """The row if it is as it was written."""
    key, occurrence, state, position, attempts, started, elapsed, label, body, crc = values
    try:
        text = None if label is None else label.decode()
        row: Row = key, occurrence, state, position, attempts, started, elapsed, text, body
        return row if crc == _crc(number, row) else None
    except (struct.error, ArithmeticError, AttributeError, TypeError, ValueError):  # other types than were written
        return None


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


def _insert(connection: sqlite3.Connection, rows: Sequence[Row], first: int) -> None:
    place = f"({', '.join('?' * _WIDTH)})"
    for part in _cut(rows, _taken(connection, _ROWS, _WIDTH)):
        values: list[Any] = []
        for number, row in enumerate(part, first):
            values += (number, *row, _crc(number, row))
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
    *(int, unhexlify, int, int, int, int, float, float),
    lambda label: None if label == b"-" else unhexlify(label),
    *(unhexlify, int),
)


def _add_aggregated(columns: Sequence[bytes | None], rows: dict[int, Row]) -> None:
    split = (map(convert, (column or b"").split(b",")) for convert, column in zip(_CONVERTED, columns, strict=True))
    for number, *values in zip(*split, strict=True):
        row = _checked(number, values)
        if row is not None:
            rows[number] = row


def _add_single(connection: sqlite3.Connection, number: int, rows: dict[int, Row]) -> None:
    for _, *values in connection.execute("SELECT * FROM outcome WHERE id = ?", (number,)).fetchall():
        row = _checked(number, values)
        if row is not None:
            rows[number] = row


def _name(key: bytes, occurrence: int) -> bytes:
    return key + occurrence.to_bytes(4, "big") if occurrence else key


def _note(known: dict[bytes, int], name: bytes, number: int, *, counts: bool) -> None:
    if counts:
        known[name] = number
    else:
        known.pop(name, None)


@contextmanager
def _own_errors(path: str) -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        reason = _environment(error)
        if reason == _IO and _is_full(path):  # it grows a file beside the database by mapping it
            reason = _FULL
        raise _damaged(path, str(error)) if reason is None else JournalError(path, reason) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise JournalError(path, _FULL) from error
        raise JournalError(path, f"{error.strerror or error}") from error


_FULL: Final = "the disk is full: free some space and run again; what was recorded is safe"
_IO: Final = "the disk failed, so what it holds is in doubt: see the system's log, then run again"
_REASONS: Final = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: "it cannot be written: give this user write permission for it and its folder",
    sqlite3.SQLITE_PERM: "this user has no permission for it",
    sqlite3.SQLITE_AUTH: "this user has no permission for it",
    sqlite3.SQLITE_CANTOPEN: "it or a file beside it cannot be opened: this user needs permission for the folder too",
    sqlite3.SQLITE_IOERR: _IO,
    sqlite3.SQLITE_PROTOCOL: "its file system does not lock as SQLite needs it: use a path on a local disk",
    sqlite3.SQLITE_BUSY: "another program has it locked: end that one, and run again",
    sqlite3.SQLITE_LOCKED: "another program has it locked: end that one, and run again",
    sqlite3.SQLITE_INTERRUPT: "it was interrupted",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
}


def _environment(error: sqlite3.Error) -> str | None:
    """What is wrong and what to do if it is not the file's content; `None` if it is."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:  # of the module, not of SQLite
        return str(error)
    return _REASONS.get(code & 0xFF)


def _is_full(path: str) -> bool:
    disk = os.statvfs(os.path.dirname(path) or ".")  # noqa: PTH120  (paths are text here)
    return disk.f_bavail * disk.f_frsize < _SPARE


def _is_loss(error: sqlite3.Error) -> bool:
    """Whether it is for what stands there, or for a disk that does not give it back, and not for all of the file."""
    return _environment(error) in {None, _IO}


def _damaged(path: str, what: str) -> JournalDamaged:
    return JournalDamaged(
        path,
        f"{what}: `Journal(path).check()` says what is wrong, `Journal(path).repair(into=...)` saves what is whole, "
        "or use another path",
    )


def _own_name(path: str) -> str:
    """The name that a link stands for: two names of one file would have two locks."""
    return os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114  (paths are text here)


def _check_place(path: str, *, write: bool = True) -> None:
    folder = os.path.dirname(path) or "."  # noqa: PTH120  (the same)
    if not os.path.isdir(folder):  # noqa: PTH112  (the same)
        raise JournalError(path, f"the folder {folder} does not exist: create it, or use another path")
    with _own_errors(path):
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116  (the same)
        except FileNotFoundError:
            return
    if stat.S_ISDIR(mode):
        raise JournalError(path, "it is a folder: give the name of a file in it")
    if not stat.S_ISREG(mode):
        raise JournalError(path, "it is no regular file: use another path")
    if not os.access(path, os.R_OK | os.W_OK if write else os.R_OK):
        verb = "written" if write else "read"
        raise JournalError(path, f"it cannot be {verb}: give this user permission, or use another path")


def _check_free(path: str) -> None:
    for name in (path, path + "-wal", path + "-shm"):
        if os.path.lexists(name):
            raise JournalError(path, f"{name} exists already, and nothing is overwritten: use another path")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  (the same)
    except FileNotFoundError:
        return 0


def _sync_folder(path: str) -> None:
    """So that the file's name is as durable as what is in it."""
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
