"""The rows of a journal, read by others than the run that writes them.

Invariant: read only. A row whose checksum is wrong is never given out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiomap._foreign import redacted
from aiomap._outcome import SKIP
from aiomap.errors import JournalDamaged, JournalError, RecordedFailure
from aiomap.failures import failure_class
from aiomap.journal.reading import identity_of, read_rows
from aiomap.journal.rows import DONE, FAILED, SKIPPED, Row
from aiomap.journal.serializers import Serializer, serializer

__all__ = ["Record", "failure_body", "failure_of", "outcome_of", "read_records"]

_STATES: Final[dict[int, Literal["done", "skipped", "failed"]]] = {DONE: "done", SKIPPED: "skipped", FAILED: "failed"}


_MESSAGE: Final = 2000  # characters of a failure's message that are kept


@dataclass(frozen=True, slots=True)
class Record:
    """What a journal holds of one item.

    key: your own key, as JSON text cut to 1,000 characters; without one, the digest of the item, in hexadecimal.
    occurrence: which of the items with that key it was, from 0.
    index: where the item stood in the input of the run that recorded it, from 0.
    state: `"done"`, `"skipped"` (the function returned SKIP) or `"failed"`.
    value: what the function returned; `None` if it failed or was skipped.
    error: type and message of its exception; `None` unless it failed.
    attempts: how often the function was called for it in that run.
    started: when its last attempt started, in seconds since 1970, by the clock of that machine.
    elapsed: how many seconds that took.
    """

    key: str
    occurrence: int
    index: int
    state: Literal["done", "skipped", "failed"]
    value: Any
    error: RecordedFailure | None
    attempts: int
    started: float
    elapsed: float


def read_records(path: str, wanted: str) -> Iterator[Record]:
    """The latest record of each item, in the order in which they were recorded. `wanted` is the serializer's name."""
    kept = identity_of(path)["serializer"]
    if kept != wanted:
        raise JournalError(
            path, f"its results are kept as {kept}, not as {wanted}: write Journal.read(path, serializer={kept!r})"
        )
    values = serializer(wanted)
    return (_record(row, path, values) for _, row in read_rows(path))


def _record(row: Row, path: str, values: Serializer) -> Record:
    key, occurrence, state, position, attempts, started, elapsed, label, _ = row
    outcome = outcome_of(path, values, row)
    return Record(
        key.hex() if label is None else label,
        occurrence,
        position,
        _STATES[state],
        outcome if state == DONE else None,
        outcome if state == FAILED else None,
        attempts,
        started / 1e6,
        elapsed / 1e6,
    )


def outcome_of(path: str, values: Serializer, row: Row) -> Any:
    """What the item came to: its result, a RecordedFailure, or SKIP."""
    if row[2] == FAILED:
        return failure_of(path, row)
    try:
        return values.decode(row[-1]) if row[2] == DONE else SKIP
    except Exception as error:
        raise JournalDamaged(path, f"a recorded result cannot be read back ({error})") from error


def failure_of(path: str, row: Row) -> RecordedFailure:
    """The failure that the item came to."""
    try:
        told = json.loads(row[-1])
        return RecordedFailure(told["class"], told["type"], told["message"])
    except Exception as error:
        raise JournalDamaged(path, f"a recorded failure cannot be read back ({error})") from error


def failure_body(error: Exception) -> bytes:
    """A failure as a row's body: its class, its type, and its message, in which secrets are masked."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except Exception as broken:
        message = f"(its text cannot be had: {type(broken).__name__})"
    told = {"class": failure_class(error), "type": name, "message": redacted(message)[:_MESSAGE]}
    return json.dumps(told).encode()
