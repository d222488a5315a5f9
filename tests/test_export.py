"""A journal as a table: nothing is lost on the way, and the file is whole or not there."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiomap.cli import export as export_module
from aiomap.cli.export import Untabular, export
from aiomap.cli.output import WriteFailed
from aiomap.errors import JournalDamaged, JournalError, MissingExtra
from aiomap.journal.file import JournalFile
from aiomap.journal.rows import DONE, FAILED, SKIPPED, Row

pytestmark = pytest.mark.once

STARTED = 1_764_156_600_123_456


def row(index: int, value: Any, state: int = DONE, *, key: Any = None) -> Row:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    label = json.dumps(f"id {index}" if key is None else key)
    return (f"{index} {label}".encode().rjust(16)[-16:], 0, state, index, 1, STARTED, 250_000, label, body)


Make = Callable[..., str]


@pytest.fixture
def journal(tmp_path: Path) -> Make:
    """Makes a journal in which results stand, recorded from the last to the first."""

    def make(*values: Any, rows: list[Row] | None = None, serializer: str = "json") -> str:
        file = JournalFile(str(tmp_path / "run.db"))
        file.open()
        file.begin({"function": "f", "serializer": serializer}, anew=False)
        file.append(rows or [row(index, value) for index, value in reversed(list(enumerate(values)))])
        file.close({})
        return str(tmp_path / "run.db")

    return make


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "table"


def table(file: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(file.read_bytes().decode(), newline=""), strict=True))


def values(file: Path) -> list[list[str]]:
    """The columns of the results, with their names."""
    return [cells[5:] for cells in table(file)]


# CSV


def test_csv_has_a_column_for_each_field_in_the_order_of_the_input(journal: Make, file: Path) -> None:
    assert export(journal({"name": "Ann", "age": 7}, {"name": "Bob", "age": 8}), "csv", str(file)) == 2
    assert file.read_bytes() == (
        b"key,index,attempts,started,elapsed,name,age\n"
        b"id 0,0,1,1764156600.123456,0.25,Ann,7\n"
        b"id 1,1,1,1764156600.123456,0.25,Bob,8\n"
    )


def test_results_that_are_no_dicts_stand_in_one_column_as_json(journal: Make, file: Path) -> None:
    export(journal("text", 5, None, [1, "a"], True), "csv", str(file))
    assert values(file) == [["value"], ['"text"'], ["5"], ["null"], ['[1,"a"]'], ["true"]]


def test_dicts_and_others_have_their_columns_beside_each_other(journal: Make, file: Path) -> None:
    export(journal({"a": 1}, 5, {"b": 2}), "csv", str(file))
    assert values(file) == [["a", "b", "value"], ["1", "", ""], ["", "", "5"], ["", "2", ""]]


def test_a_field_that_comes_late_has_its_column_too(journal: Make, file: Path) -> None:
    export(journal(*[{"a": number} for number in range(1500)], {"a": 1, "late": "here"}), "csv", str(file))
    assert values(file)[0] == ["a", "late"]
    assert values(file)[1] == ["0", ""]
    assert values(file)[-1] == ["1", "here"]


def test_a_field_that_is_named_like_another_column_has_another_name(journal: Make, file: Path) -> None:
    export(journal({"key": 1, "value.key": 2, "value": 3, "index": 4}, "other"), "csv", str(file))
    assert values(file)[0] == ["value.value.key", "value.key", "value.value", "value.index", "value"]
    assert values(file)[1] == ["1", "2", "3", "4", ""]
    assert len(set(table(file)[0])) == len(table(file)[0])


def test_null_and_an_empty_text_are_told_apart(journal: Make, file: Path) -> None:
    export(journal({"a": None, "b": "", "c": 0, "d": False, "e": []}), "csv", str(file))
    assert file.read_bytes().splitlines()[1].endswith(b',0.25,,"",0,false,[]')


@pytest.mark.parametrize(
    "text",
    ['"', ",", "\n", "\r", "\r\n", 'a "b", c\n', " leading", "trailing ", "\ttab", "caf\xe9 \u2028 \u0085 \x0b", "'"],
)
def test_any_text_comes_back_as_it_was(journal: Make, file: Path, text: str) -> None:
    export(journal({text: text, "next": [text, 1]}, rows=None), "csv", str(file))
    header, cells = values(file)
    assert header == [text, "next"]
    assert cells[0] == text
    assert json.loads(cells[1]) == [text, 1]
    assert len(table(file)) == 2


def test_a_lone_carriage_return_is_quoted(journal: Make, file: Path) -> None:
    export(journal({"a": "x\ry"}), "csv", str(file))
    assert b'"x\ry"' in file.read_bytes()


def test_what_utf_8_cannot_hold_is_written_as_an_escape(journal: Make, file: Path) -> None:
    export(journal({"a": "\ud800"}), "csv", str(file))
    assert values(file)[1] == ["\\ud800"]


def test_keys_are_text_or_json(journal: Make, file: Path) -> None:
    rows = [row(index, 1, key=key) for index, key in enumerate(["a,b", 7, ["en", 1]])]
    export(journal(rows=rows), "csv", str(file))
    assert [cells[0] for cells in table(file)[1:]] == ["a,b", "7", '["en",1]']


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_is_not_changed_unless_it_is_asked_for(journal: Make, file: Path, text: str) -> None:
    path = journal({text: text, "number": -1})
    export(path, "csv", str(file))
    assert values(file) == [[text, "number"], [text, "-1"]]
    export(path, "csv", str(file), excel_safe=True)
    assert values(file) == [[f"'{text}", "number"], [f"'{text}", "-1"]]


def test_too_many_fields_are_refused_with_the_way_out(journal: Make, file: Path) -> None:
    path = journal({str(number): 1 for number in range(1000)})
    assert export(path, "csv", str(file)) == 1
    file.unlink()
    path = journal(rows=[row(2000, {"re\x1bd": 1})])
    told = r"more than 1,000 different fields, such as 're.d': .* write --to jsonl"
    with pytest.raises(Untabular, match=told) as refused:
        export(path, "csv", str(file))
    assert str(refused.value).isprintable()
    assert not file.exists()
    assert not list(file.parent.glob("*.part"))


# JSON Lines


def test_json_lines_are_those_of_out_by_index(journal: Make, file: Path) -> None:
    assert export(journal({"a": 1}, "b"), "jsonl", str(file)) == 2
    assert file.read_bytes() == (
        b'{"key":"id 0","index":0,"value":{"a": 1},"attempts":1,"started":1764156600.123456,"elapsed":0.25}\n'
        b'{"key":"id 1","index":1,"value":"b","attempts":1,"started":1764156600.123456,"elapsed":0.25}\n'
    )


@pytest.mark.parametrize("to", ["csv", "jsonl"])
def test_only_successes_are_exported(journal: Make, file: Path, to: Any) -> None:
    rows = [row(0, 1), row(1, b"", SKIPPED), row(2, b'{"class":"a","type":"b","message":"c"}', FAILED), row(3, 2)]
    assert export(journal(rows=rows), to, str(file)) == 2


# Where it goes


@pytest.mark.parametrize("to", ["csv", "jsonl"])
def test_standard_output_has_what_a_file_would_have(
    journal: Make, file: Path, to: Any, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = journal({"a": 1}, {"a": 2})
    export(path, to, str(file))
    assert export(path, to, "-") == 2
    assert capfdbinary.readouterr().out == file.read_bytes()


def test_a_file_is_replaced_all_at_once(journal: Make, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = journal({"a": 1})
    file.write_bytes(b"old")

    def fsync(_: int) -> None:
        assert file.read_bytes() == b"old"
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(WriteFailed, match="the disk is full"):
            export(path, "csv", str(file))
    assert file.read_bytes() == b"old"
    assert not list(file.parent.glob("*.part"))
    export(path, "csv", str(file))
    assert values(file) == [["a"], ["1"]]


def test_what_is_no_regular_file_is_written_to(journal: Make) -> None:
    assert export(journal(1), "csv", "/dev/null") == 1
    assert not Path("/dev/null").is_file()


def test_it_never_takes_the_journals_place(journal: Make, tmp_path: Path) -> None:
    path = journal(1)
    before = Path(path).read_bytes()
    (tmp_path / "link").symlink_to(path)
    for output in (path, str(tmp_path / "link")):
        with pytest.raises(JournalError, match="would take its place"):
            export(path, "csv", output)
    assert Path(path).read_bytes() == before


def test_results_of_another_serializer_are_refused(journal: Make, file: Path) -> None:
    with pytest.raises(JournalError, match="kept as pickle, and only those kept as json"):
        export(journal(1, serializer="pickle"), "csv", str(file))
    assert not file.exists()


def test_a_result_that_is_no_json_is_refused(journal: Make, file: Path) -> None:
    with pytest.raises(JournalDamaged, match="the result of item 3 is no JSON"):
        export(journal(rows=[row(3, b"{")]), "csv", str(file))
    assert not file.exists()


def test_without_pyarrow_parquet_says_what_to_install(
    journal: Make, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r'pip install "aiomap\[parquet\]"'):
        export(journal(1), "parquet", str(file))
    assert not list(file.parent.glob("table*"))


# Parquet


def parquet(file: Path) -> Any:
    return pytest.importorskip("pyarrow.parquet").read_table(str(file))


def test_parquet_has_types_by_what_the_columns_hold(journal: Make, file: Path) -> None:
    pytest.importorskip("pyarrow")
    first = {"b": True, "i": 1, "f": 1, "s": "a", "l": [1, {"x": None}], "m": "text", "n": None, "big": 2**60}
    second = {"b": None, "i": -5, "f": 2.5, "s": "\ud800", "l": {"y": 2}, "m": 7, "n": None, "big": 2**70}
    assert export(journal(first, second), "parquet", str(file)) == 2
    read = parquet(file)
    assert [str(field.type) for field in read.schema] == [
        *("string", "int64", "int64", "timestamp[us, tz=UTC]", "double"),
        *("bool", "int64", "double", "string", "string", "string", "string", "string"),
    ]
    rows = read.to_pylist()
    assert [each["key"] for each in rows] == ["id 0", "id 1"]
    assert [each["index"] for each in rows] == [0, 1]
    assert [each["elapsed"] for each in rows] == [0.25, 0.25]
    assert rows[0]["started"].timestamp() == STARTED / 1e6
    assert [each["b"] for each in rows] == [True, None]
    assert [each["i"] for each in rows] == [1, -5]
    assert [each["f"] for each in rows] == [1.0, 2.5]
    assert [each["s"] for each in rows] == ["a", "\\ud800"]
    assert [json.loads(each["l"]) for each in rows] == [[1, {"x": None}], {"y": 2}]
    assert [json.loads(each["m"]) for each in rows] == ["text", 7]
    assert [each["n"] for each in rows] == [None, None]
    assert [json.loads(each["big"]) for each in rows] == [2**60, 2**70]


def test_parquet_never_rounds_an_int(journal: Make, file: Path) -> None:
    pytest.importorskip("pyarrow")
    export(journal({"a": 2**53 + 1, "b": 2**53 + 1}, {"a": 1, "b": 0.5}), "parquet", str(file))
    assert parquet(file)["a"].to_pylist() == [2**53 + 1, 1]
    assert parquet(file)["b"].to_pylist() == [str(2**53 + 1), "0.5"]


def test_parquet_has_other_results_as_json(journal: Make, file: Path) -> None:
    pytest.importorskip("pyarrow")
    export(journal({"a": 1}, "text", None), "parquet", str(file))
    assert parquet(file)["value"].to_pylist() == [None, '"text"', "null"]
    assert parquet(file)["a"].to_pylist() == [1, None, None]


def test_parquet_is_written_in_batches(journal: Make, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    path = journal(*[{"n": number, "text": "x" * (number % 50 * 10)} for number in range(200)])
    monkeypatch.setattr(export_module, "_BATCH_ROWS", 30)
    monkeypatch.setattr(export_module, "_BATCH_BYTES", 5000)
    assert export(path, "parquet", str(file)) == 200
    read = pytest.importorskip("pyarrow.parquet").ParquetFile(str(file))
    groups = [read.metadata.row_group(number).num_rows for number in range(read.num_row_groups)]
    assert sum(groups) == 200
    assert max(groups) == 30
    assert len(groups) > 200 / 30 + 1
    assert parquet(file)["n"].to_pylist() == list(range(200))


def test_parquet_goes_to_standard_output_too(
    journal: Make, file: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    pytest.importorskip("pyarrow")
    export(journal({"a": 1}), "parquet", "-")
    file.write_bytes(capfdbinary.readouterr().out)
    assert parquet(file)["a"].to_pylist() == [1]


@pytest.mark.parametrize("to", ["csv", "parquet", "jsonl"])
def test_a_journal_without_successes_is_an_empty_table(journal: Make, file: Path, to: Any) -> None:
    if to == "parquet":
        pytest.importorskip("pyarrow")
    assert export(journal(rows=[row(0, b"", SKIPPED)]), to, str(file)) == 0
    assert file.exists()
