"""`aiomap status`, `errors`, `check` and `export`: what a job has come to, in words and as JSON."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from aiomap import SKIP, Journal, amap
from aiomap.cli.commands import aiomap
from aiomap.cli.out_file import OutFile
from aiomap.inputs import Entry
from aiomap.journal.lock import FileLock

COMMANDS: list[tuple[str, ...]] = [
    ("status",),
    ("status", "--json"),
    ("errors",),
    ("errors", "--json"),
    ("check",),
    ("export", "--to", "jsonl"),
    ("export", "--to", "csv"),
]


class Failure(Exception):
    def __init__(self, message: str, kind: object = None) -> None:
        super().__init__(message)
        self.kind = kind


class Told:
    """What a command wrote, and its exit code."""

    def __init__(self, out: str, err: str, code: int) -> None:
        self.out, self.err, self.code = out, err, code

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def told(*arguments: str | Path) -> Told:
    """As `python -m aiomap` has it: an exit code is returned, a ClickException is shown."""
    result = CliRunner().invoke(aiomap, [*map(str, arguments)], standalone_mode=False)
    if isinstance(result.exception, click.ClickException):
        return Told(result.stdout, result.exception.format_message(), result.exception.exit_code)
    if result.exception is not None:
        raise result.exception
    return Told(result.stdout, result.stderr, result.return_value)


async def act(entry: Entry) -> Any:
    """Does what the item says."""
    if isinstance(entry.item, Exception):
        raise entry.item
    return entry.item


def job(folder: Path, items: Sequence[Any], keys: Sequence[Any] = (), version: Any = 1) -> Path:
    """A job with these results, and failures where an item is an exception; returns its OUT."""
    output = folder / "out.jsonl"
    entries = [Entry(n, n + 1, item, keys[n] if keys else f"key {n}", None) for n, item in enumerate(items)]
    journal = Journal(f"{output}.run", key=lambda entry: entry.key, version=version)

    async def sit() -> None:
        await amap(act, entries, 1, on_error="skip", journal=journal)

    asyncio.run(sit())
    out = OutFile(str(output), f"{output}.run")
    out.repair()
    out.close()
    return output


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made_once")
    job(folder, ["a", "b", "c"])
    return folder


@pytest.fixture
def abc(made_once: Path, tmp_path: Path) -> Path:
    """The OUT of a job with three results, `a`, `b` and `c`: a copy, to be changed."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out.jsonl"


@contextmanager
def running(output: Path) -> Generator[None]:
    """A run holds the journal."""
    lock = FileLock(f"{output}.run")
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def damage(output: Path) -> None:
    """A result is another than what was written."""
    with sqlite3.connect(f"{output}.run") as connection:
        connection.execute("UPDATE outcome SET body = '\"other\"' WHERE id = 2")
    connection.close()


def test_status_says_in_words_how_far_it_has_come(tmp_path: Path) -> None:
    output = job(tmp_path, ["a", "b", SKIP, ValueError("x"), ValueError("y"), TimeoutError("slow")])
    status = told("status", output)
    assert status.code == 0
    assert status.lines[:3] == [
        f"{output}: 2 done, 3 failed, 1 skipped",
        "          2  ValueError",
        "          1  timeout",
    ]
    assert re.fullmatch(r"  \S*act, sitting 1 began \d{4}-\d\d-\d\d \d\d:\d\d:\d\d; not running", status.lines[3])
    assert len(status.lines) == 4


def test_status_is_one_line_of_json_on_demand(tmp_path: Path) -> None:
    before = time.time()
    output = job(tmp_path, ["a", SKIP, ValueError("x"), TimeoutError("slow"), ValueError("y")])
    job(tmp_path, ["a", SKIP])
    status = told("status", output, "--json")
    (line,) = status.lines
    given = json.loads(line)
    assert before - 1 <= given.pop("since") <= time.time()
    assert given.pop("function").endswith("act")
    assert given == {
        "done": 1,
        "failed": 3,
        "skipped": 1,
        "failures": {"ValueError": 2, "timeout": 1},
        "sittings": 2,
        "running": False,
    }


def test_status_says_that_a_run_is_on(abc: Path) -> None:
    output = abc
    with running(output):
        assert told("status", output).lines[-1].endswith("; running now")
        assert json.loads(told("status", output, "--json").out)["running"] is True
    assert json.loads(told("status", output, "--json").out)["running"] is False


def test_a_failure_that_succeeded_later_is_none_any_more(tmp_path: Path) -> None:
    job(tmp_path, ["a", ValueError("x")])
    output = job(tmp_path, ["a", "b"])
    assert told("status", output).lines[0] == f"{output}: 2 done, 0 failed, 0 skipped"
    assert told("errors", output).lines == [f"aiomap: {output} has no failures"]
    assert told("errors", output, "--json").out == ""
    assert told("check", output).code == 0


def test_status_of_an_empty_job_is_no_error(tmp_path: Path) -> None:
    output = job(tmp_path, [])
    assert told("status", output).lines[0] == f"{output}: 0 done, 0 failed, 0 skipped"


@pytest.mark.parametrize(
    "messages",
    [
        ["row 1", "row 23", "row 456"],
        ["no key 'a'", "no key 'b c'"],
        ['no key "a"', 'no key ""'],
        ["cannot get http://a.example/x?y", "cannot get https://b.example/", "cannot get http://1"],
        ["'a' at 7 of http://a/", "'b' at 12 of http://b/"],
    ],
)
def test_messages_that_differ_in_numbers_quoted_names_or_links_are_one_group(
    tmp_path: Path, messages: list[str]
) -> None:
    output = job(tmp_path, [ValueError(message) for message in messages])
    assert told("errors", output).lines == [
        f"        {len(messages)}  ValueError: {messages[0]}",
        '           as for "key 0" (index 0)',
        "to run them again, add to the command:  --retry-failed ValueError",
    ]


def test_other_messages_and_other_classes_are_groups_of_their_own_the_largest_first(tmp_path: Path) -> None:
    items = [ValueError("odd"), KeyError(1), KeyError(2), TimeoutError("odd"), KeyError(3), ValueError("even")]
    items += [TimeoutError("odd")]
    errors = told("errors", job(tmp_path, items))
    assert errors.code == 0
    assert errors.lines == [
        "        3  KeyError: 1",
        '           as for "key 1" (index 1)',
        "        2  timeout: odd",
        '           as for "key 3" (index 3)',
        "        1  ValueError: odd",
        '           as for "key 0" (index 0)',
        "        1  ValueError: even",
        '           as for "key 5" (index 5)',
        "to run them again, add to the command:  --retry-failed KeyError,timeout,ValueError",
    ]


def test_twenty_groups_are_shown_and_all_of_them_are_json(tmp_path: Path) -> None:
    output = job(tmp_path, [ValueError("x" * (n + 1)) for n in range(23)])
    errors = told("errors", output)
    assert len(errors.lines) == 2 * 20 + 2
    assert errors.lines[-2] == "           and 3 more kinds; --json has them all"
    groups = [json.loads(line) for line in told("errors", output, "--json").lines]
    assert [(group["example"], group["count"]) for group in groups] == [("x" * (n + 1), 1) for n in range(23)]
    assert {(group["class"], group["type"]) for group in groups} == {("ValueError", "ValueError")}
    assert [group["index"] for group in groups] == list(range(23))


def test_a_long_message_and_a_long_key_are_cut_in_words_alone(tmp_path: Path) -> None:
    output = job(tmp_path, [ValueError("m" * 500)], ["k" * 500])
    errors = told("errors", output)
    assert errors.lines[0] == f"        1  ValueError: {'m' * 100}"
    assert len(errors.lines[1]) < 150
    assert json.loads(told("errors", output, "--json").out)["example"] == "m" * 500


def test_hostile_texts_are_shown_but_do_nothing(tmp_path: Path) -> None:
    hostile = "\x1b[2J\x1b]0;title\x07\r\n\u202egnp \x9b"
    items = [Failure(hostile, f"kind{hostile}"), ValueError(hostile)]
    output = job(tmp_path, items, [hostile, "key 1"])
    for command in COMMANDS[:-2]:
        text = told(*command, output)
        assert text.code == 0
        assert [line for line in text.out.split("\n") if not line.isprintable()] == []
    groups = [json.loads(line) for line in told("errors", output, "--json").lines]
    assert groups[1]["example"] == hostile


def test_a_hostile_name_of_a_file_is_shown_but_does_nothing(tmp_path: Path) -> None:
    name = tmp_path / "\x1b[31m.jsonl"
    for command in COMMANDS:
        assert "\x1b" not in told(*command, name).err
    output = job(tmp_path, ["a"])
    shutil.copy(output, name)
    shutil.copy(f"{output}.run", f"{name}.run")
    for word in ("status", "errors", "check"):
        assert told(word, name).code == 0
        assert "\x1b" not in told(word, name).out


def test_a_secret_at_the_end_of_a_key_leaves_the_key_its_quote(tmp_path: Path) -> None:
    output = job(tmp_path, [ValueError("no")], ["http://host/?api_key=hush"])
    assert 'as for "http://host/?api_key=***" (index 0)' in told("errors", output).out


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    output = job(tmp_path, [ValueError("from http://me:hush@host/?token=hush")])
    assert "hush" not in told("errors", output).out + told("errors", output, "--json").out


def test_check_says_that_all_is_as_it_was_written(tmp_path: Path) -> None:
    check = told("check", job(tmp_path, ["a", "b", ValueError("x")]))
    assert (check.code, check.out, check.err) == (0, "aiomap: 3 rows, all as they were written\n", "")


def test_check_takes_out_in_the_order_of_the_input_too(tmp_path: Path) -> None:
    job(tmp_path, ["a", ValueError("x"), "c", ValueError("y")])
    output = job(tmp_path, ["a", "b", "c", ValueError("y")])
    recorded = output.read_text()
    in_order = "".join(sorted(recorded.splitlines(True), key=lambda line: json.loads(line)["index"]))
    assert recorded != in_order
    for text in (recorded, in_order):
        output.write_text(text)
        assert told("check", output).code == 0
    for text in (recorded, in_order):
        output.write_text(text[:-5])
        assert "from line 3 on" in told("check", output).err


def replacing(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda text: text.replace(old, new)


def followed_by(more: bytes) -> Callable[[bytes], bytes]:
    return lambda text: text + more


def cut_by(count: int) -> Callable[[bytes], bytes]:
    return lambda text: text[:-count]


def backwards(text: bytes) -> bytes:
    return b"".join(text.splitlines(True)[::-1])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (replacing(b'"b"', b'"B"'), 2),
        (cut_by(5), 3),
        (cut_by(1), 3),
        (followed_by(b"\n"), 4),
        (followed_by(b"\xff\x00"), 4),
        (cut_by(10_000), 1),
        (backwards, 1),
        (replacing(b"\n", b"\r\n"), 1),
    ],
    ids=[
        "another value",
        "torn",
        "no last newline",
        "blank line",
        "garbage",
        "empty",
        "backwards",
        "of another system",
    ],
)
def test_check_finds_where_out_is_not_what_its_journal_gives(
    abc: Path, change: Callable[[bytes], bytes], line: int
) -> None:
    output = abc
    output.write_bytes(change(output.read_bytes()))
    check = told("check", output)
    assert check.code == 1
    assert check.err == f"aiomap: {output} is not what its journal gives, from line {line} on: run it again\n"
    assert check.out == "aiomap: 3 rows, not all is well\n"


def test_check_without_out_says_so(abc: Path) -> None:
    output = abc
    output.unlink()
    check = told("check", output)
    assert (check.code, check.err) == (1, f"aiomap: {output} cannot be read: No such file or directory\n")


def test_check_of_a_job_in_which_nothing_was_begun_finds_nothing_wrong(tmp_path: Path) -> None:
    output = job(tmp_path, [])
    with sqlite3.connect(f"{output}.run") as database:
        database.execute("DELETE FROM sitting")
    database.close()
    assert told("check", output).code == 0


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job that saved five files, as `fetch` does; returns their folder, which is named from where it was typed."""
    monkeypatch.chdir(tmp_path)
    pages = tmp_path / "pages"
    pages.mkdir()
    for number in range(5):
        (pages / f"{number}.html").write_bytes(b"hello")
    values = [{"url": "x", "bytes": 5, "file": f"{number}.html"} for number in range(5)]
    job(tmp_path, [*values, {"url": "of another", "file": None}, ValueError("x")], version='{"save": "pages"}')
    return pages


def test_check_finds_saved_files_as_they_were_written(saved: Path) -> None:
    assert (told("check", "out.jsonl").code, len(list(saved.iterdir()))) == (0, 5)


def test_check_finds_saved_files_that_are_missing_or_of_another_size(saved: Path) -> None:
    for number in range(3):
        (saved / f"{number}.html").unlink()
    (saved / "4.html").write_bytes(b"hell")
    check = told("check", "out.jsonl")
    assert (check.code, check.out) == (1, "aiomap: 7 rows, not all is well\n")
    assert check.err == (
        "aiomap: of 5 files in pages, 4 missing or of another size than was saved: 0.html, 1.html, 2.html, ...\n"
    )


def test_check_says_if_the_folder_of_saved_files_is_not_there_from_here(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved)
    check = told("check", "../out.jsonl")
    assert check.code == 1
    assert check.err.startswith("aiomap: pages, the folder of --save, is not here: ")


@pytest.mark.parametrize("version", ["{", "[]", '{"save": 1}', '"save"'])
def test_check_takes_a_version_of_others_for_what_it_is(tmp_path: Path, version: str) -> None:
    assert told("check", job(tmp_path, [{"file": "a"}], version=version)).code == 0


def test_check_finds_a_row_that_is_not_as_it_was_written(abc: Path) -> None:
    output = abc
    damage(output)
    check = told("check", output)
    assert check.code == 1
    assert "row 2" in check.err
    assert "repair(into=" in check.err
    assert check.out.endswith(" rows, not all is well\n")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != ("check",)])
def test_a_damaged_row_is_refused_with_3(abc: Path, command: tuple[str, ...]) -> None:
    output = abc
    damage(output)
    refused = told(*command, output)
    assert refused.code == 3
    assert "row 2 is not as it was written" in refused.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_journal_that_cannot_be_read_is_refused_with_3(abc: Path, command: tuple[str, ...]) -> None:
    output = abc
    Path(f"{output}.run").write_bytes(b"garbage" * 1000)
    assert told(*command, output).code == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_journal_it_is_said_what_to_name_with_2(tmp_path: Path, command: tuple[str, ...]) -> None:
    refused = told(*command, tmp_path / "nothing.jsonl")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == (
        f"journal {tmp_path}/nothing.jsonl.run: there is no such file. "
        "Name the OUT of a job, as in  aiomap status out.jsonl"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_another_database_is_no_journal(tmp_path: Path, command: tuple[str, ...]) -> None:
    with sqlite3.connect(tmp_path / "out.jsonl.run") as connection:
        connection.execute("CREATE TABLE people (name TEXT)")
    connection.close()
    assert told(*command, tmp_path / "out.jsonl").code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_they_only_read(abc: Path, command: tuple[str, ...]) -> None:
    output = abc
    before = {path: path.read_bytes() for path in output.parent.iterdir()}
    with running(output):
        assert told(*command, output).code == 0
    after = {path: path.read_bytes() for path in output.parent.iterdir()}
    lock = Path(f"{output}.run.lock")
    assert {path: text for path, text in after.items() if path != lock} == {
        path: text for path, text in before.items() if path != lock
    }


def test_export_writes_the_results_to_standard_output_or_a_file(tmp_path: Path) -> None:
    output = job(tmp_path, [{"n": 1}, ValueError("x"), {"n": 2}])
    to_stdout = told("export", output, "--to", "jsonl")
    assert (to_stdout.code, to_stdout.out, to_stdout.err) == (0, output.read_text(), "")
    table = tmp_path / "out.csv"
    to_file = told("export", output, "--to", "csv", "-o", table)
    assert (to_file.code, to_file.out, to_file.err) == (0, "", f"aiomap: 2 rows in {table}\n")
    assert table.read_text().splitlines()[0] == "key,index,attempts,started,elapsed,n"


def test_export_is_safe_for_spreadsheets_on_demand(tmp_path: Path) -> None:
    output = job(tmp_path, [{"n": "=1+1"}])
    assert told("export", output, "--to", "csv").out.endswith(",=1+1\n")
    assert told("export", output, "--to", "csv", "--excel-safe").out.endswith(",'=1+1\n")


def test_export_that_makes_no_table_is_refused_with_2(tmp_path: Path) -> None:
    output = job(tmp_path, [{f"field {n}": 1 for n in range(1001)}])
    refused = told("export", output, "--to", "csv")
    assert refused.code == 2
    assert "more than 1,000 different fields" in refused.err


def test_export_where_nothing_can_be_written_fails_with_6(tmp_path: Path) -> None:
    output = job(tmp_path, ["a"])
    failed = told("export", output, "--to", "csv", "-o", tmp_path / "gone" / "out.csv")
    assert failed.code == 6
    assert "cannot be written: No such file or directory" in failed.err


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.run", "out.failed.jsonl", "a link", "a hard link"])
def test_export_over_a_file_of_the_job_itself_is_refused(abc: Path, name: str) -> None:
    folder = abc.parent
    (folder / "a link").symlink_to("out.failed.jsonl")
    (folder / "a hard link").hardlink_to(abc)
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.exists()}
    refused = told("export", abc, "--to", "csv", "-o", folder / name)
    assert refused.code == 2
    assert refused.err == (
        f"{folder / name} is a file of the job itself, which the export would overwrite: name another with -o"
    )
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.exists()} == before


def test_export_to_a_reader_who_went_away_ends_with_141(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("aiomap.cli.export.export", broken)
    ended = told("export", job(tmp_path, ["a"]), "--to", "csv")
    assert (ended.code, ended.out, ended.err) == (141, "", "")


def test_export_of_what_is_no_format_is_refused(tmp_path: Path) -> None:
    refused = told("export", tmp_path / "out.jsonl", "--to", "xml")
    assert refused.code == 2
    assert "'csv', 'parquet', 'jsonl'" in refused.err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("status", ["Usage: aiomap status [OPTIONS] OUT", "  aiomap status out.jsonl --json | jq .failed", "--json"]),
        (
            "errors",
            ["  aiomap run job.py:lookup ids.csv --id id -o out.jsonl --retry-failed timeout", "for each group"],
        ),
        ("check", ["Exit status: 0 it is, 1 it is not."]),
        ("export", ["  aiomap export out.jsonl --to parquet -o out.parquet", "--to [csv|parquet|jsonl]", "[required]"]),
        ("run", ["  aiomap run job.py:lookup ids.csv --id id -o out.jsonl", "Exit status: 0 all succeeded", "--halt"]),
    ],
)
def test_help_shows_how_it_is_used_line_by_line(command: str, words: list[str]) -> None:
    result = CliRunner().invoke(aiomap, [command, "--help"], prog_name="aiomap", terminal_width=120)
    assert result.exit_code == 0
    assert [word for word in words if word not in result.stdout] == []
    assert "\b" not in result.stdout
