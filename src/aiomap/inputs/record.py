"""One record of an input: the item it stands for and the key it is known by, or why it is no item.

Invariant: whatever stands in a record, it becomes one: what is wrong with it is its fault, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Literal, TypeAlias, cast, final

from aiomap._foreign import printable
from aiomap.errors import AiomapError
from aiomap.journal.keys import key_of, label_of
from aiomap.journal.serializers import Unencodable
from aiomap.lines import MOST_BYTES, Line

__all__ = [
    "BadInput",
    "BadRecord",
    "Entry",
    "Fault",
    "Format",
    "Record",
    "Unit",
    "check_columns",
    "decoded",
    "faulty",
    "key_for",
    "short_key",
    "too_long",
]

Format: TypeAlias = Literal["jsonl", "csv", "text", "parquet"]
Unit: TypeAlias = Literal["line", "row"]

_SHOWN: Final = 200  # characters of a bad record that are kept
_LONGEST_KEY: Final = 900  # characters of JSON
_WIDEST: Final = 12  # characters of JSON that one character takes at most: two escapes
_KEY_BYTES: Final = 16
_MOST_COLUMNS: Final = 20  # that an error lists
_LONGEST_NAME: Final = 100  # characters of a name that somebody else chose


class BadInput(AiomapError):
    """An input cannot be read at all, or not as it was asked for; the message says what to write instead."""


class BadRecord(AiomapError):
    """What an entry with a fault fails with: it was no item, so nothing was called for it."""

    kind: Final = "bad_input"


class Fault(Exception):
    """Why a record is no item, to stand behind its place."""


@final
@dataclass(frozen=True, slots=True)
class Record:
    """A record of a file, before it is selected: what an `Entry` has, but for the index."""

    line: int
    item: Any
    key: Any
    fault: str | None = None
    unit: Unit = field(default="line", repr=False)


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """A record that was selected.

    index: its place among the records that were selected, from 0.
    line: in which line of its file it begins, from 1; of Parquet, which row it is.
    item: what the function is called with: a str (text), a JSON value (JSON Lines), a dict (CSV, Parquet).
    key: what it is known by: a str, an int, or another JSON value.
    fault: why it is no item, with its place in the file; `item` is then the raw text, cut to 200 characters.
    unit: what `line` counts.

    >>> Entry(0, 1200, "item", "key", None).place
    'line 1,200'
    """

    index: int
    line: int
    item: Any
    key: Any
    fault: str | None
    unit: Unit = field(default="line", repr=False)

    @property
    def place(self) -> str:
        """Where it stands in its file, for people."""
        return f"{self.unit} {self.line:,}"


def decoded(line: Line) -> str:
    """The line as text. Fault if it is none."""
    if line.too_long:
        raise too_long()
    try:
        text = line.content.decode()
    except UnicodeDecodeError as error:
        wrong = line.content[error.start]
        raise Fault(
            f"not UTF-8 (byte 0x{wrong:02x} at position {error.start + 1}): "
            "convert the file, for example with  iconv -f LATIN1 -t UTF-8"
        ) from None
    if "\0" in text:
        raise Fault("it holds a NUL byte, which no text does: is the file damaged, or in UTF-16?")
    return text


def too_long() -> Fault:
    """Of a record that is longer than any may be."""
    return Fault(f"longer than {MOST_BYTES >> 20} MiB")


def key_for(item: Any, id_column: str | None) -> Any:
    """What the item is known by. Fault if it is to be the value of a column, and there is none.

    >>> key_for({"id": 7}, "id")
    7
    """
    if id_column is None:
        return _digest(item)
    column = f"column {_named(id_column)} (--id)"
    if not isinstance(item, dict):
        raise Fault(f"a JSON {_kind(item)} has no {column}; write an object")
    key = cast("dict[str, Any]", item).get(id_column)
    if key is None or key == "":
        raise Fault(f"it has nothing in {column}")
    if type(key) not in {str, int}:
        raise Fault(f"a {_kind(key)} stands in {column}; write a string or an integer")
    return short_key(key)


def _digest(item: Any) -> str:
    try:
        return key_of(item).hex()
    except Unencodable:  # of all that can be wrong this alone is left
        raise Fault("nested too deep") from None


def short_key(key: Any) -> Any:
    """The key itself, or its digest if it is too long to stand in every line of the output."""
    if isinstance(key, str) and len(key) * _WIDEST < _LONGEST_KEY:
        return key
    return key if len(label_of(key)) <= _LONGEST_KEY else key_of(key).hex()


def faulty(line: int, raw: bytes, place: str, fault: object, unit: Unit = "line") -> Record:
    """A record that is no item; its key is a digest of what stands there."""
    text = raw[: 4 * _SHOWN].decode(errors="replace")[:_SHOWN]
    return Record(line, text, blake2b(raw, digest_size=_KEY_BYTES).hexdigest(), f"{place}: {fault}", unit)


def check_columns(columns: Sequence[str], name: str, id_column: str | None) -> None:
    """BadInput unless each column has a name of its own, and the one of `--id` is among them."""
    seen: set[str] = set()
    for number, column in enumerate(columns, 1):
        if not column:
            raise BadInput(f"column {number} of {name} has no name; give every column one in the first row")
        if column in seen:
            raise BadInput(f"two columns of {name} are named {_named(column)}; rename one of them")
        seen.add(column)
    if id_column is not None and id_column not in seen:
        there = ", ".join(map(_named, columns[:_MOST_COLUMNS]))
        more = ", ..." if len(columns) > _MOST_COLUMNS else ""
        raise BadInput(f"{name} has no column {_named(id_column)} (--id); its columns are {there}{more}")


def _named(column: str) -> str:
    return repr(printable(column[:_LONGEST_NAME]))


def _kind(value: object) -> str:
    kinds: dict[type, str] = {str: "string", bool: "bool", int: "integer", float: "float", list: "list", dict: "object"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)
