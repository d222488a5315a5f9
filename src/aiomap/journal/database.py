"""The SQLite database that a journal is: how it is laid out, opened and told from others.

Invariant: what is not exactly a journal is refused, and left as it is. No error of SQLite gets past `own_errors` as
itself, and each that does get through says what to do.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import quote

from aiomap.errors import JournalDamaged, JournalError

__all__ = [
    "SCHEMA",
    "TOLERANT",
    "check_free",
    "check_kind",
    "check_place",
    "connected",
    "damaged",
    "is_empty",
    "is_loss",
    "lay_out",
    "number_of",
    "own_errors",
    "own_name",
    "quick_check",
    "schema_of",
    "set_wal",
    "size_of",
    "sync_folder",
    "transaction",
]

_APPLICATION: Final = 0x61696F6D  # "aiom"

_VERSION: Final = 1

_TABLES: Final = {
    "outcome": "CREATE TABLE outcome(id INTEGER PRIMARY KEY, key BLOB NOT NULL, occurrence INTEGER NOT NULL, "
    "state INTEGER NOT NULL, position INTEGER NOT NULL, attempts INTEGER NOT NULL, started INTEGER NOT NULL, "
    "elapsed INTEGER NOT NULL, label TEXT, body BLOB NOT NULL, crc INTEGER NOT NULL)",
    "sitting": "CREATE TABLE sitting(id INTEGER PRIMARY KEY, body TEXT NOT NULL, crc INTEGER NOT NULL)",
}

SCHEMA: Final = [(b"table", name.encode(), name.encode(), sql.encode()) for name, sql in _TABLES.items()]

STRICT: Final = ("trusted_schema=OFF", "cell_size_check=ON", "synchronous=FULL", "fullfsync=ON")

# For reading what is left: without the first, SQLite reads no file that has lost its end, and with the last, no page
# with one bad row in it. Nothing is written over such a connection, and the checksums tell right from wrong.
TOLERANT: Final = ("writable_schema=ON", "trusted_schema=OFF", "cell_size_check=OFF")

_SPARE: Final = 64 << 10  # bytes: with less, an error of the disk is that it is full


def connected(path: str, how: str, settings: Sequence[str] = STRICT) -> sqlite3.Connection:
    """An open connection, with settings for a file that somebody else may have written."""
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


def number_of(connection: sqlite3.Connection, pragma: str) -> int:
    """What a pragma says."""
    number: int = connection.execute(f"PRAGMA {pragma}").fetchall()[0][0]
    return number


def schema_of(connection: sqlite3.Connection) -> list[Any]:
    """Everything that is in the database, as SQLite keeps it."""
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether it is a file that somebody was killed over before it became a journal."""
    marked = number_of(connection, "application_id") or number_of(connection, "user_version")
    return not marked and not schema_of(connection)


def lay_out(connection: sqlite3.Connection, path: str) -> None:
    """Makes a journal of an empty database, in one transaction."""
    set_wal(connection, path)
    with transaction(connection):
        for sql in _TABLES.values():
            connection.execute(sql)
        connection.execute(f"PRAGMA application_id={_APPLICATION}")
        connection.execute(f"PRAGMA user_version={_VERSION}")


def set_wal(connection: sqlite3.Connection, path: str) -> None:
    """Has it keep a write-ahead log: readers and the writer are not in each other's way."""
    if connection.execute("PRAGMA journal_mode=WAL").fetchall() != [(b"wal",)]:
        raise JournalError(
            path, "SQLite keeps no write-ahead log there, as on a network file system: use a path on a local disk"
        )


def check_kind(connection: sqlite3.Connection, path: str) -> None:
    """Whether it is a journal of ours, of a format that we know."""
    if number_of(connection, "application_id") != _APPLICATION:
        raise JournalError(path, "it is another application's database, and is left as it is: use another path")
    version = number_of(connection, "user_version")
    if version > _VERSION:
        raise JournalError(
            path, f"it was made by a newer aiomap (format {version}): upgrade aiomap, or use another path"
        )
    if version != _VERSION:
        raise damaged(path, f"its format is {version}, which no aiomap has made")


def quick_check(connection: sqlite3.Connection, most: int) -> list[str]:
    """What SQLite finds, up to `most` sentences of it."""
    lines = connection.execute(f"PRAGMA quick_check({most})").fetchall()
    found = [" ".join(line.decode(errors="replace").split()) for (line,) in lines]
    return [] if found == ["ok"] else found


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """All or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


@contextmanager
def own_errors(path: str) -> Generator[None]:
    """What SQLite or the system raises becomes a JournalError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        reason = _environment(error)
        if reason == _IO and _is_full(path):  # it grows a file beside the database by mapping it
            reason = _FULL
        raise damaged(path, str(error)) if reason is None else JournalError(path, reason) from error
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


def is_loss(error: sqlite3.Error) -> bool:
    """Whether it is for what stands there, or for a disk that does not give it back, and not for all of the file."""
    return _environment(error) in {None, _IO}


def damaged(path: str, what: str) -> JournalDamaged:
    """The error for what is not as it was written, with the ways out."""
    return JournalDamaged(
        path,
        f"{what}: `Journal(path).check()` says what is wrong, `Journal(path).repair(into=...)` saves what is whole, "
        "or use another path",
    )


def own_name(path: str) -> str:
    """The name that a link stands for: two names of one file would have two locks."""
    return os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114  (paths are text here)


def check_place(path: str, *, write: bool = True) -> None:
    """Whether a journal can be there."""
    folder = os.path.dirname(path) or "."  # noqa: PTH120  (the same)
    if not os.path.isdir(folder):  # noqa: PTH112  (the same)
        raise JournalError(path, f"the folder {folder} does not exist: create it, or use another path")
    with own_errors(path):
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


def check_free(path: str) -> None:
    """Whether nothing has that name yet."""
    for name in (path, path + "-wal", path + "-shm"):
        if os.path.lexists(name):
            raise JournalError(path, f"{name} exists already, and nothing is overwritten: use another path")


def size_of(path: str) -> int:
    """Bytes; 0 if there is no such file."""
    try:
        return os.stat(path).st_size  # noqa: PTH116  (the same)
    except FileNotFoundError:
        return 0


def sync_folder(path: str) -> None:
    """So that the file's name is as durable as what is in it."""
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
