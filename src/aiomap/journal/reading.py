"""A journal as others read it, while a run may be on.

Invariant: read only, one consistent state, and no row that is not as it was written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from aiomap.errors import JournalError
from aiomap.journal.database import STRICT, check_kind, check_place, connected, damaged, is_empty, own_errors, own_name
from aiomap.journal.rows import Row, checked
from aiomap.journal.sittings import last_opening, sitting_of

__all__ = ["identity_of", "read_rows", "reading", "sittings_of"]

_LAST_OF_EACH: Final = (
    "SELECT * FROM outcome WHERE id IN (SELECT max(id) FROM outcome WHERE id >= ? GROUP BY key, occurrence) ORDER BY id"
)


def read_rows(path: str) -> Iterator[tuple[int, Row]]:
    """The last row that counts of each key and occurrence, with its id and by it, as of now: a run may be on.

    JournalDamaged at a row that is not as it was written.
    """
    with reading(path) as connection:
        opening = None if is_empty(connection) else last_opening(connection, path)
        if opening is None:
            return
        for number, *values in connection.execute(_LAST_OF_EACH, (opening.first,)):
            row = checked(number, values)
            if row is None:
                raise damaged(path, f"row {number} is not as it was written")
            yield number, row


def identity_of(path: str) -> dict[str, Any]:
    """What the last sitting was opened for. JournalError if there was none."""
    with reading(path) as connection:
        opening = None if is_empty(connection) else last_opening(connection, path)
    if opening is None:
        raise JournalError(path, "no run has begun in it")
    return opening.identity


def sittings_of(path: str) -> list[dict[str, Any]]:
    """What was written when a sitting began or ended, in that order; JournalDamaged if one is not as it was written."""
    with reading(path) as connection:
        if is_empty(connection):
            return []
        found = [
            sitting_of(number, values) for number, *values in connection.execute("SELECT * FROM sitting ORDER BY id")
        ]
    told = [body for body in found if body is not None]
    if len(told) < len(found):
        raise damaged(path, "a sitting is not as it was written")
    return told


@contextmanager
def reading(path: str, settings: Sequence[str] = STRICT) -> Generator[sqlite3.Connection]:
    """One state of the file, for reading alone; what goes wrong in here is a JournalError."""
    path = own_name(path)
    check_place(path, write=False)
    if not os.path.lexists(path):
        raise JournalError(path, "there is no such file")
    # Without a log nobody has it open, and a reader that says so need not write beside it: the folder may be read-only.
    still = not os.path.exists(path + "-wal")  # noqa: PTH110  (paths are text here)
    try:
        with own_errors(path):
            connection = connected(path, "mode=ro&immutable=1" if still else "mode=ro", settings)
            try:
                connection.execute("PRAGMA query_only=ON")
                connection.execute("BEGIN")
                if not is_empty(connection):
                    check_kind(connection, path)
                yield connection
            finally:
                connection.close()
    except JournalError as error:
        if still and os.path.exists(path + "-wal"):  # noqa: PTH110  (the same)
            raise JournalError(path, "a run began while it was read: read it again") from error
        raise
