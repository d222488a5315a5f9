"""A journal's results as a table: CSV, Parquet or JSON Lines, in the order of the input.

Invariant: the file is there whole or not at all, and no result is left out of it: the columns are found out before the
first row is written, by reading all of them. Nothing but the columns, and a batch, is held.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, BinaryIO, Final, Literal, TypeAlias, final

from aiomap._foreign import printable
from aiomap.cli.out_file import draft_of, key_text, line_of, rows_in_input_order, writing
from aiomap.errors import AiomapError, JournalDamaged, JournalError, MissingExtra
from aiomap.journal.reading import identity_of
from aiomap.journal.rows import Row
from aiomap.journal.serializers import serializer

__all__ = ["Format", "Untabular", "export"]

Format: TypeAlias = Literal["csv", "parquet", "jsonl"]

_OWN: Final = ("key", "index", "attempts", "started", "elapsed")
_STARTED: Final = _OWN.index("started")
_VALUE: Final = "value"
_MOST_FIELDS: Final = 1000
_MOST_SHOWN: Final = 80  # characters of a field's name in a message
_BATCH_ROWS: Final = 1 << 15
_BATCH_BYTES: Final = 16 << 20  # of results, as JSON
_LARGEST: Final = 1 << 63  # from here on an int is too large for a column of ints
_EXACT: Final = 1 << 53  # up to here an int is a float too

# What a reader of CSV could take for the end of a cell or of a row, or strip.
_SPECIAL: Final = re.compile(r'[",\r\n]|^\s|\s$')
# What a spreadsheet takes for the beginning of a formula, also behind blanks.
_FORMULA: Final = re.compile(r"\s*[=+\-@]|[\t\r]")

# To compare with: checkers would narrow Any to a dict of what they do not know.
_DICT: Final[Any] = dict

_to_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Untabular(AiomapError):
    """The results do not make a table; the message says why, and what to do."""


def export(journal: str, to: Format, output: str, *, excel_safe: bool = False) -> int:
    r"""Writes the successes that a journal holds to a file, by index; a run may be on meanwhile.

    journal: its path. output: the file, which is replaced if it is there; `-` is standard output.
    to: `"jsonl"`: the lines of OUT. `"csv"`, `"parquet"`: the columns key, index, attempts, started and elapsed, then
        one for each field that a result has, in the order in which they appear; a field that is named like another
        column is `value.NAME`. Results that are no dicts stand in the column `value`, as JSON.
    excel_safe: has a `'` before each text that a spreadsheet would take for a formula; the data is another then.

    CSV, as in RFC 4180 but with `\n`: text as it is, null as an empty cell, an empty text as `""`, everything else as
    JSON; started in seconds since 1970. Parquet: bool, int64, double and string by what the column holds, JSON text if
    that is lists, dicts or of several kinds; started is a timestamp in UTC.

    Returns how many rows it wrote. WriteFailed if the system does not take it, MissingExtra without pyarrow,
    Untabular if there are more than 1,000 different fields, JournalError as for reading a journal.
    """
    kept = identity_of(journal)["serializer"]
    if kept != "json":
        raise JournalError(journal, f"its results are kept as {kept}, and only those kept as json can be exported")
    if output != "-" and os.path.exists(output) and os.path.samefile(output, journal):  # noqa: PTH110, PTH121
        raise JournalError(journal, "the export would take its place: write it to another file")
    with _sink(output) as file:
        if to == "jsonl":
            return _write_lines(journal, file)
        return _write_parquet(journal, file) if to == "parquet" else _write_csv(journal, file, excel_safe=excel_safe)


@contextmanager
def _sink(output: str) -> Generator[BinaryIO]:
    with writing("standard output" if output == "-" else output):
        if output == "-":
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
        path = os.path.realpath(output)
        if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113  (paths are text here)
            with open(path, "wb") as file:  # noqa: PTH123  (the same)
                yield file
            return
        with (
            draft_of(path, f"{path}.{os.getpid()}.part") as descriptor,
            open(descriptor, "wb", closefd=False) as file,
        ):
            yield file


def _write_lines(journal: str, file: BinaryIO) -> int:
    count = 0
    for row in rows_in_input_order(journal):
        file.write(line_of(row))
        count += 1
    return count


# The kinds of values that a column is told by.
_Kind: TypeAlias = Literal["bool", "int", "float", "long", "str", "json"]

_KINDS: Final[dict[type, _Kind]] = {bool: "bool", float: "float", str: "str"}


def _kind_of(value: object) -> _Kind:
    if isinstance(value, int) and not isinstance(value, bool):
        size = abs(value)
        return "int" if size <= _EXACT else "long" if size < _LARGEST else "json"
    return _KINDS.get(type(value), "json")


@final
class _Columns:
    """What columns the results need, and of which kinds what stands in them is."""

    def __init__(self, journal: str) -> None:
        self._journal = journal
        self._decode = serializer("json").decode
        self.kinds: dict[str, set[_Kind]] = {}  # by field
        self.has_other = False  # whether there are results that are no dicts
        for row in rows_in_input_order(journal):
            self._see(self._result(row))
        self.names = self._unique_names()

    def rows(self) -> Iterator[tuple[list[Any], list[Any], int]]:
        """For each success the cells that all have, those of its result, and its size; None where there is nothing."""
        fields = list(self.kinds)
        for row in rows_in_input_order(self._journal):
            result = self._result(row)
            is_dict = isinstance(result, _DICT)
            cells = [result.get(field) if is_dict else None for field in fields]
            if self.has_other:
                cells.append(None if is_dict else _to_json(result))
            yield _own_cells(row), cells, len(row[-1])

    def _result(self, row: Row) -> Any:
        try:
            return self._decode(row[-1])
        except ValueError as error:
            raise JournalDamaged(self._journal, f"the result of item {row[3]} is no JSON ({error})") from error

    def _see(self, result: Any) -> None:
        if not isinstance(result, _DICT):
            self.has_other = True
            return
        for field, value in result.items():
            kinds = self.kinds.get(field)
            if kinds is None:
                kinds = self.kinds[field] = set()
                if len(self.kinds) > _MOST_FIELDS:
                    raise Untabular(
                        f"the results have more than {_MOST_FIELDS:,} different fields, such as "
                        f"{printable(field[:_MOST_SHOWN])!r}: that makes no table; write --to jsonl"
                    )
            if value is not None:
                kinds.add(_kind_of(value))

    def _unique_names(self) -> list[str]:
        names = [*_OWN, *([_VALUE] if self.has_other else [])]
        taken = {*names, *self.kinds}
        fields: list[str] = []
        for field in self.kinds:
            name = field
            if field in names:
                while name in taken:
                    name = f"{_VALUE}.{name}"
                taken.add(name)
            fields.append(name)
        return [*_OWN, *fields, *names[len(_OWN) :]]


def _own_cells(row: Row) -> list[Any]:
    key = json.loads(key_text(row))
    _, _, _, position, attempts, started, elapsed, _, _ = row
    return [key if isinstance(key, str) else _to_json(key), position, attempts, started, elapsed / 1e6]


def _write_csv(journal: str, file: BinaryIO, *, excel_safe: bool) -> int:
    columns = _Columns(journal)
    file.write(_csv_row(columns.names, excel_safe=excel_safe))
    count = 0
    for own, cells, _ in columns.rows():
        own[_STARTED] /= 1e6
        file.write(_csv_row([*own, *cells], excel_safe=excel_safe))
        count += 1
    return count


def _csv_row(cells: Iterable[Any], *, excel_safe: bool) -> bytes:
    row = ",".join([_csv_cell(cell, excel_safe=excel_safe) for cell in cells])
    return _encodable(row).encode() + b"\n"


# Not by the module csv: on some Pythons it leaves a lone carriage return unquoted, and null and "" look the same.
def _csv_cell(value: Any, *, excel_safe: bool) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        text = _to_json(value)
    elif excel_safe and _FORMULA.match(value):
        text = f"'{value}"
    else:
        text = value
    return '"' + text.replace('"', '""') + '"' if not text or _SPECIAL.search(text) else text


def _encodable(text: str) -> str:
    """The text; single surrogates, which JSON can have and UTF-8 cannot, as escapes."""
    return text.encode(errors="backslashreplace").decode()


def _write_parquet(journal: str, file: BinaryIO) -> int:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtra("aiomap export --to parquet", "pyarrow", "parquet") from None
    columns = _Columns(journal)
    kinds: list[_Kind] = [_column_kind(seen) for seen in columns.kinds.values()]
    if columns.has_other:
        kinds.append("str")  # it is JSON already
    own = [arrow.string(), arrow.int64(), arrow.int64(), arrow.timestamp("us", tz="UTC"), arrow.float64()]
    types = own + [getattr(arrow, _ARROW[kind])() for kind in kinds]
    adapt = [_encodable, *[None] * (len(own) - 1), *[_ADAPTED.get(kind) for kind in kinds]]
    schema = arrow.schema(list(zip(map(_encodable, columns.names), types, strict=True)))
    count = 0
    with parquet.ParquetWriter(file, schema) as writer:
        for batch in _batches(columns.rows()):
            cells = [_adapted(column, how) for column, how in zip(zip(*batch, strict=True), adapt, strict=True)]
            arrays = [arrow.array(column, kind) for column, kind in zip(cells, types, strict=True)]
            writer.write_batch(arrow.record_batch(arrays, schema=schema))
            count += len(batch)
    return count


def _column_kind(seen: set[_Kind]) -> _Kind:
    """The kind that holds them all as they are."""
    if not seen:
        return "str"  # nulls alone
    if seen <= {"int", "long"}:
        return "long"
    if seen <= {"int", "float"}:
        return "float"
    return next(iter(seen)) if len(seen) == 1 else "json"


_ARROW: Final[dict[_Kind, str]] = {
    "bool": "bool_",
    "long": "int64",
    "float": "float64",
    "str": "string",
    "json": "string",
}

_ADAPTED: Final[dict[_Kind, Callable[[Any], Any]]] = {
    "str": _encodable,
    "json": lambda value: _encodable(_to_json(value)),
}


def _adapted(column: Iterable[Any], how: Callable[[Any], Any] | None) -> list[Any]:
    return list(column) if how is None else [None if value is None else how(value) for value in column]


def _batches(rows: Iterable[tuple[list[Any], list[Any], int]]) -> Iterator[list[list[Any]]]:
    batch: list[list[Any]] = []
    size = 0
    for own, cells, length in rows:
        batch.append([*own, *cells])
        size += length
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
