"""CSV: the first row names the columns, each row is a dict.

Invariant: a quote that nobody closed costs the lines up to where it opened, and no others. Every line belongs to one
row.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, final

from aiomap.inputs.record import BadInput, Fault, Record, check_columns, decoded, faulty, key_for, too_long
from aiomap.lines import MOST_BYTES, Line

__all__ = ["csv_records"]

_MOST_LINES: Final = 1000  # of a row


def csv_records(lines: Iterable[Line], name: str, id_column: str | None) -> Iterator[Record]:
    """The rows after the first as records, each by its first line; lines: blank ones too; name: of the file.

    Comma and double quote, as in RFC 4180. Within quotes a line ends in a line feed; elsewhere a blank one is nothing.

    Raises `BadInput` if the first row cannot name the columns.

    >>> [record] = csv_records([Line(1, b"id,name"), Line(2, b"7,Ada")], "in.csv", "id")
    >>> record.item, record.key
    ({'id': '7', 'name': 'Ada'}, '7')
    """
    rows = _Rows(lines)
    columns = _columns(rows, name, id_column)
    for row in rows:
        number = row.lines[0].number
        try:
            item = dict(zip(columns, _checked_fields(row, len(columns)), strict=True))
            record = Record(number, item, key_for(item, id_column))
        except Fault as fault:
            raw = b"\n".join([line.content for line in row.lines])
            record = faulty(number, raw, f"{row.place} of {name}", fault)
        yield record


def _columns(rows: Iterator[_Row], name: str, id_column: str | None) -> list[str]:
    first = next(rows, None)
    if first is None:
        return []
    try:
        columns = _fields(first)
    except Fault as fault:
        raise BadInput(f"{name} does not begin with the names of its columns: {first.place}: {fault}") from None
    check_columns(columns, name, id_column)
    return columns


@final
@dataclass(frozen=True, slots=True)
class _Row:
    """What the lines of a row are; closed: whether its last quote is."""

    lines: list[Line]
    closed: bool

    @property
    def place(self) -> str:
        first, last = self.lines[0].number, self.lines[-1].number
        return f"line {first}" if first == last else f"lines {first} to {last}"


@final
class _Rows(Iterator[_Row]):
    """Puts lines together as their quotes have it."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = iter(lines)
        self._again: deque[Line] = deque()

    def __next__(self) -> _Row:
        first = self._next_line()
        while first is not None and not (first.content.strip() or first.too_long):
            first = self._next_line()
        if first is None:
            raise StopIteration
        lines = [first]
        if first.too_long:
            return _Row(lines, closed=True)
        quote = _Quote()
        quote.read(first.content)
        opened = size = 0  # opened: the line in which the quote opened that is open
        while quote.is_open:
            size += len(lines[-1].content) + 1
            following = self._next_line()
            if following is None or not _may_follow(following, first, size):
                return self._without_end(lines, opened, following)
            if quote.read(following.content):
                opened = len(lines)
            lines.append(following)
        return _Row(lines, closed=True)

    def _next_line(self) -> Line | None:
        return self._again.popleft() if self._again else next(self._lines, None)

    def _without_end(self, lines: list[Line], opened: int, following: Line | None) -> _Row:
        """The row up to the quote. What was read beyond it is read again.

        Once more and never again: a line that left this quote open has its own quotes in pairs, so it opens none.
        """
        if following is not None:
            self._again.appendleft(following)
        self._again.extendleft(reversed(lines[opened + 1 :]))
        return _Row(lines[: opened + 1], closed=False)


def _may_follow(line: Line, first: Line, size: int) -> bool:
    return not line.too_long and line.number - first.number < _MOST_LINES and size + len(line.content) <= MOST_BYTES


@final
class _Quote:
    """Whether a quote is open at the end of a line, by the rules of the `csv` module.

    A quote opens at the start of a field alone, and what follows the one that closes it is taken as it is, up to the
    next comma.
    """

    def __init__(self) -> None:
        self.is_open = False

    def read(self, line: bytes) -> bool:
        """Goes on to the end of the next line; whether a quote opened in it and is still open."""
        position = 0
        opens = False
        while True:
            if not self.is_open:
                if not line.startswith(b'"', position):
                    position = _next_field(line, position)
                    if not position:
                        return False
                    continue
                self.is_open = opens = True
                position += 1
            position = _after_quote(line, position)
            if not position:
                return opens
            self.is_open = False
            position = _next_field(line, position)
            if not position:
                return False


def _next_field(line: bytes, position: int) -> int:
    """Where the next field begins; 0 if there is none."""
    comma = line.find(b",", position)
    # A carriage return ends the row for the csv module, which refuses what follows it.
    return 0 if line.find(b"\r", position, comma) >= 0 else comma + 1


def _after_quote(line: bytes, position: int) -> int:
    """Where what is quoted has ended, two quotes being one that is meant; 0 if it has not."""
    while position := line.find(b'"', position) + 1:
        if not line.startswith(b'"', position):
            return position
        position += 1
    return 0


def _checked_fields(row: _Row, expected: int) -> list[str]:
    fields = _fields(row)
    if len(fields) != expected:
        reason = f"expected {expected} fields, found {len(fields)}"
        raise Fault(reason if len(row.lines) == 1 else f"{reason}; the quotes in it make these lines one record")
    return fields


def _fields(row: _Row) -> list[str]:
    if row.lines[0].too_long:
        raise too_long()
    texts = [decoded(line) for line in row.lines]
    if not row.closed:
        raise Fault(
            f"a quote opens in line {row.lines[-1].number} and is not closed within {_MOST_LINES:,} lines, "
            f"{MOST_BYTES >> 20} MiB or what is left of the file"
        )
    text = "\n".join(texts)
    try:
        with _fields_of_any_length(len(text)):
            return next(csv.reader([text]))
    except csv.Error:
        raise Fault("a carriage return outside of quotes; end lines with a line feed") from None


@contextmanager
def _fields_of_any_length(most: int) -> Generator[None]:
    """The limit belongs to the whole process, so it is raised only for as long as it stands in the way."""
    limit = csv.field_size_limit()
    if most < limit:
        yield
        return
    csv.field_size_limit(most + 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
