"""The rows of a journal that say when which function used it.

Invariant: they are only ever added, each with its checksum; the last one that opens a sitting is what counts.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from binascii import unhexlify
from collections.abc import Mapping
from typing import Any, NamedTuple
from zlib import crc32

from aiomap.journal.database import damaged
from aiomap.journal.rows import Values

__all__ = ["Opening", "add_sitting", "as_opening", "last_opening", "opening_body", "sitting_of"]


class Opening(NamedTuple):
    """The last row that opened a sitting."""

    identity: dict[str, Any]
    first: int  # the first row that counts


def opening_body(identity: Mapping[str, Any], first: int) -> dict[str, Any]:
    """What is written when a run begins. first: the first row of `outcome` that counts."""
    import platform

    return {
        "opens": dict(identity),
        "first": first,
        "at": time.time(),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "aiomap": _version(),
    }


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("aiomap")
    except PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"


def add_sitting(connection: sqlite3.Connection, body: Mapping[str, Any]) -> int:
    """Writes it as the next row, and returns that one's id."""
    number: int = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM sitting").fetchall()[0][0]
    text = json.dumps(body, allow_nan=False)
    values = number, text, _sitting_crc(number, text.encode())
    connection.execute("INSERT INTO sitting(id, body, crc) VALUES (?, ?, ?)", values)
    return number


def _sitting_crc(number: int, body: bytes) -> int:
    return crc32(b"%d:%b" % (number, body))


def sitting_of(number: int, values: Values) -> dict[str, Any] | None:
    """The body of that row if it is as it was written."""
    body, crc = values
    if not isinstance(body, bytes) or crc != _sitting_crc(number, body):
        return None
    content: dict[str, Any] | list[Any] | str | float | None = json.loads(body)
    return content if isinstance(content, dict) else None


def as_opening(body: Mapping[str, Any]) -> Opening | None:
    """The opening that it is; `None` if it is another row."""
    return Opening(body["opens"], body["first"]) if "opens" in body else None


def last_opening(connection: sqlite3.Connection, path: str) -> Opening | None:
    """The opening that counts; `None` in a new file. JournalDamaged if any of these rows is."""
    aggregated = "SELECT group_concat(id), group_concat(hex(body)), group_concat(crc) FROM sitting"
    ids, bodies, crcs = ((column or b"").split(b",") for column in connection.execute(aggregated).fetchall()[0])
    opening: Opening | None = None
    if ids == [b""]:
        return None
    try:
        for expected, number, body, crc in zip(range(1, len(ids) + 1), ids, bodies, crcs, strict=True):
            content = sitting_of(expected, (unhexlify(body), int(crc))) if int(number) == expected else None
            if content is None:
                raise damaged(path, f"sitting {expected} is not as it was written")
            opening = as_opening(content) or opening
    except ValueError as error:
        raise damaged(path, "the sittings are not as they were written") from error
    return opening
