"""Promises 25 and 27, the file: what was appended is there, whoever opens it next; what is no journal is refused."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aiomap.errors import JournalDamaged, JournalError, JournalLocked
from aiomap.journal.file import JournalFile
from aiomap.journal.reading import identity_of, read_rows
from aiomap.journal.rows import DONE, FAILED, SKIPPED, Row
from aiomap.journal.salvage import Report, check, repair

ME = {"function": "module.fetch", "serializer": "json"}


def row(name: bytes | str, state: int = DONE, body: bytes = b"1", *, occurrence: int = 0, **other: Any) -> Row:
    key = (name if isinstance(name, bytes) else name.encode()).rjust(16, b".")
    return (
        key,
        occurrence,
        state,
        other.get("position", 0),
        other.get("attempts", 1),
        other.get("started", 1_764_156_600_123_456),
        other.get("elapsed", 100_000),
        other.get("label"),
        body,
    )


# One of everything that a row may hold.
ROWS = [
    row("plain"),
    row("skipped", SKIPPED, b""),
    row("failed", FAILED, b'{"type":"ValueError","message":""}', attempts=4),
    row("label", label='["a, b", "\\u00e9"]', position=2**40),
    row("wide", label="é-,'\""),
    row("empty label", label=""),
    row(bytes(16), body=bytes(range(256)), elapsed=0, started=0),
    row("again", occurrence=1),
    row("again", occurrence=2**32 - 1),
    row("before 1970", started=-1, elapsed=1),
    row("now", started=1_764_156_600_123_456, elapsed=1_234_567),
    row("long ago", started=-(2**63), elapsed=2**63 - 1),
    row("long", body=b"," * 100_000),
]


@contextmanager
def opened(path: Path | str, *, begin: bool = True, anew: bool = False) -> Iterator[JournalFile]:
    file = JournalFile(str(path))
    file.open()
    try:
        if begin:
            file.begin(ME, anew=anew)
        yield file
    finally:
        file.close({})


def known(file: JournalFile, *, failures: bool = False) -> dict[bytes, int]:
    return file.known(failures=failures, stop=lambda: False)


def create(path: Path | str, rows: list[Row] | None = None) -> None:
    with opened(path) as file:
        file.append(ROWS if rows is None else rows)


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.db"


def test_a_new_journal_knows_nothing_and_is_private(path: Path) -> None:
    with opened(path, begin=False) as file:
        assert file.identity is None
        assert known(file, failures=True) == {}
        assert file.recall([]) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with database(path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (0x61696F6D,)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_nothing_is_touched_before_open(path: Path) -> None:
    JournalFile(str(path / "none")).close({})
    assert not path.exists()


def test_rows_come_back_as_they_were_in_the_same_sitting_and_in_the_next(path: Path) -> None:
    backwards = list(range(len(ROWS), 0, -1))
    with opened(path) as file:
        assert file.append(ROWS[:4]) == 4
        assert file.append(ROWS[4:]) == len(ROWS)
        assert file.recall(backwards) == ROWS[::-1]
    with opened(path) as file:
        assert file.identity == ME
        assert file.recall([*backwards, 2, 2]) == [*ROWS[::-1], ROWS[1], ROWS[1]]
        assert [file.recall([number])[0] for number in backwards] == ROWS[::-1]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 31, 287, 2048, 2341, 5000])
def test_any_number_of_rows_is_one_transaction(path: Path, count: int) -> None:
    rows = [row(b"%016d" % number, body=b"%d" % number, position=number) for number in range(count)]
    with opened(path) as file:
        assert file.append(rows) == count
        assert file.recall(range(1, count + 1)) == rows
        assert known(file) == {b"%016d" % number: number + 1 for number in range(count)}


def test_an_older_sqlite_takes_fewer_at_once(path: Path) -> None:
    rows = [row(b"%016d" % number) for number in range(3000)]
    with opened(path) as file:
        assert file._connection is not None
        file._connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
        file.append(rows)
        assert file.recall(range(1, 3001)) == rows


def test_a_result_of_nothing_is_recorded_too(path: Path) -> None:
    with opened(path) as file:
        assert file.append([]) == 0
        assert file.append(ROWS[:1]) == 1


def test_a_thread_beside_a_busy_loop_takes_few_steps_for_many_rows(path: Path) -> None:
    # Each statement may cost 5 ms there, whatever it does.
    chance = Random(1)
    rows = [
        row(chance.randbytes(16), started=chance.randrange(2**51), elapsed=chance.randrange(10**9), label=label)
        for label in [None, '"label"'] * 2048
    ]
    with opened(path) as file:
        steps = list[str]()
        assert file._connection is not None
        file._connection.set_trace_callback(steps.append)
        file.append(rows)
        assert len(steps) == 4
        assert len(known(file)) == len(rows)
        assert file.recall(range(1, len(rows) + 1)) == rows
        assert len(steps) <= 4 + 1 + 8


def test_large_results_come_back_one_by_one(path: Path) -> None:
    rows = [row("small"), *(row(f"{number}", body=bytes([number]) * 3_000_000) for number in range(4))]
    with opened(path) as file:
        file.append(rows)
        assert file.recall([5, 1, 2, 4, 3]) == [rows[index] for index in (4, 0, 1, 3, 2)]


def test_known_are_the_done_and_the_skipped_and_the_failed_if_asked_for(path: Path) -> None:
    create(path)
    names = {key if not occurrence else key + occurrence.to_bytes(4, "big"): (number, state)
             for number, (key, occurrence, state, *_) in enumerate(ROWS, 1)}  # fmt: skip
    with opened(path) as file:
        assert known(file, failures=True) == {name: number for name, (number, _) in names.items()}
        assert known(file) == {name: number for name, (number, state) in names.items() if state != FAILED}


@pytest.mark.parametrize(
    ("states", "latest", "with_failures"),
    [
        ([FAILED, DONE], 2, 2),
        ([DONE, FAILED], None, 2),
        ([FAILED, FAILED, SKIPPED], 3, 3),
        ([DONE, DONE], 2, 2),
        ([DONE, FAILED, DONE, FAILED], None, 4),
    ],
)
def test_the_latest_row_of_a_key_decides(path: Path, states: list[int], latest: int | None, with_failures: int) -> None:
    with opened(path) as file:
        for state in states:
            file.append([row("key", state)])
        key = row("key")[0]
        assert known(file).get(key) == latest
        assert known(file, failures=True) == {key: with_failures}
    assert [(number, state) for number, (_, _, state, *_) in read_rows(str(path))] == [(with_failures, states[-1])]


def test_rows_from_before_a_change_do_not_count_from_then_on(path: Path) -> None:
    create(path, [row("a"), row("b")])
    with opened(path, anew=True) as file:
        assert known(file) == {}
        assert file.append([row("b", body=b"2")]) == 3
        assert known(file) == {row("b")[0]: 3}
    with opened(path) as file:
        assert known(file) == {row("b")[0]: 3}
    assert list(read_rows(str(path))) == [(3, row("b", body=b"2"))]


def test_loading_stops_when_it_is_told_to(path: Path) -> None:
    create(path)
    with opened(path) as file:
        assert file.known(failures=True, stop=lambda: True) == {}


def test_the_identity_is_that_of_the_last_sitting(path: Path) -> None:
    create(path)
    with opened(path, begin=False) as file:
        assert file.identity == ME
        file.begin({"function": "other"}, anew=False)
        assert file.identity == {"function": "other"}
    assert identity_of(str(path)) == {"function": "other"}


def test_a_sitting_says_how_it_ended(path: Path) -> None:
    with opened(path) as file:
        file.close({"done": 3})
        file.close({"done": 4})
    with database(path) as connection:
        bodies = [body for (body,) in connection.execute("SELECT body FROM sitting ORDER BY id")]
    assert len(bodies) == 2
    assert '"closes": 1' in bodies[1]
    assert '"counts": {"done": 3}' in bodies[1]


def test_nothing_stands_beside_a_closed_journal_but_its_lock(path: Path) -> None:
    create(path)
    list(read_rows(str(path)))
    assert check(str(path)).ok
    assert sorted(each.name for each in path.parent.iterdir()) == ["run.db", "run.db.lock"]


@pytest.mark.parametrize("use", [
    lambda file: file.append(ROWS),
    lambda file: file.begin(ME, anew=False),
    lambda file: file.recall([1]),
])  # fmt: skip
def test_a_closed_journal_takes_and_gives_nothing(path: Path, use: Callable[[JournalFile], object]) -> None:
    create(path)
    with opened(path) as file:
        file.close(None)
        with pytest.raises(JournalError, match="it is not open, in this process"):
            use(file)


def test_an_id_that_no_row_has_is_damage(path: Path) -> None:
    create(path)
    with opened(path) as file, pytest.raises(JournalDamaged, match="row 14 is not as it was written"):
        file.recall([1, 14])


@pytest.mark.parametrize(
    "name", ["a b.db", "50%.db", "what?.db", "a#b.db", "%41.db", "run\u00e9\u4e2d.db", "x&y=z;.db"]
)
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    create(path)
    assert [each for _, each in read_rows(str(path))] == ROWS
    assert check(str(path)) == Report(len(ROWS), ())
    assert repair(str(path), str(tmp_path / f"new {name}")).ok
    names = {name, f"{name}.lock", f"new {name}", f"new {name}.lock"}
    assert {each.name for each in tmp_path.iterdir()} == names


def test_a_relative_path_is_of_the_folder_at_the_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    create("run.db")
    assert identity_of("run.db") == identity_of(str(path)) == ME


def test_a_journal_is_open_once_in_a_process(path: Path) -> None:
    with opened(path) as file:
        with pytest.raises(JournalLocked, match="in use by this process, since"), opened(path):
            pass
        file.append(ROWS)
    create(path)


def test_a_link_is_the_journal_that_it_points_to(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    with opened(link), pytest.raises(JournalLocked), opened(path):
        pass
    assert not link.with_name("link.db.lock").exists()
    with opened(path), pytest.raises(JournalLocked), opened(link):
        pass


OTHER = """
import sys
from aiomap.journal.file import JournalFile
file = JournalFile(sys.argv[1])
file.open()
file.begin({}, anew=False)
file.append([(b"k" * 16, 0, 1, 0, 1, 1, 0, None, b"1")])
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(path: Path, program: str = OTHER) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


def test_two_processes_do_not_write_and_the_second_goes_on_where_the_first_was_killed(path: Path) -> None:
    with other_process(path) as process:
        with pytest.raises(JournalLocked, match=f"in use by process {process.pid} on "), opened(path):
            pass
        process.kill()
        process.wait()
        with opened(path) as file:
            assert known(file) == {b"k" * 16: 1}
            assert file.append(ROWS) == len(ROWS) + 1
    assert check(str(path)) == Report(len(ROWS) + 1, ())


FORK = OTHER.replace(
    'print("open", flush=True)',
    """
import os
from aiomap.errors import JournalError
if os.fork():
    os._exit(0)
try:
    file.append([(b"j" * 16, 0, 1, 0, 1, 1, 0, None, b"1")])
except JournalError as error:
    print("open" if "in this process" in str(error) else error, flush=True)
""",
)


def test_a_forked_child_writes_nothing_and_holds_nobody_up(path: Path) -> None:
    with other_process(path, FORK) as process:
        process.wait()
        with opened(path) as file:
            assert known(file) == {b"k" * 16: 1}
            file.append(ROWS)
        assert check(str(path)).ok


def test_readers_see_what_is_committed_while_a_writer_has_it_open(path: Path) -> None:
    with opened(path) as file:
        assert list(read_rows(str(path))) == []
        file.append(ROWS[:5])
        rows = read_rows(str(path))
        assert next(rows) == (1, ROWS[0])
        file.append(ROWS[5:])
        assert len(list(rows)) == 4  # one state of it
        assert len(list(read_rows(str(path)))) == len(ROWS)
        assert identity_of(str(path)) == ME
        assert check(str(path)) == Report(len(ROWS), ())
        with pytest.raises(JournalLocked):
            repair(str(path), str(path) + ".new")
    assert not Path(str(path) + ".new").exists()


def test_a_reader_that_is_left_in_the_middle_keeps_nothing_open(path: Path) -> None:
    create(path)
    rows = read_rows(str(path))
    next(rows)
    del rows
    create(path)
    assert sorted(each.name for each in path.parent.iterdir()) == ["run.db", "run.db.lock"]


def test_a_writer_that_ends_before_its_reader_waits_for_nobody_and_loses_nothing(path: Path) -> None:
    with opened(path) as file:
        file.append(ROWS)
        rows = read_rows(str(path))
        next(rows)
    assert len(list(rows)) == len(ROWS) - 1
    with opened(path) as file:
        assert file.recall(range(1, len(ROWS) + 1)) == ROWS


def test_a_run_that_begins_under_a_reader_gives_it_no_wrong_row(path: Path) -> None:
    many = [row(b"%016d" % number, body=bytes(1000)) for number in range(5000)]
    create(path, many)
    reader = read_rows(str(path))
    assert next(reader) == (1, many[0])
    with opened(path, anew=True) as file:
        file.append(many)
    try:
        assert [each for _, each in reader] == many[1:]
    except JournalError as error:
        assert error.reason == "a run began while it was read: read it again"  # noqa: PT017  (it may, and need not)


def test_a_database_that_a_run_changes_under_a_reader_is_not_called_damaged(path: Path) -> None:
    create(path, [row(b"%016d" % number, body=bytes(1000)) for number in range(5000)])
    reader = read_rows(str(path))
    next(reader)
    with opened(path), path.open("r+b") as content:  # as if it had brought much into the database
        content.seek(4096)
        content.write(bytes(path.stat().st_size - 4096))
        with pytest.raises(JournalError, match="a run began while it was read: read it again"):
            list(reader)


def test_a_reader_of_a_closed_journal_writes_nothing_beside_it(path: Path) -> None:
    create(path)
    rows = read_rows(str(path))
    next(rows)
    assert sorted(each.name for each in path.parent.iterdir()) == ["run.db", "run.db.lock"]
    rows.close()  # type: ignore[attr-defined]


def nothing(path: Path) -> None:
    path.touch()


def only_wal(path: Path) -> None:
    with database(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    assert path.stat().st_size > 0


def tables_that_were_not_committed(path: Path) -> None:
    with database(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE outcome(id)")
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("killed", [nothing, only_wal, tables_that_were_not_committed])
def test_a_journal_whose_maker_was_killed_is_a_new_one(path: Path, killed: Callable[[Path], None]) -> None:
    killed(path)
    assert list(read_rows(str(path))) == []
    assert check(str(path)) == Report(0, ())
    with pytest.raises(JournalError, match="no run has begun in it"):
        identity_of(str(path))
    with opened(path, begin=False) as file:
        assert file.identity is None
    create(path)
    assert check(str(path)).ok


def test_a_journal_whose_first_sitting_was_killed_before_it_began_is_a_new_one(path: Path) -> None:
    with opened(path, begin=False):
        pass
    assert list(read_rows(str(path))) == []
    with pytest.raises(JournalError, match="no run has begun in it"):
        identity_of(str(path))
    with opened(path, begin=False) as file:
        assert file.identity is None


def statement(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        create(path)
        with database(path) as connection:
            for each in statements:
                connection.execute(each)

    return change


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def text(path: Path) -> None:
    path.write_text("a precious text file\n" * 100)


def other_database(path: Path) -> None:
    with database(path) as connection:
        connection.execute("CREATE TABLE precious(id)")


@pytest.mark.parametrize(
    ("make", "kind", "sentence"),
    [
        (folder, JournalError, "it is a folder: give the name of a file in it"),
        (pipe, JournalError, "it is no regular file: use another path"),
        (text, JournalDamaged, "file is not a database: `Journal(path).check()` says"),
        (other_database, JournalError, "it is another application's database, and is left as it is: use another path"),
        (statement("PRAGMA application_id=7"), JournalError, "it is another application's database"),
        (
            statement("PRAGMA user_version=2"),
            JournalError,
            "it was made by a newer aiomap (format 2): upgrade aiomap, or use another path",
        ),
        (statement("PRAGMA user_version=0"), JournalDamaged, "its format is 0, which no aiomap has made: "),
        (
            statement("CREATE TRIGGER outcome AFTER INSERT ON outcome BEGIN UPDATE outcome SET state = 1; END"),
            JournalDamaged,
            "its tables are not those of a journal: ",
        ),
        (statement("CREATE VIEW v AS SELECT 1"), JournalDamaged, "its tables are not those of a journal: "),
        (statement("CREATE INDEX i ON outcome(key)"), JournalDamaged, "its tables are not those of a journal: "),
        (statement("CREATE TABLE more(id)"), JournalDamaged, "its tables are not those of a journal: "),
        (statement("DROP TABLE sitting"), JournalDamaged, "its tables are not those of a journal: "),
        (statement("ALTER TABLE outcome ADD COLUMN x"), JournalDamaged, "its tables are not those of a journal: "),
        (statement("DELETE FROM outcome WHERE id = 2"), JournalDamaged, "12 rows, and they are numbered from 1 to 13"),
        (statement("DELETE FROM outcome WHERE id = 1"), JournalDamaged, "12 rows, and they are numbered from 2 to 13"),
        (statement("DELETE FROM sitting WHERE id = 1"), JournalDamaged, "sitting 1 is not as it was written"),
        (
            statement("UPDATE sitting SET body = replace(body, 'fetch', 'evil')"),
            JournalDamaged,
            "sitting 1 is not as it was written",
        ),
        (statement("UPDATE sitting SET crc = crc + 1 WHERE id = 2"), JournalDamaged, "sitting 2 is not as"),
        (statement("UPDATE sitting SET body = 7"), JournalDamaged, "sitting 1 is not as it was written"),
    ],
)  # fmt: skip
def test_what_is_no_journal_as_it_was_written_is_refused_and_left_as_it_is(
    path: Path, make: Callable[[Path], None], kind: type[JournalError], sentence: str
) -> None:
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    file = JournalFile(str(path))
    with pytest.raises(JournalError) as caught:
        file.open()
    assert type(caught.value) is kind
    assert sentence in caught.value.reason
    assert caught.value.path == str(path)
    if kind is JournalDamaged:
        assert "`Journal(path).repair(into=...)` saves what is whole, or use another path" in caught.value.reason
    assert (path.read_bytes() if path.is_file() else b"") == before
    file.close({})
    with pytest.raises(JournalError):  # and not JournalLocked: nothing was left behind
        file.open()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "run.db"
    sentence = f"the folder {path.parent} does not exist: create it, or use another path"
    for use in (lambda: JournalFile(str(path)).open(), lambda: check(str(path)), lambda: list(read_rows(str(path)))):
        with pytest.raises(JournalError) as caught:
            use()
        assert caught.value.reason == sentence
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "look", [check, identity_of, lambda path: list(read_rows(path)), lambda path: repair(path, path + "2")]
)
def test_a_reader_creates_nothing(path: Path, look: Callable[[str], object]) -> None:
    with pytest.raises(JournalError, match="there is no such file"):
        look(str(path))
    assert not path.exists()
    assert not Path(str(path) + "2").exists()


@pytest.mark.parametrize("look", [check, identity_of, lambda path: list(read_rows(path))])
@pytest.mark.parametrize("make", [folder, text, other_database, statement("PRAGMA user_version=2")])
def test_a_reader_reads_journals_only(path: Path, make: Callable[[Path], None], look: Callable[[str], object]) -> None:
    make(path)
    with pytest.raises(JournalError, match=r"folder|not a database|another application|newer aiomap"):
        look(str(path))


def test_rows_that_a_disk_forgot_are_told_and_run_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    create(path)
    with database(path) as connection:
        connection.execute("DELETE FROM outcome WHERE id > 10")
    assert check(str(path)) == Report(10, ("rows 11 to 13: missing",))
    with opened(path) as file:
        assert len(known(file, failures=True)) == 10
        assert file.append([row("new")]) == 11
    assert [(each.name, each.levelno) for each in caplog.records] == [("aiomap.journal", logging.WARNING)]
    assert "the last 3 rows that were committed are gone" in caplog.text
    caplog.clear()
    create(path)
    assert not caplog.records


def test_a_file_that_lost_all_its_rows_is_not_taken_for_a_new_one_without_a_word(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create(path)
    path.write_bytes(b"")
    assert check(str(path)) == Report(0, ("rows 1 to 13: missing",))
    with opened(path) as file:
        assert known(file) == {}
    assert "the last 13 rows that were committed are gone" in caplog.text


def test_a_new_journal_does_not_miss_the_rows_of_one_that_was_deleted(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create(path)
    path.unlink()
    create(path, [row("a")])
    with opened(path) as file:
        assert len(known(file)) == 1
    assert not caplog.records


def test_a_failed_append_ends_the_use_of_the_file_and_loses_nothing_before_it(path: Path) -> None:
    create(path)
    with opened(path) as file:
        # Another writer, against all rules: what it wrote stays, and is not written over.
        with database(path) as connection:
            connection.execute("INSERT INTO outcome SELECT id + 13, key, 0, 1, 0, 1, 1, 1, NULL, body, 0 FROM outcome")
        with pytest.raises(JournalDamaged, match="UNIQUE constraint failed"):
            file.append(ROWS)
        with pytest.raises(JournalError, match="an earlier error has ended its use: start the run again"):
            file.append([row("next")])
        with pytest.raises(JournalError, match="an earlier error has ended its use"):
            file.begin(ME, anew=True)
    with opened(path) as file:
        assert file.recall(range(1, len(ROWS) + 1)) == ROWS


def test_an_append_that_fails_in_the_middle_leaves_no_part_of_it(path: Path) -> None:
    bad: Any = (*ROWS[0][:5], 0.5, *ROWS[0][6:])  # no integer
    with opened(path) as file:
        file.append(ROWS)
        with pytest.raises(struct.error):
            file.append([*ROWS * 300, bad])
    assert check(str(path)) == Report(len(ROWS), ())


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],  # noqa: S607  (of this machine)
        check=False,
        capture_output=True,
    )
    if mount.returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # noqa: S607  (the same)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_closed_journal_can_be_read_on_a_read_only_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "2m") as folder:
        path = folder / "run.db"
        create(path)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)  # noqa: S607  (of this machine)
        assert [each for _, each in read_rows(str(path))] == ROWS
        assert check(str(path)) == Report(len(ROWS), ())
        with pytest.raises(JournalError, match="it cannot be written: give this user permission"), opened(path):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_closed_journal_can_be_read_in_a_read_only_folder(path: Path) -> None:
    create(path)
    path.parent.chmod(0o500)
    try:
        assert len(list(read_rows(str(path)))) == len(ROWS)
        assert check(str(path)).ok
    finally:
        path.parent.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_told_and_what_was_recorded_is_safe(tmp_path: Path) -> None:
    committed = 0
    rows = [row(b"%016d" % number, body=bytes(1000)) for number in range(200)]
    with small_disk(tmp_path / "small", "2m") as folder:
        with opened(folder / "run.db") as file:
            with pytest.raises(
                JournalError, match="the disk is full: free some space and run again; what was recorded"
            ):
                for _ in range(100):
                    committed = file.append(rows)
            with pytest.raises(JournalError, match="an earlier error has ended its use"):
                file.append(rows)
        assert committed >= 400
        with pytest.raises(JournalError, match="disk is full"):
            repair(str(folder / "run.db"), str(folder / "new.db"))
        assert not [each.name for each in folder.iterdir() if "draft" in each.name]
        assert not (folder / "new.db").exists()
        for each in folder.iterdir():
            (tmp_path / each.name).write_bytes(each.read_bytes())
    with opened(tmp_path / "run.db") as file:
        assert file.recall(range(1, committed + 1)) == rows * (committed // 200)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full_from_the_start_is_told_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "64k") as folder:
        (folder / "rest").write_bytes(bytes(40_000))
        file = JournalFile(str(folder / "run.db"))
        with pytest.raises(JournalError, match="the disk is full: free some space and run again"):
            file.open()
            file.begin(ME, anew=False)
            file.append(ROWS)
        file.close({})
        (folder / "rest").unlink()
