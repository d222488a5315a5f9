"""JSON Lines: each line is a JSON value.

Invariant: a line in, a record out; an item is what strict JSON can be written of again, and nothing deeper than the
journal takes.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from math import isfinite
from typing import Any, Final, NoReturn, cast

from aiomap._foreign import printable
from aiomap.inputs.record import BadRecord, Fault, Record, decoded, faulty, key_for, short_key
from aiomap.journal.serializers import Misfit, unusual_by_level
from aiomap.lines import Line

__all__ = ["json_records"]

_DEEPEST: Final = 200
_SHOWN: Final = 40  # characters of a number
_LONGEST_MESSAGE: Final = 500

# What a line of out.failed.jsonl has, and its error.
_FAILED: Final = {"key", "index", "error", "input"}
_ERROR: Final = {"class", "type", "message"}


def json_records(lines: Iterable[Line], name: str, id_column: str | None) -> Iterator[Record]:
    """The lines as records; name: of the file, for people.

    A line of the shape of out.failed.jsonl stands for the item that failed, by the key that it had.

    >>> [record] = json_records([Line(1, b'{"id": 7}')], "in.jsonl", "id")
    >>> record.item, record.key
    ({'id': 7}, 7)
    """
    for line in lines:
        try:
            item, key = _item_and_key(line, id_column)
            record = Record(line.number, item, key)
        except Fault as fault:
            record = faulty(line.number, line.content, f"line {line.number} of {name}", fault)
        yield record


def _item_and_key(line: Line, id_column: str | None) -> tuple[Any, Any]:
    text = decoded(line)
    value = _value(text)
    failed = _is_failure(value)
    # Every level needs a bracket of its own: without so many there is nothing to look at.
    if text.count("[") + text.count("{") > _DEEPEST:
        _check_depth(*((value["input"], value["key"]) if failed else (value,)))
    if not failed:
        return value, key_for(value, id_column)
    _check_was_item(value["error"])
    return value["input"], short_key(value["key"])


def _value(text: str) -> Any:
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise Fault(f"not JSON: {error.msg} at column {error.colno}{_advice(text)}") from None
    except ValueError:
        raise Fault("an integer of too many digits; write it as a string") from None
    except (RecursionError, MemoryError):
        raise _too_deep() from None


def _check_depth(*values: object) -> None:
    """How deep Python itself reads depends on who calls it from where, and writing might need more than reading did."""
    try:
        for value in values:
            if isinstance(value, dict | list):
                deque(unusual_by_level(cast("Any", value), (dict, list)), maxlen=0)
    except Misfit:
        raise _too_deep() from None


def _too_deep() -> Fault:
    return Fault(f"nested more than {_DEEPEST} deep")


def _advice(text: str) -> str:
    if text.strip() in {"[", "{"}:
        return "; each line must be a whole record: put them so with  jq -c '.[]'"
    return ""


def _is_failure(value: Any) -> bool:
    return _has(value, _FAILED) and _has(value["error"], _ERROR)


def _has(value: Any, members: set[str]) -> bool:
    return isinstance(value, dict) and members.issubset(cast("dict[str, Any]", value))


def _check_was_item(error: dict[str, Any]) -> None:
    """Fault for what was none: its input is the beginning of a bad line, with which nothing must be called."""
    if error["class"] == BadRecord.kind and str(error["type"]).rpartition(".")[2] == BadRecord.__name__:
        raise Fault(f"it was no item before: {printable(str(error['message'])[:_LONGEST_MESSAGE])}")


def _constant(text: str) -> NoReturn:
    raise Fault(f"{text} is not JSON; write null")


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise Fault(f"{text[:_SHOWN]} is too large for a float; write it as a string")
    return number


_decoder: Final = json.JSONDecoder(parse_constant=_constant, parse_float=_finite)
