"""What the journal keeps of an item that has ended: one row.

Invariant: a row is a plain tuple, since one is made for every item; it is never changed after it was made.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, TypeAlias
from zlib import crc32

__all__ = ["DONE", "FAILED", "SKIPPED", "Row", "Values", "checked", "crc_of"]

DONE: Final = 1
SKIPPED: Final = 2
FAILED: Final = 3

Row: TypeAlias = tuple[bytes, int, int, int, int, int, int, str | None, bytes]
"""(key, occurrence, state, position, attempts, started, elapsed, label, body).

key: 16 bytes; what the item is known by.
occurrence: which of the items with this key in the input, from 0.
state: DONE, SKIPPED or FAILED.
position: where it stood in the input, from 0.
attempts: how often the function was called.
started, elapsed: the last attempt's start in microseconds since 1970, and how many microseconds it took.
label: the user's own key as JSON text; `None` if the item itself is the key.
body: the encoded result; a failure's class, type and message as a JSON object; empty if the function returned SKIP.
"""

Values: TypeAlias = Sequence[Any]
"""What stands in a row of the database after its id; the last value is the checksum."""

# id, occurrence, state, position, attempts, started, elapsed, and how long key and label are: so that no two rows
# are one text.
_HEAD: Final = struct.Struct(">9q").pack


def crc_of(number: int, row: Row) -> int:
    """The checksum of the row with that id."""
    key, occurrence, state, position, attempts, started, elapsed, label, body = row
    text = b"" if label is None else label.encode()
    length = -1 if label is None else len(text)
    head = _HEAD(number, occurrence, state, position, attempts, started, elapsed, len(key), length)
    return crc32(body, crc32(head + key + text))


def checked(number: int, values: Values) -> Row | None:
    """The row if it is as it was written."""
    key, occurrence, state, position, attempts, started, elapsed, label, body, crc = values
    try:
        text = None if label is None else label.decode()
        row: Row = key, occurrence, state, position, attempts, started, elapsed, text, body
        return row if crc == crc_of(number, row) else None
    except (struct.error, AttributeError, TypeError, ValueError):  # other types than were written
        return None
