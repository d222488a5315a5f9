"""Any bytes, read as an input in every way there is: no way may crash, hang, lose an entry or give one twice.

`python -m tests.fuzz.readers [seconds]` has atheris look for bytes for which that does not hold.
"""

from __future__ import annotations

import asyncio
import gzip
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from io import BytesIO, RawIOBase
from types import SimpleNamespace
from typing import Any
from unittest import mock

from aiomap.inputs import BadInput, Entry, arriving, entries
from aiomap.inputs.record import Format

FORMATS: tuple[Format, ...] = ("text", "jsonl", "csv")
_GZIP = b"\x1f\x8b"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_MARK = b"\xef\xbb\xbf"


class Cut(RawIOBase):
    """A pipe that says so many bytes at a time."""

    def __init__(self, data: bytes, sizes: Sequence[int]) -> None:
        self._left = data
        self._sizes = list(sizes)

    def read(self, most: int = -1) -> bytes:
        size = min(most, max(1, self._sizes.pop())) if self._sizes else most
        taken, self._left = self._left[:size], self._left[size:]
        return taken


def outcome_of(read: Any) -> tuple[list[Entry], str | None]:
    """The entries up to the error, if there is one, and its text."""
    got: list[Entry] = []
    try:
        for entry in read:
            got.append(entry)  # noqa: PERF402  (what came before an error counts)
    except BadInput as error:
        return got, str(error)
    return got, None


def read_from(file: Any, form: Format) -> Iterator[Entry]:
    with mock.patch.object(sys, "stdin", SimpleNamespace(buffer=file)):
        yield from entries(["-"], format=form)


def arrived_from(file: Any, form: Format) -> tuple[list[Entry], str | None]:
    got: list[Entry] = []

    async def main() -> str | None:
        try:
            async for entry in arriving(entries(["-"], format=form)):
                got.append(entry)
        except BadInput as error:
            return str(error)
        return None

    with mock.patch.object(sys, "stdin", SimpleNamespace(buffer=file)):
        return got, asyncio.run(asyncio.wait_for(main(), 20))


def line_numbers(data: bytes) -> list[int]:
    """Those of the lines that are not blank, by definition."""
    parts = [part.removesuffix(b"\r") for part in data.split(b"\n")]
    parts[0] = parts[0].removeprefix(_MARK)
    return [number for number, part in enumerate(parts, 1) if part.strip()]


def check(data: bytes, form: Format, sizes: Sequence[int]) -> None:
    """AssertionError if one of the ways gives something else than the others."""
    plain = not data.startswith((_GZIP, *_UTF_16))
    whole = outcome_of(read_from(BytesIO(data), form))
    assert [entry.index for entry in whole[0]] == list(range(len(whole[0])))
    if plain and form != "csv":
        assert [entry.line for entry in whole[0]] == line_numbers(data)
    if form == "csv":  # a record has lines of its own
        begins = [entry.line for entry in whole[0]]
        assert begins == sorted(set(begins))
    assert outcome_of(read_from(Cut(data, sizes), form)) == whole
    assert arrived_from(Cut(data, sizes), form) == whole
    if not data.startswith(_GZIP):
        middle = sizes[0] % (len(data) + 1) if sizes else 0
        packed = gzip.compress(data[:middle], 1) + gzip.compress(data[middle:], 1)
        if plain:
            assert outcome_of(read_from(Cut(packed, sizes), form)) == whole
        torn = outcome_of(read_from(Cut(packed[: len(packed) - 1 - middle % 9], sizes), form))
        if torn[1] is None:  # all but what is lost stands there as it was, and one fault for the rest
            assert torn[0][-1].fault is not None
            # Of CSV, lines that were within quotes may be rows then.
            assert form == "csv" or len(torn[0]) <= len(whole[0]) + 1


def _one(data: bytes) -> None:
    if len(data) < 3:
        return
    count = data[1] % 8
    check(data[2 + count :], FORMATS[data[0] % 3], list(data[2 : 2 + count]))


def main() -> None:
    atheris = import_module("atheris")
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    runs, end = 0, math.inf

    def one(data: bytes) -> None:
        nonlocal runs, end
        runs, end = runs + 1, min(end, time.monotonic() + seconds)
        if time.monotonic() > end:
            sys.stderr.write(f"{runs:,} executions, nothing found\n")
            sys.stderr.flush()
            os._exit(0)
        _one(data)

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], "-max_len=300", "-timeout=30"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
