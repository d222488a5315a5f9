"""Parquet: each row is a dict.

Invariant: an item holds what JSON holds and nothing else. One batch of rows is held at a time. What pyarrow raises, of
whatever type, is about the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import date, time
from decimal import Decimal
from importlib import import_module
from math import isfinite
from typing import Any, BinaryIO, Final, cast

from aiomap._foreign import printable
from aiomap.errors import MissingExtra
from aiomap.inputs.record import BadInput, Fault, Record, check_columns, faulty, key_for

__all__ = ["parquet_module", "parquet_records"]

_BATCH: Final = 4096  # rows
_BUFFER: Final = 1 << 20  # bytes
_AS_THEY_ARE: Final = frozenset({type(None), bool, int, str})
_LONGEST_MESSAGE: Final = 200


def parquet_module() -> Any:
    """The module of pyarrow that reads it. MissingExtra if it is not installed."""
    try:
        return import_module("pyarrow.parquet")
    except ImportError:
        raise MissingExtra("reading Parquet", "pyarrow", "parquet") from None


def parquet_records(
    file: BinaryIO, name: str, id_column: str | None, note: Callable[[float], object]
) -> Iterator[Record]:
    """The rows as records, numbered from 1; name: of the file, for people; note: is told which share was read.

    Dates and times become ISO 8601, decimals become strings.

    Raises `BadInput` if it is no Parquet, or the names of its columns cannot be those of a dict.
    """
    try:
        table = parquet_module().ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER)
        batches: Iterator[Any] = table.iter_batches(_BATCH)
    except Exception as error:
        raise BadInput(f"{name} cannot be read as Parquet: {_reason(error)}") from None
    check_columns(cast("list[str]", table.schema_arrow.names), name, id_column)
    number = 0
    while True:
        try:
            batch = next(batches, None)
        except Exception as error:
            place, lost = f"row {number + 1} of {name}", f"the rest of the file cannot be read: {_reason(error)}"
            yield faulty(number + 1, place.encode(), place, lost, "row")
            return
        if batch is None:
            return
        for row in _rows(batch):
            number += 1
            yield _record(row, number, name, id_column)
        note(number / table.metadata.num_rows)


def _rows(batch: Any) -> Iterator[dict[str, Any] | Fault]:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except Exception:  # a value in it has no form in Python, which is no matter of the other rows
        for index in range(batch.num_rows):
            try:
                [row] = batch.slice(index, 1).to_pylist()
                yield row
            except Exception as error:
                yield Fault(f"a value in it cannot be read: {_reason(error)}")
        return
    yield from rows


def _record(row: dict[str, Any] | Fault, number: int, name: str, id_column: str | None) -> Record:
    try:
        if isinstance(row, Fault):
            raise row
        item = {column: _plain(value, column) for column, value in row.items()}
        return Record(number, item, key_for(item, id_column), unit="row")
    except Fault as fault:
        raw = f"row {number}" if isinstance(row, Fault) else json.dumps(row, default=repr)
        return faulty(number, raw.encode(), f"row {number} of {name}", fault, "row")


def _plain(value: Any, column: str) -> Any:
    """The value as JSON has it."""
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, float) and isfinite(value):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(member, column) for key, member in cast("Any", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(member, column) for member in cast("list[Any]", value)]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    what = str(value) if isinstance(value, float) else f"a value of type {type(value).__name__}"
    raise Fault(f"{what} in column {printable(column)!r} is not JSON; write null or a string")


def _reason(error: Exception) -> str:
    return printable(str(error)[:_LONGEST_MESSAGE])
