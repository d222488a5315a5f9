"""`aiomap.inputs`: every record becomes an entry or a fault with its place, in constant memory, whatever the bytes."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from importlib.util import find_spec
from io import BufferedReader, BytesIO, RawIOBase
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomap.errors import MissingExtra
from aiomap.inputs import BadInput, BadRecord, Entry, entries
from aiomap.inputs.csv_rows import _Rows
from aiomap.journal.keys import key_of
from aiomap.lines import Line, LineCutter

# Bytes that mean something to one of the formats.
pieces = st.sampled_from(
    [
        *(
            b"\n",
            b"\r\n",
            b"\r",
            b",",
            b'"',
            b'""',
            b'","',
            b"a",
            b" ",
            b"\xff",
            b"\0",
            b"\xef\xbb\xbf",
            b"\xe2\x80\xa8",
        ),
        *(
            b"id",
            b"id,b\n",
            b"1",
            b"NaN",
            b"1e999",
            b"[",
            b"]",
            b'{"id":',
            b"}",
            b'"\\ud800"',
            b"null",
            b"\x1f\x8b",
            b":",
        ),
    ]
)
any_bytes = st.one_of(st.lists(pieces, max_size=40).map(b"".join), st.binary(max_size=60))

Written = Callable[..., str]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a file; gives its path."""

    def write(name: str, data: bytes | str) -> str:
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return str(path)

    return write


def piped(data: bytes | Endless, **options: Any) -> Iterator[Entry]:
    """The entries of what stands in standard input."""
    file = BytesIO(data) if isinstance(data, bytes) else BufferedReader(data)
    with mock.patch.object(sys, "stdin", SimpleNamespace(buffer=file)):
        yield from entries(["-"], **options)


def items(data: bytes, **options: Any) -> list[Any]:
    got = list(piped(data, **options))
    assert [entry.fault for entry in got] == [None] * len(got)
    return [entry.item for entry in got]


def fault_of(data: bytes, **options: Any) -> str:
    """The fault of the last entry, the only one that has one."""
    *others, bad = list(piped(data, **options))
    assert not any(entry.fault for entry in others)
    assert bad.fault is not None
    assert isinstance(bad.item, str)
    return bad.fault


class Endless(RawIOBase):
    """As many bytes as are asked for, made as they are read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._chunks, b"")
        taken = self._rest[: len(buffer)]
        self._rest = self._rest[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)


class Broken(BytesIO):
    """A file on a disk that fails."""

    def read1(self, *_: object) -> bytes:
        raise OSError(5, "Input/output error")


# What an entry is.


def test_a_line_of_text_is_its_own_key() -> None:
    assert list(piped(b"one\r\n\n  two\n\xc3\xa9", format="text")) == [
        Entry(0, 1, "one", "one", None),
        Entry(1, 3, "  two", "  two", None),
        Entry(2, 4, "é", "é", None),
    ]


def test_a_json_value_is_known_by_its_digest() -> None:
    values = [{"b": 1, "a": None}, [1.5, "x"], 7, "x", None, True, "\ud800"]
    lines = "\n".join(map(json.dumps, values)).encode()
    assert list(piped(lines, format="jsonl")) == [
        Entry(index, index + 1, value, key_of(value).hex(), None) for index, value in enumerate(values)
    ]


def test_a_row_of_csv_is_a_dict_and_known_by_the_line_in_which_it_begins() -> None:
    rows: dict[int, dict[str, str]] = {3: {"id": "1", "text": 'say "hi", \nyou'}, 6: {"id": "2", "text": ""}}
    assert list(piped(b'\xef\xbb\xbfid,text\r\n\n1,"say ""hi"", \r\nyou"\n\n2,\n', format="csv")) == [
        Entry(index, line, row, key_of(row).hex(), None) for index, (line, row) in enumerate(rows.items())
    ]


def test_blank_lines_within_quotes_are_part_of_the_field() -> None:
    assert items(b'a\n"1\n\n \n2"\n \n\n"\n"\n', format="csv") == [{"a": "1\n\n \n2"}, {"a": "\n"}]


def test_a_named_column_is_the_key() -> None:
    assert [entry.key for entry in piped(b'{"id":7}\n{"id":"x"}\n{"id":0}', format="jsonl", id_column="id")] == [
        7,
        "x",
        0,
    ]
    assert [entry.key for entry in piped(b"a,id\n1,7\n2,x", format="csv", id_column="id")] == ["7", "x"]


@pytest.mark.parametrize("length", [74, 75, 898, 899])
@pytest.mark.parametrize("character", ["x", "é", "\U0001f600"])
def test_a_key_whose_json_is_longer_than_900_characters_gives_way_to_its_digest(length: int, character: str) -> None:
    key = character * length
    expected = key if len(json.dumps(key)) <= 900 else key_of(key).hex()
    [of_text] = piped(key.encode(), format="text")
    assert of_text.key == expected
    [of_json] = piped(json.dumps({"id": key}).encode(), format="jsonl", id_column="id")
    assert of_json.key == expected


def test_the_last_of_two_equal_members_counts() -> None:
    assert items(b'{"a":1,"a":2}', format="jsonl") == [{"a": 2}]


def test_only_a_line_feed_ends_a_line() -> None:
    text = "a\u2028b\u0085c\x0bd\x0ce"
    assert items(text.encode(), format="text") == [text]
    assert items(
        json.dumps(text, ensure_ascii=False).encode().replace(b"\\u000b", b"").replace(b"\\f", b""), format="jsonl"
    )
    assert items(b"k\n" + text.encode(), format="csv") == [{"k": text}]


# What failed once can be fed back in.


def failed(**members: Any) -> bytes:
    record: dict[str, Any] = {
        "key": "k",
        "index": 3,
        "error": {"class": "timeout", "type": "TimeoutError", "message": "slow"},
        "input": {"url": "x"},
    }
    return json.dumps(record | members).encode()


@pytest.mark.parametrize("id_column", [None, "id"])
def test_a_line_of_the_failed_file_stands_for_its_input_by_its_key(id_column: str | None) -> None:
    [entry] = piped(failed(attempts=5), format="jsonl", id_column=id_column)
    assert entry == Entry(0, 1, {"url": "x"}, "k", None)


def test_the_deepest_item_can_be_fed_back_in() -> None:
    deep: list[Any] = []
    for _ in range(199):
        deep = [deep]
    assert items(json.dumps(deep).encode(), format="jsonl") == [deep]
    assert items(failed(input=deep), format="jsonl") == [deep]
    assert "nested" in fault_of(failed(input=[[deep]]), format="jsonl")
    assert "nested" in fault_of(failed(key=[[deep]]), format="jsonl")


def test_a_bad_record_that_is_fed_back_in_is_still_none() -> None:
    error = {"class": BadRecord.kind, "type": f"aiomap.inputs.record.{BadRecord.__name__}", "message": "no \x1b JSON"}
    fault = fault_of(failed(error=error, input='{"half'), format="jsonl")
    assert "no item" in fault
    assert "no \N{REPLACEMENT CHARACTER} JSON" in fault
    link = {"class": "bad_input", "type": "FetchFailed", "message": "names no host"}
    assert items(failed(error=link, input="https://mended"), format="jsonl") == ["https://mended"]


@pytest.mark.parametrize("missing", ["key", "index", "error", "input"])
def test_what_is_not_quite_of_that_shape_is_an_item(missing: str) -> None:
    record = json.loads(failed())
    del record[missing]
    assert items(json.dumps(record).encode(), format="jsonl") == [record]
    assert items(failed(error="text"), format="jsonl") == [json.loads(failed(error="text"))]


# A bad record is its own fault.


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b'{"a":1} x', "Extra data"),
        (b"caf\xe9", "not UTF-8 (byte 0xe9 at position 4)"),
        (b"NaN", "NaN is not JSON; write null"),
        (b'{"a":[-Infinity]}', "-Infinity is not JSON"),
        (b"[1e999]", "1e999 is too large"),
        (b"9" * 5000, "too many digits"),
        (b"[" * 100_000, "nested more than 200 deep"),
        (b"[" * 201 + b"]" * 201, "nested more than 200 deep"),
        (b'{"a":' * 201 + b"1" + b"}" * 201, "nested more than 200 deep"),
        (b'"a\0"', "NUL"),
        (b'"a\tb"', "not JSON"),
        (b"[", "jq -c '.[]'"),
        (b"x" * ((16 << 20) + 1), "longer than 16 MiB"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_a_bad_line_of_json_is_a_fault_with_its_place_and_the_next_one_is_read(line: bytes, reason: str) -> None:
    before, bad, after = piped(b"1\n\n" + line + b"\n2\n", format="jsonl")
    assert (before.item, after.item, after.line) == (1, 2, 4)
    assert bad.fault is not None
    assert bad.fault.startswith("line 3 of standard input: ")
    assert reason in bad.fault
    assert bad.item == line.decode(errors="replace")[:200]


@pytest.mark.parametrize("line", [b"\xff", b"a\0b", b"x" * ((16 << 20) + 1)])
def test_a_bad_line_of_text_is_a_fault(line: bytes) -> None:
    bad, after = piped(line + b"\nnext", format="text")
    assert bad.fault is not None
    assert after == Entry(1, 2, "next", "next", None)


def test_a_line_of_16_mib_is_an_item_in_every_format() -> None:
    long = "x" * ((16 << 20) - 2)
    assert items(f'"{long}"'.encode(), format="jsonl") == [long]
    assert items(long.encode(), format="text") == [long]
    limit = csv.field_size_limit()
    assert items(f'a\n"{long}"\n'.encode(), format="csv") == [{"a": long}]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('{"a":1}', "nothing in column 'id' (--id)"),
        ('{"id":null}', "nothing in column 'id'"),
        ('{"id":""}', "nothing in column 'id'"),
        ('{"id":1.0}', "a float stands in column 'id'"),
        ('{"id":true}', "a bool stands"),
        ('{"id":[1]}', "a list stands"),
        ("[1]", "a JSON list has no column 'id'"),
        ("null", "a JSON null has no column 'id'"),
    ],
)
def test_a_record_without_the_key_it_should_have_is_a_fault(value: str, reason: str) -> None:
    fault = fault_of(value.encode(), format="jsonl", id_column="id")
    assert reason in fault
    assert fault.startswith("line 1 of")


def test_an_empty_cell_is_no_key() -> None:
    assert "nothing in column 'id'" in fault_of(b"id,a\n,1", format="csv", id_column="id")


def test_two_bad_lines_have_two_keys_whatever_is_shown_of_them() -> None:
    one, other, again = piped(b"x" * 300 + b"\n" + b"x" * 301 + b"\n" + b"x" * 300, format="jsonl")
    assert one.item == other.item
    assert one.key != other.key
    assert one.key == again.key


def test_a_fault_shows_nothing_that_moves_a_cursor() -> None:
    fault = fault_of(b'{"id":1}', format="jsonl", id_column="\x1b[31m\u202e")
    assert fault.isprintable()


# CSV.


@pytest.mark.parametrize(("row", "found"), [(b"1", 1), (b"1,2,3", 3)])
def test_the_wrong_number_of_fields_is_a_fault_that_names_both(row: bytes, found: int) -> None:
    fault = fault_of(b"a,b\n1,2\n\n" + row, format="csv")
    assert fault == f"line 4 of standard input: expected 2 fields, found {found}"


def test_a_quote_that_is_not_closed_costs_its_own_line_alone() -> None:
    rows = b"".join(b"%d,x\n" % number for number in range(2000))
    bad, *others = piped(b'a,b\n1,"open\n' + rows, format="csv")
    assert bad.fault is not None
    assert bad.fault.startswith("line 2 of")
    assert "a quote opens in line 2 and is not closed" in bad.fault
    assert bad.item == '1,"open'
    assert [entry.item for entry in others] == [{"a": str(number), "b": "x"} for number in range(2000)]
    assert [entry.line for entry in others] == list(range(3, 2003))


@pytest.mark.parametrize(("lines", "good"), [(1000, True), (1001, False)])
@pytest.mark.parametrize("between", [b"x\n", b"\n"])
def test_a_row_has_1000_lines_at_most(lines: int, good: bool, between: bytes) -> None:
    first, *_ = piped(b'a\n"' + between * (lines - 1) + b'"\n', format="csv")
    assert (first.fault is None) == good


def test_a_row_has_16_mib_at_most() -> None:
    half = b"x" * (8 << 20)
    first, *others = piped(b'a\n"' + half + b"\n" + half + b'\nx"\nlast\n', format="csv")
    assert first.fault is not None
    assert "not closed" in first.fault
    assert len(others) == 3
    assert others[-1].item == {"a": "last"}


def test_a_quote_that_opens_in_a_later_line_of_its_row_costs_the_lines_up_to_there() -> None:
    bad, after = piped(b'a,b,c\n1,"x\ny","open\n2,3,4\n', format="csv")
    assert bad.fault is not None
    assert bad.fault.startswith("lines 2 to 3 of standard input: ")
    assert "a quote opens in line 3" in bad.fault
    assert after.item == {"a": "2", "b": "3", "c": "4"}


def test_a_line_that_is_too_long_ends_a_row_that_was_open_and_is_a_fault_of_its_own() -> None:
    open_, long, after = piped(b'a\n"open\n' + b"x" * ((16 << 20) + 1) + b"\nlast\n", format="csv")
    assert open_.fault is not None
    assert open_.fault.startswith("line 2 of standard input: ")
    assert long.fault is not None
    assert "longer than 16 MiB" in long.fault
    assert after.item == {"a": "last"}


def test_a_bad_byte_within_quotes_is_the_fault_of_that_row_alone() -> None:
    bad, after = piped(b'a,b\n1,"x\n\xff"\n2,y\n', format="csv")
    assert bad.fault is not None
    assert "not UTF-8" in bad.fault
    assert bad.fault.startswith("lines 2 to 3 of standard input: ")
    assert after.item == {"a": "2", "b": "y"}


def test_rows_that_quotes_have_made_one_are_named_in_the_fault() -> None:
    bad, after = piped(b'a,b\n1,"x\n2,y\n3,z"\n4,w\n', format="csv")
    assert bad.fault is None  # two fields: nothing tells that it was meant otherwise
    bad, after = piped(b'a,b\n"x\n2,y\n3,z"\n4,w\n', format="csv")
    assert bad.fault is not None
    assert "lines 2 to 4" in bad.fault
    assert "make these lines one record" in bad.fault
    assert after.item == {"a": "4", "b": "w"}


@pytest.mark.parametrize("row", [b'1\r"2', b'1\r,"2', b'"1"\r,"2', b"\r1"])
def test_a_carriage_return_outside_of_quotes_is_the_fault_of_its_line_alone(row: bytes) -> None:
    bad, after = piped(b"a,b\n" + row + b"\n3,4\n", format="csv")
    assert "line 2 of standard input: a carriage return outside of quotes" in str(bad.fault)
    assert after.item == {"a": "3", "b": "4"}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"a,b,a", "two columns of standard input are named 'a'"),
        (b"a,,b", "column 2 of standard input has no name"),
        (b"a,", "column 2"),
        (b'""', "column 1"),
        (b"a,\xff", "not UTF-8"),
        (b'a,"b', "is not closed"),
        (b"a\0", "NUL"),
        (b"x" * ((16 << 20) + 1), "longer than 16 MiB"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_a_first_row_that_names_no_columns_is_a_bad_input(header: bytes, reason: str) -> None:
    with pytest.raises(BadInput) as caught:
        list(piped(header + b"\n1,2\n", format="csv"))
    assert reason in str(caught.value)


@given(st.lists(st.lists(st.text(st.sampled_from('a",\n é'), max_size=5), min_size=2, max_size=2), max_size=5))
def test_what_the_csv_module_writes_is_read_as_it_was(rows: list[list[str]]) -> None:
    file = SimpleNamespace(text="")
    writer = csv.writer(SimpleNamespace(write=lambda text: setattr(file, "text", file.text + text)))
    writer.writerows([["a", "b"], *rows])
    expected = [{"a": row[0], "b": row[1]} for row in rows]
    assert items(file.text.encode(), format="csv") == expected


# Whatever the bytes.


def line_numbers(data: bytes) -> list[int]:
    """Those of the lines that are not blank, by definition."""
    numbers: list[int] = []
    for number, part in enumerate(data.split(b"\n"), 1):
        content = part.removesuffix(b"\r")
        if (content.removeprefix(b"\xef\xbb\xbf") if number == 1 else content).strip():
            numbers.append(number)
    return numbers


@given(any_bytes, st.sampled_from(["jsonl", "text"]), st.sampled_from([None, "id"]))
def test_any_bytes_give_one_entry_for_each_line_that_is_not_blank(data: bytes, kind: str, column: str | None) -> None:
    id_column = None if kind == "text" else column
    try:
        got = list(piped(data, format=kind, id_column=id_column))
    except BadInput:
        assert data.startswith((b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b"))
        return
    if not data.startswith(b"\x1f\x8b"):
        assert [entry.line for entry in got] == line_numbers(data)
    assert [entry.index for entry in got] == list(range(len(got)))
    for entry in got:
        json.dumps([entry.item, entry.key], allow_nan=False)
        assert entry.fault is None or (entry.fault.isprintable() and len(entry.item) <= 200)


def cut(data: bytes) -> list[Line]:
    cutter = LineCutter(blank=True)
    return cutter.feed(data) + cutter.end()


@given(any_bytes)
def test_any_bytes_are_rows_of_csv_that_share_out_the_lines(data: bytes) -> None:
    with mock.patch("aiomap.inputs.csv_rows._MOST_LINES", 4):
        rows = list(_Rows(cut(data)))
        numbers = [line.number for row in rows for line in row.lines]
        blank = set(numbers) - set(line_numbers(data))  # within quotes
        assert sorted(line_numbers(data) + list(blank)) == numbers
        try:
            got = list(piped(data, format="csv"))
        except BadInput:
            return
    if not data.startswith(b"\x1f\x8b"):
        assert [entry.line for entry in got] == [row.lines[0].number for row in rows[1:]]


@given(st.lists(st.sampled_from(['"', '""', ",", "a", "\n", "\r", '","']), max_size=20).map("".join))
def test_a_row_ends_where_it_does_for_the_csv_module(text: str) -> None:
    for row in _Rows(cut(text.encode())):
        lines = [line.content.decode() for line in row.lines]
        reader = csv.reader(["\n".join(lines) + "\n", "next\n"])
        try:
            next(reader)
            assert row.closed == (next(reader, None) == ["next"])
        except csv.Error:
            assert "\r" in text


# Files.


@pytest.mark.parametrize(
    ("name", "data", "item"),
    [
        ("a.jsonl", b"7", 7),
        ("a.NDJSON", b"7", 7),
        ("a.csv", b"n\n7", {"n": "7"}),
        ("a.txt", b"7", "7"),
        ("a.txt.gz", gzip.compress(b"7"), "7"),
        ("a.txt.gz", b"7", "7"),
        ("a.txt", gzip.compress(b"7"), "7"),
        ("a.jsonl", gzip.compress(b"7\n") + gzip.compress(b"") + b"\0" * 9, 7),
    ],
)
def test_the_name_tells_the_format_and_the_content_whether_it_is_compressed(
    written: Written, name: str, data: bytes, item: Any
) -> None:
    assert [entry.item for entry in entries([written(name, data)])] == [item]


def test_a_given_format_goes_before_the_name(written: Written) -> None:
    assert [entry.item for entry in entries([written("a.csv", "7")], format="jsonl")] == [7]


def test_files_are_read_one_after_the_other_with_lines_of_their_own(written: Written) -> None:
    paths = [written("a.txt", "1\n2"), written("b.jsonl", "\n{"), written("c.csv", "x\n4\n")]
    got = list(entries(paths))
    assert [(entry.index, entry.line) for entry in got] == [(0, 1), (1, 2), (2, 2), (3, 2)]
    assert [entry.fault is None for entry in got] == [True, True, False, True]
    assert f"line 2 of {paths[1]}" in str(got[2].fault)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_an_empty_file_has_no_entries(written: Written, name: str) -> None:
    assert list(entries([written(name, b"")], id_column=None if name == "a.txt" else "id")) == []


@pytest.mark.parametrize(
    ("name", "data", "options", "reason"),
    [
        ("a.tsv", b"", {}, "does not tell its format; add --format jsonl, csv, text or parquet"),
        ("a.gz", b"", {}, "--format"),
        ("a.txt", b"", {"format": "xml"}, "'xml' is no format; write --format jsonl"),
        ("a.txt", b"x", {"id_column": "id"}, "text, which has no columns for --id"),
        ("a.csv", b"a,b\n", {"id_column": "id"}, "no column 'id' (--id); its columns are 'a', 'b'"),
        ("a.csv", b"a,a\n", {}, "named 'a'"),
        ("a.txt", "x".encode("utf-16"), {}, "iconv -f UTF-16"),
        ("a.txt", gzip.compress(b"x" * 99)[:15], {}, "cut short"),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2")[:8], {}, "cut short"),
        ("a.jsonl", b"\x1f\x8b damaged", {}, "damaged"),
    ],
)
def test_what_cannot_be_read_at_all_is_said_before_anything_is_asked_for(
    written: Written, name: str, data: bytes, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadInput) as caught:
        entries([written("good.txt", b"1"), written(name, data)] if not options else [written(name, data)], **options)
    assert reason in str(caught.value)


def test_a_path_that_leads_nowhere_is_a_bad_input(tmp_path: Path) -> None:
    for path, reason in [
        ("no\x1b.txt", "cannot read no\N{REPLACEMENT CHARACTER}.txt: No such file"),
        ("\0.txt", "null"),
    ]:
        with pytest.raises(BadInput) as caught:
            entries([path])
        assert reason in str(caught.value)
    with pytest.raises(BadInput, match="is a folder; name the files in it"):
        entries([str(tmp_path)], format="text")


def test_a_file_that_cannot_be_opened_or_read_is_a_bad_input(written: Written) -> None:
    path = written("a.txt", "1")
    for broken in (mock.Mock(side_effect=OSError(13, "Permission denied")), mock.Mock(return_value=Broken())):
        with mock.patch.object(Path, "open", broken), pytest.raises(BadInput, match=r"cannot read .*a\.txt: "):
            entries([path])


def test_standard_input_needs_a_format_and_is_read_once() -> None:
    with pytest.raises(BadInput, match="--format jsonl, csv, text or parquet"):
        entries(["-"])
    with pytest.raises(BadInput, match="read once only"):
        entries(["-", "-"], format="text")
    with (
        pytest.raises(BadInput, match="write it to a file"),
        mock.patch.dict(sys.modules, {"pyarrow.parquet": SimpleNamespace()}),
    ):
        entries(["-"], format="parquet")
    with mock.patch.object(sys, "stdin", None), pytest.raises(BadInput, match="is closed"):
        next(entries(["-"], format="text"))


def test_of_a_pipe_the_bad_header_is_said_when_it_is_read() -> None:
    with mock.patch.object(sys, "stdin", SimpleNamespace(buffer=BytesIO(b"a,a\n"))):
        got = entries(["-"], format="csv")
        with pytest.raises(BadInput):
            next(got)


def test_gzip_data_that_is_cut_short_is_the_fault_of_what_is_lost(written: Written) -> None:
    lines = "".join(f"line {number * 7919 % 10_007}\n" for number in range(10_000)).encode()
    packed = gzip.compress(lines)
    for data, reason in [
        (packed[: len(packed) // 2], "cut short"),
        (packed[:-8] + b"12345678", "damaged"),
        (packed + b"rubbish", "damaged"),
    ]:
        *good, bad = entries([written("a.txt", data)])
        assert [entry.item for entry in good] == lines.decode().split("\n")[: len(good)]
        assert len(good) > 1000
        assert bad.fault is not None
        assert reason in bad.fault
        assert "make the file anew" in bad.fault
        assert bad.line == len(good) + 1
        assert bad.fault.startswith(f"line {len(good) + 1} of")


def test_the_lost_end_of_a_csv_is_its_last_record() -> None:
    data = b"a\n" + b"".join(b"\n%d\n" % (number * 7919 % 10_007) for number in range(10_000))
    *good, bad = piped(gzip.compress(data)[:9000], format="csv")
    assert bad.line > good[-1].line
    assert str(bad.fault).startswith(f"line {bad.line} of ")


def test_how_much_was_read_is_known_in_bytes_of_the_disk(written: Written) -> None:
    plain, packed = b"x\n" * 40_000, gzip.compress(b"y\n" * 1_000)
    got = entries([written("a.txt", plain), written("b.txt.gz", packed)])
    assert (got.bytes_read, got.total_bytes, got.records) == (0, len(plain) + len(packed), 0)
    next(got)
    assert 0 < got.bytes_read < len(plain)
    assert sum(1 for _ in got) == 40_999
    assert (got.bytes_read, got.records) == (got.total_bytes, 41_000)
    assert entries(["-"], format="text").total_bytes is None


def test_a_file_is_closed_when_its_entries_are(written: Written) -> None:
    """An open file would be a warning, and every warning is an error here."""
    path = written("a.txt", "1\n2\n3\n")
    got = entries([path])
    next(got)
    got.close()
    assert list(got) == []
    limited = entries([path], limit=1)
    assert [entry.item for entry in limited] == ["1"]


def test_a_pipe_is_read_as_it_comes() -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b"o", b"ne\ntw", b"o\n")
        raise AssertionError("there was enough to give two lines")

    got = piped(Endless(chunks()), format="text")
    assert [entry.item for entry in islice(got, 2)] == ["one", "two"]


def test_compressed_data_is_told_from_text_also_if_it_comes_byte_by_byte() -> None:
    data = gzip.compress(b"one\ntwo\n")
    slow = Endless(data[place : place + 1] for place in range(len(data)))
    assert [entry.item for entry in piped(slow, format="text")] == ["one", "two"]


def test_a_read_that_fails_is_no_fault_of_a_line() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"one\n"
        raise OSError("the disk")

    with pytest.raises(BadInput, match="cannot read standard input: the disk"):
        list(piped(Endless(chunks()), format="text"))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "text"])
def test_memory_is_constant_whatever_the_length(kind: str) -> None:
    line = {"jsonl": b'{"a": "0123456789"}\n', "csv": b'a,"0123\n"\n', "text": b"https://example.org/0123456789\n"}[
        kind
    ]

    def peak_of(lines: int) -> int:
        chunks = (line * 100 for _ in range(lines // 100))
        tracemalloc.start()
        try:
            got = piped(Endless(chunks), format=kind)
            assert sum(1 for _ in got) >= lines - 1
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_of(100)
    few, many = peak_of(1_000), peak_of(4_000)
    assert many < few + 100_000
    assert many < 3 << 20


def test_a_bomb_of_gzip_is_unpacked_a_chunk_at_a_time() -> None:
    bomb = gzip.compress(b"x\n" * 40 + bytes(32 << 20))
    tracemalloc.start()
    try:
        assert len(list(piped(bomb, format="text"))) == 41
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


# Selection.


def numbers(count: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(count))


def lines_of(data: bytes, **options: Any) -> list[int]:
    got = list(piped(data, format="text", **options))
    assert [entry.index for entry in got] == list(range(len(got)))
    return [entry.line for entry in got]


def test_limit_takes_the_first_and_reads_no_further() -> None:
    got = entries_of_numbers = piped(numbers(100), format="text", limit=3)
    assert [entry.item for entry in got] == ["0", "1", "2"]
    assert next(entries_of_numbers, None) is None
    assert lines_of(numbers(2), limit=3) == [1, 2]


def test_every_record_falls_into_one_shard_and_stays_there_when_the_input_grows_or_is_reordered() -> None:
    data = numbers(300).split(b"\n")
    parts = [{entry.item for entry in piped(b"\n".join(data), format="text", shard=(i, 3))} for i in (1, 2, 3)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 300
    assert all(60 < len(part) < 140 for part in parts)
    grown = b"\n".join([b"new", *reversed(data), b"newer"])
    for i, part in enumerate(parts, 1):
        assert {entry.item for entry in piped(grown, format="text", shard=(i, 3))} - {"new", "newer"} == part


def test_bad_records_are_in_one_shard_too() -> None:
    data = b"\n".join(b"{%d" % number for number in range(50))
    lines = [entry.line for i in (1, 2) for entry in piped(data, format="jsonl", shard=(i, 2))]
    assert sorted(lines) == list(range(1, 51))


def test_dedupe_gives_the_first_of_each_key_and_counts_the_others(written: Written) -> None:
    path = written("a.jsonl", '{"a":1,"b":2}\n"1"\n{"b":2,"a":1}\n1\n"1"\n1.0\n')
    got = entries([path], dedupe=True)
    assert [entry.line for entry in got] == [1, 2, 4, 6]
    assert (got.records, got.repeated) == (6, 2)
    assert len(list(entries([path]))) == 6


def test_dedupe_goes_by_the_named_column() -> None:
    got = piped(b'{"id":1,"a":1}\n{"id":1,"a":2}\n{"id":"1"}', format="jsonl", id_column="id", dedupe=True)
    assert [entry.line for entry in got] == [1, 3]


def test_dedupe_keeps_every_bad_record() -> None:
    assert len(list(piped(b"{\n{\n1\n1", format="jsonl", dedupe=True))) == 3


def test_a_sample_is_in_the_order_of_the_input_and_the_same_for_the_same_seed() -> None:
    taken = lines_of(numbers(1000), sample=20, seed=4)
    assert taken == sorted(set(taken))
    assert len(taken) == 20
    assert taken == lines_of(numbers(1000), sample=20, seed=4)
    assert taken != lines_of(numbers(1000), sample=20, seed=5)
    assert lines_of(numbers(5), sample=20) == [1, 2, 3, 4, 5]


def test_a_sample_is_the_same_on_every_python() -> None:
    assert lines_of(numbers(50), sample=6, seed=1) == [4, 5, 10, 15, 42, 49]


def test_every_record_is_as_likely_in_a_sample_as_any_other() -> None:
    drawn = Counter(line for seed in range(600) for line in lines_of(numbers(10), sample=3, seed=seed))
    assert set(drawn) == set(range(1, 11))
    assert all(130 < count < 230 for count in drawn.values())  # 180 each, by the law


def test_the_order_is_shard_dedupe_sample_limit() -> None:
    data = numbers(200) * 2
    in_shard = lines_of(data, shard=(1, 2))
    once = lines_of(data, shard=(1, 2), dedupe=True)
    assert once == [line for line in in_shard if line <= 200]
    drawn = lines_of(data, shard=(1, 2), dedupe=True, sample=10, seed=3)
    # As if the others were not there.
    assert drawn == [once[line - 1] for line in lines_of(numbers(len(once)), sample=10, seed=3)]
    assert lines_of(data, shard=(1, 2), dedupe=True, sample=10, seed=3, limit=4) == drawn[:4]


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"sample": 0}, {"seed": -1}, {"seed": 1 << 64}, {"shard": (0, 2)}, {"shard": (3, 2)}]
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        entries([], **options)


# Parquet.

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")


def parquet_of(path: Path, columns: Any, **options: Any) -> str:
    arrow = pytest.importorskip("pyarrow")
    table = columns if isinstance(columns, arrow.Table) else arrow.table(columns)
    pytest.importorskip("pyarrow.parquet").write_table(table, path, **options)
    return str(path)


def test_without_pyarrow_parquet_is_refused_with_the_command_that_installs_it(written: Written) -> None:
    absent = mock.patch.dict(sys.modules, {"pyarrow": None, "pyarrow.parquet": None})
    with absent, pytest.raises(MissingExtra, match=r'pip install "aiomap\[parquet\]"'):
        entries([written("a.parquet", b"")])


@needs_pyarrow
def test_a_row_of_parquet_is_a_dict_of_what_json_has(tmp_path: Path) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    row: dict[str, list[Any]] = {
        "id": [1, 2],
        "t": [when, None],
        "d": [Decimal("1.50"), None],
        "l": [[1, None], []],
        "s": [{"x": when.date()}, None],
    }
    got = list(entries([parquet_of(tmp_path / "a.parquet", row)], id_column="id"))
    assert got == [
        Entry(
            0,
            1,
            {"id": 1, "t": "2026-01-02T03:04:05+00:00", "d": "1.50", "l": [1, None], "s": {"x": "2026-01-02"}},
            1,
            None,
            "row",
        ),
        Entry(1, 2, {"id": 2, "t": None, "d": None, "l": [], "s": None}, 2, None, "row"),
    ]
    [first, _] = entries([str(tmp_path / "a.parquet")])
    assert first.key == key_of(first.item).hex()


@needs_pyarrow
def test_a_value_that_json_has_not_is_the_fault_of_its_row(tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "a.parquet", {"x": [1.5, float("nan"), 2.5], "b": [None, None, b"x"]})
    good, nan, binary = entries([path])
    assert good.fault is None
    assert str(nan.fault).startswith(f"row 2 of {path}: ")
    assert [entry.place for entry in (good, nan, binary)] == ["row 1", "row 2", "row 3"]
    assert "nan in column 'x' is not JSON; write null" in str(nan.fault)
    assert "a value of type bytes in column 'b'" in str(binary.fault)


@needs_pyarrow
def test_a_row_that_python_has_no_form_for_leaves_the_others_alone(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    far = arrow.array([0, 2**62, 0], arrow.timestamp("us"))
    good, bad, after = entries([parquet_of(tmp_path / "a.parquet", {"t": far})])
    assert good.item == after.item == {"t": "1970-01-01T00:00:00"}
    assert bad.fault is not None
    assert bad.line == 2


@needs_pyarrow
def test_parquet_that_cannot_be_read_is_a_bad_input(tmp_path: Path, written: Written) -> None:
    path = parquet_of(tmp_path / "a.parquet", {"a": [1]})
    with pytest.raises(BadInput, match="no column 'id'"):
        entries([path], id_column="id")
    with pytest.raises(BadInput, match="cannot be read as Parquet"):
        entries([written("b.parquet", b"PAR1 and no more")])
    with pytest.raises(BadInput, match="gunzip"):
        entries([written("c.parquet", gzip.compress(Path(path).read_bytes()))])
    arrow = pytest.importorskip("pyarrow")
    twins = arrow.Table.from_arrays([arrow.array([1]), arrow.array([2])], names=["a", "a"])
    with pytest.raises(BadInput, match="named 'a'"):
        entries([parquet_of(tmp_path / "d.parquet", twins)])


@needs_pyarrow
def test_parquet_is_read_batch_by_batch_with_its_progress(tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "a.parquet", {"a": list(range(20_000))}, row_group_size=5_000)
    got = entries([path])
    assert got.bytes_read == 0
    assert sum(1 for _ in islice(got, 9_000)) == 9_000
    assert 0 < got.bytes_read < (got.total_bytes or 0)
    assert [entry.item["a"] for entry in got] == list(range(9_000, 20_000))
    assert got.bytes_read == got.total_bytes


@needs_pyarrow
def test_a_damaged_page_is_the_fault_of_the_rows_that_are_lost(tmp_path: Path) -> None:
    path = parquet_of(
        tmp_path / "a.parquet",
        {"a": list(range(20_000))},
        row_group_size=5_000,
        compression="gzip",
        use_dictionary=False,
    )
    data = bytearray(Path(path).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    Path(path).write_bytes(data)
    *good, bad = entries([path])
    assert [entry.item["a"] for entry in good] == list(range(len(good)))
    assert bad.fault is not None
    assert "the rest of the file cannot be read" in bad.fault
    assert bad.place == f"row {len(good) + 1:,}"


def expectations(path: Path, **options: Any) -> list[int | None]:
    """How many entries were expected after each one, and in the end; what is not sure as a negative number."""
    read = entries([str(path)], **options)
    expected: list[int | None] = []
    for _ in read:
        told = read.expected()
        expected.append(told and (told[0] if told[1] else -told[0]))
    told = read.expected()
    return [*expected, told and (told[0] if told[1] else -told[0])]


@pytest.mark.parametrize("packed", [False, True])
def test_how_many_there_will_be_is_concluded_from_what_was_read_and_sure_in_the_end(
    tmp_path: Path, *, packed: bool
) -> None:
    text = b"".join(b"%07d\n" % number for number in range(50_000))
    path = tmp_path / ("in.txt.gz" if packed else "in.txt")
    path.write_bytes(gzip.compress(text) if packed else text)
    *concluded, sure = expectations(path)
    assert sure == 50_000
    off = [abs(50_000 + (each or 0)) for each in concluded[1000:]]
    assert max(off) < (40_000 if packed else 1000)


def test_what_a_limit_or_a_sample_leaves_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"".join(b"%07d\n" % number for number in range(5000)))
    assert expectations(path, limit=3) == [-3, -3, -3, 3]
    assert expectations(path, sample=4) == [-4, -4, -4, -4, 4]
    assert expectations(path, sample=9000)[0] == -5000
    half = expectations(path, shard=(1, 2))
    assert abs((half[1000] or 0) + 2500) < 250


def test_of_a_pipe_nobody_can_tell_before_its_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"a\nb\n",))
    writer.start()
    assert expectations(path, format="text") == [None, None, 2]
    writer.join()
