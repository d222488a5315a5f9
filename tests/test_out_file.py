"""OUT and the journal never disagree: whatever became of OUT, after a repair it is what the journal gives."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aiomap import Journal
from aiomap.cli import out_file
from aiomap.cli.out_file import OutFile, Repaired, draft_of, key_text, line_of, rows_in_input_order, write_all, writing
from aiomap.cli.output import WriteFailed
from aiomap.errors import JournalDamaged, JournalError, JournalLocked
from aiomap.journal.file import JournalFile
from aiomap.journal.rows import DONE, FAILED, SKIPPED, Row
from tests.journal.test_file import database

pytestmark = pytest.mark.once

FAILURE = b'{"class":"ValueError","type":"ValueError","message":""}'


def row(number: int, state: int = DONE, *, index: int | None = None, **other: Any) -> Row:
    """The row of an item; every fifth has a long result, and they are recorded in another order than the input's."""
    text = "é\u2028" * (number * 41 if number % 5 == 0 else 1)
    bodies = {DONE: other.get("body", f'{{"n":{number},"text":"{text}"}}'.encode()), SKIPPED: b"", FAILED: FAILURE}
    position = number * 7 % 64 if index is None else index
    label = other.get("label", f'"id {number}"')
    return (
        number.to_bytes(16, "big"),
        0,
        state,
        position,
        1,
        1_764_156_600_000_000 + number,
        1000,
        label,
        bodies[state],
    )


def some(start: int, stop: int, **other: Any) -> list[Row]:
    """Of eight items one is skipped and one fails."""
    return [row(number, {3: SKIPPED, 6: FAILED}.get(number % 8, DONE), **other) for number in range(start, stop)]


@contextmanager
def sitting(path: Path, *, anew: bool = False) -> Iterator[JournalFile]:
    file = JournalFile(str(path))
    file.open()
    try:
        file.begin({"function": "module.fetch", "serializer": "json"}, anew=anew)
        yield file
    finally:
        file.close({})


def record(path: Path, rows: list[Row], *, anew: bool = False) -> None:
    with sitting(path, anew=anew) as file:
        if rows:
            file.append(rows)


def wanted(path: Path, *, by_index: bool = False) -> bytes:
    """What the journal gives, by another way than the code under test goes."""
    records = [record for record in Journal.read(path) if record.state == "done"]
    if by_index:
        records.sort(key=lambda record: record.index)
    return b"".join(
        f'{{"key":{record.key},"index":{record.index},"value":'
        f"{json.dumps(record.value, ensure_ascii=False, separators=(',', ':'))},"
        f'"attempts":{record.attempts},"started":{record.started},"elapsed":{record.elapsed}}}\n'.encode()
        for record in records
    )


@contextmanager
def repaired(out: Path, journal: Path) -> Iterator[OutFile]:
    file = OutFile(str(out), str(journal))
    try:
        file.repair()
        yield file
    finally:
        file.close()


def repair(out: Path, journal: Path) -> Repaired:
    file = OutFile(str(out), str(journal))
    try:
        return file.repair()
    finally:
        file.close()


@pytest.fixture(autouse=True)
def _compact_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, so that there are several in a small file."""
    monkeypatch.setattr(out_file, "_BLOCK", 700)


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what repairs a thousand times."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "out.jsonl.run"
    record(path, some(0, 60))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


# A line


def test_a_line_has_the_result_as_it_is_in_the_journal() -> None:
    line = line_of((bytes(16), 0, DONE, 7, 2, 1_764_156_600_123_456, 1_500, '["en",7]', b'{"n": "\xc3\xa9"}'))
    assert line == (
        b'{"key":["en",7],"index":7,"value":{"n": "\xc3\xa9"},"attempts":2,'
        b'"started":1764156600.123456,"elapsed":0.0015}\n'
    )


@pytest.mark.parametrize("started", [0, 1, 999_999, 1_764_156_600_000_000, 1_764_156_600_999_999, -1])
def test_its_times_are_exact_to_the_microsecond(started: int) -> None:
    line = json.loads(line_of((bytes(16), 0, DONE, 0, 1, started, started, None, b"1")))
    assert round(line["started"] * 1_000_000) == round(line["elapsed"] * 1_000_000) == started


def test_an_item_without_a_label_is_known_by_its_digest() -> None:
    assert key_text(row(255, label=None)) == f'"{"00" * 15}ff"'
    assert key_text(row(255, label='"' + "x" * 998)) == '"' + "x" * 998
    assert key_text(row(255, label='"' + "x" * 999)) == f'"{"00" * 15}ff"'  # cut, so no JSON any more


# Repair


def test_out_is_written_if_it_is_not_there(out: Path, journal: Path) -> None:
    lines = wanted(journal).count(b"\n")
    assert repair(out, journal) == Repaired(0, 0, lines)
    assert out.read_bytes() == wanted(journal)
    assert lines == 45


def test_what_is_right_is_not_touched(out: Path, journal: Path) -> None:
    repair(out, journal)
    before = out.stat()
    assert repair(out, journal) == Repaired(45, 0, 0)
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_skipped_and_failed_items_have_no_line(out: Path, journal: Path) -> None:
    repair(out, journal)
    keys = [json.loads(line)["key"] for line in out.read_bytes().splitlines()]
    assert keys == [f"id {number}" for number in range(60) if number % 8 not in {3, 6}]


@pytest.mark.usefixtures("no_sync")
def test_a_kill_at_any_byte_is_repaired(tmp_path: Path, out: Path) -> None:
    """Each byte of the first and the last lines, and some of those between."""
    journal = tmp_path / "small.run"
    record(journal, some(0, 60, body=b"1"))
    whole = wanted(journal)
    with repaired(out, journal) as file:
        for size in [*range(200), *range(200, len(whole) - 200, 29), *range(len(whole) - 200, len(whole))]:
            os.truncate(out, size)
            done = file.repair()
            assert out.read_bytes() == whole
            assert done.kept == whole.count(b"\n", 0, size)
            assert done.cut == size - (whole.rfind(b"\n", 0, size) + 1)
            assert done.kept + done.added == 45


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\0", b"garbage", b"\n", b'{"key":', b"\xff" * 100_000])
def test_what_a_power_cut_leaves_at_the_end_is_cut(out: Path, journal: Path, tail: bytes) -> None:
    repair(out, journal)
    whole = out.read_bytes()
    random = Random(4)
    with repaired(out, journal) as file:
        for size in [len(whole), 0, *(random.randrange(len(whole)) for _ in range(20))]:
            out.write_bytes(whole[:size] + tail)
            file.repair()
            assert out.read_bytes() == whole


def last_line_twice(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[-1]]


def a_line_deleted(lines: list[bytes]) -> list[bytes]:
    return lines[:20] + lines[21:]


def the_last_deleted(lines: list[bytes]) -> list[bytes]:
    return lines[:-1]


def a_line_edited(lines: list[bytes]) -> list[bytes]:
    return [*lines[:30], lines[30].replace(b'"n"', b'"m"'), *lines[31:]]


def a_line_inserted(lines: list[bytes]) -> list[bytes]:
    return [*lines[:10], b"{}\n", *lines[10:]]


def two_lines_swapped(lines: list[bytes]) -> list[bytes]:
    return [*lines[:10], lines[11], lines[10], *lines[12:]]


def sorted_by_another(lines: list[bytes]) -> list[bytes]:
    return sorted(lines, reverse=True)


def with_carriage_returns(lines: list[bytes]) -> list[bytes]:
    return [line[:-1] + b"\r\n" for line in lines]


def all_gone(_: list[bytes]) -> list[bytes]:
    return []


def of_another_job(_: list[bytes]) -> list[bytes]:
    return [b'{"key":1}\n'] * 1000


@pytest.mark.parametrize(
    "edited",
    [
        *(last_line_twice, a_line_deleted, the_last_deleted, a_line_edited, a_line_inserted, two_lines_swapped),
        *(sorted_by_another, with_carriage_returns, all_gone, of_another_job),
    ],
)
@pytest.mark.parametrize("by_index", [False, True])
def test_what_somebody_else_did_to_it_is_undone(
    out: Path, journal: Path, edited: Callable[[list[bytes]], list[bytes]], by_index: bool
) -> None:
    with repaired(out, journal) as file:
        if by_index:
            file.put_in_order()
        lines = out.read_bytes().splitlines(keepends=True)
        out.write_bytes(b"".join(edited(lines)))
        file.repair()
        assert out.read_bytes() == wanted(journal)


@pytest.mark.usefixtures("no_sync")
def test_random_damage_is_repaired(out: Path, journal: Path) -> None:
    whole = wanted(journal)
    random = Random(7)
    with repaired(out, journal) as file:
        for _ in range(60):
            content = bytearray(whole[: random.randrange(len(whole) + 1)])
            for _ in range(random.randrange(3)):
                if content:
                    content[random.randrange(len(content))] = random.randrange(256)
            out.write_bytes(content + random.randbytes(random.randrange(50)))
            file.repair()
            assert out.read_bytes() == whole


def test_a_journal_that_has_fewer_rows_now_takes_the_others_from_out(out: Path, journal: Path, tmp_path: Path) -> None:
    repair(out, journal)
    fewer = tmp_path / "fewer.run"
    record(fewer, some(0, 10))
    assert repair(out, fewer) == Repaired(8, len(wanted(journal)) - len(wanted(fewer)), 0)
    assert out.read_bytes() == wanted(fewer)
    record(tmp_path / "none.run", [])
    assert repair(out, tmp_path / "none.run").kept == 0
    assert out.read_bytes() == b""


def test_a_result_of_an_item_that_failed_before_has_its_line(out: Path, journal: Path) -> None:
    repair(out, journal)
    before = out.read_bytes()
    record(journal, [row(6, body=b'{"n":6}')])
    assert repair(out, journal) == Repaired(45, 0, 1)
    assert out.read_bytes().startswith(before)
    assert json.loads(out.read_bytes().splitlines()[-1])["key"] == "id 6"


def test_rows_that_do_not_count_any_more_have_no_lines(out: Path, journal: Path) -> None:
    repair(out, journal)
    record(journal, [row(1, body=b'"new"')], anew=True)
    done = repair(out, journal)
    assert (done.kept, done.added) == (0, 1)
    assert json.loads(out.read_bytes())["value"] == "new"


def test_of_two_rows_of_one_item_the_later_counts(out: Path, journal: Path) -> None:
    record(journal, [row(1, body=b'"later"')])
    repair(out, journal)
    values = [line["value"] for line in map(json.loads, out.read_bytes().splitlines()) if line["key"] == "id 1"]
    assert values == ["later"]


def test_a_damaged_row_is_refused_and_its_line_not_written(out: Path, journal: Path) -> None:
    with database(journal) as connection:
        connection.execute("UPDATE outcome SET body = '{}' WHERE id = 30")
    with pytest.raises(JournalDamaged, match="row 30"):
        repair(out, journal)
    assert b"id 29" not in out.read_bytes()


def test_without_a_journal_out_is_left_alone(out: Path, tmp_path: Path) -> None:
    out.write_bytes(b"mine\n")
    with pytest.raises(JournalError, match="no such file"):
        repair(out, tmp_path / "none.run")
    assert out.read_bytes() == b"mine\n"
    with pytest.raises(JournalError, match="no such file"):
        repair(tmp_path / "new", tmp_path / "none.run")
    assert not (tmp_path / "new").exists()


def test_a_new_out_has_the_mode_that_the_umask_says_and_an_old_one_keeps_its_own(out: Path, journal: Path) -> None:
    repair(out, journal)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~mask
    out.chmod(0o640)
    with repaired(out, journal) as file:
        file.put_in_order()
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


def test_what_a_link_stands_for_is_repaired_and_put_in_order(out: Path, journal: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    out.symlink_to(tmp_path / "elsewhere" / "real.jsonl")
    with repaired(out, journal) as file:
        file.put_in_order()
    assert out.is_symlink()
    assert (tmp_path / "elsewhere" / "real.jsonl").read_bytes() == wanted(journal, by_index=True)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused(out: Path, journal: Path, make: Callable[[Path], None]) -> None:
    make(out)
    with pytest.raises(WriteFailed, match="no regular file"):
        repair(out, journal)


def test_a_second_one_that_would_write_to_it_is_refused(out: Path, journal: Path) -> None:
    with repaired(out, journal) as file:
        with pytest.raises(JournalLocked, match="another run is writing to it"):
            repair(out, journal)
        file.put_in_order()
        with pytest.raises(JournalLocked):
            repair(out, journal)
    assert repair(out, journal).kept == 45


def test_an_out_that_was_deleted_or_replaced_meanwhile_is_written_again(out: Path, journal: Path) -> None:
    with repaired(out, journal) as file:
        out.unlink()
        assert file.repair().added == 45
        out.with_name("other").write_bytes(b"other\n")
        out.with_name("other").rename(out)
        file.repair()
        assert out.read_bytes() == wanted(journal)


# Growing


def test_out_follows_a_journal_that_grows(out: Path, journal: Path) -> None:
    with repaired(out, journal) as file, sitting(journal) as growing:
        assert file.catch_up() == 0
        for start in range(100, 200, 7):
            rows = some(start, start + 7, body=b"[1]")
            growing.append(rows)
            assert file.catch_up() == sum(each[2] == DONE for each in rows)
            assert out.read_bytes() == wanted(journal)
    assert repair(out, journal).added == 0


def test_a_journal_that_grows_between_repairs_adds_lines_behind_the_others(out: Path, tmp_path: Path) -> None:
    journal = tmp_path / "grows.run"
    before = b""
    for start in range(0, 50, 5):
        record(journal, some(start, start + 5, body=b"[1]"))
        repair(out, journal)
        assert out.read_bytes() == wanted(journal)
        assert out.read_bytes().startswith(before)
        before = out.read_bytes()


def test_catching_up_with_a_run_that_began_anew_drops_the_lines_before(out: Path, journal: Path) -> None:
    with repaired(out, journal) as file, sitting(journal, anew=True) as growing:
        growing.append([row(1, body=b"1")])
        assert file.catch_up() == 1
        assert out.read_bytes() == wanted(journal)


def test_lines_of_several_threads_stay_whole(out: Path, journal: Path) -> None:
    with repaired(out, journal) as file:
        size = out.stat().st_size
        parts = [[b"%d" % number * 3000 + b"\n"] * 2 for number in range(8)]
        threads = [threading.Thread(target=file.append, args=(part,)) for part in parts * 5]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = out.read_bytes()[size:].splitlines(keepends=True)
        assert sorted(lines[::2]) == sorted(lines[1::2]) == sorted(part[0] for part in parts * 5)
        assert lines[::2] == lines[1::2]


def test_a_short_write_is_gone_on_with(out: Path, journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with repaired(out, journal) as file:
        monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
        file.append([b"a whole line\n", b"another\n"])
    assert out.read_bytes().endswith(b"}\na whole line\nanother\n")


def fails_with(number: int) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "the disk is full: free some space and run again; what was recorded is safe"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_disk_that_takes_nothing_more_is_one_error_with_a_sentence(
    out: Path, journal: Path, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    with repaired(out, journal) as file:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fails_with(number))
            with pytest.raises(WriteFailed, match=sentence) as failed:
                file.append([b"line\n"])
        assert isinstance(failed.value.__cause__, OSError)
        with pytest.raises(WriteFailed, match=r"before repair\(\) has succeeded"):
            file.append([b"line\n"])
        assert file.repair() == Repaired(45, 0, 0)


def test_a_disk_that_is_really_full_leaves_what_a_repair_can_go_on_from(out: Path, journal: Path) -> None:
    program = (
        "import resource, signal, sys; from aiomap.cli.out_file import OutFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))\n"
        "OutFile(*sys.argv[1:]).repair()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(out), str(journal)], capture_output=True, text=True, check=False
    )
    assert "WriteFailed" in done.stderr
    assert "File too large" in done.stderr
    assert out.stat().st_size == 5000
    assert wanted(journal).startswith(out.read_bytes())
    repair(out, journal)
    assert out.read_bytes() == wanted(journal)


def test_nothing_is_appended_before_it_was_repaired(out: Path, journal: Path) -> None:
    file = OutFile(str(out), str(journal))
    with pytest.raises(WriteFailed, match="before repair"):
        file.append([b"line\n"])
    file.close()
    file.close()
    assert not out.exists()


# In the order of the input


def test_it_is_put_into_the_order_of_the_input(out: Path, journal: Path) -> None:
    with repaired(out, journal) as file:
        file.put_in_order()
        assert out.read_bytes() == wanted(journal, by_index=True)
    indexes = [json.loads(line)["index"] for line in out.read_bytes().splitlines()]
    assert indexes == sorted(indexes)
    assert wanted(journal) != wanted(journal, by_index=True)
    assert {path.name for path in out.parent.iterdir()} <= {"out.jsonl", "out.jsonl.run", "out.jsonl.run.lock"}


def test_putting_it_in_order_needs_no_repair_before(out: Path, journal: Path) -> None:
    file = OutFile(str(out), str(journal))
    file.put_in_order()
    file.close()
    assert out.read_bytes() == wanted(journal, by_index=True)


def test_what_it_has_written_itself_is_no_change_by_others(out: Path, journal: Path) -> None:
    file = OutFile(str(out), str(journal))
    file.check()  # before it is repaired, nothing is known
    with repaired(out, journal) as file, sitting(journal) as growing:
        growing.append(some(100, 110))
        assert file.catch_up() == 8
        file.check()
        growing.append(some(110, 120))
        file.put_in_order()
        file.check()
        with out.open("ab") as other:
            other.write(b"\n")
        with pytest.raises(WriteFailed, match="changed by somebody else"):
            file.check()


def test_what_was_put_in_order_is_not_appended_again(out: Path, journal: Path) -> None:
    with repaired(out, journal) as file, sitting(journal) as growing:
        growing.append(some(100, 110))
        file.put_in_order()
        assert file.catch_up() == 0
        assert out.read_bytes() == wanted(journal, by_index=True)
        growing.append(some(110, 120))
        assert file.catch_up() == 7
    assert out.read_bytes().count(b"\n") == wanted(journal).count(b"\n")


def test_of_two_with_the_same_index_the_first_recorded_is_first(tmp_path: Path) -> None:
    record(tmp_path / "j", [row(5, index=1), row(4, index=1), row(3, index=0), row(9, index=1)])
    assert [each[0][-1] for each in rows_in_input_order(str(tmp_path / "j"))] == [3, 5, 4, 9]


def test_an_order_that_is_there_is_kept_by_repair(out: Path, journal: Path) -> None:
    with repaired(out, journal) as file:
        file.put_in_order()
    before = out.stat()
    assert repair(out, journal) == Repaired(45, 0, 0)
    with repaired(out, journal) as file:
        file.put_in_order()
    assert (out.stat().st_mtime_ns, out.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert out.read_bytes() == wanted(journal, by_index=True)


def test_lines_go_behind_those_that_are_in_order(out: Path, journal: Path) -> None:
    with repaired(out, journal) as file:
        file.put_in_order()
    ordered = out.read_bytes()
    with repaired(out, journal) as file, sitting(journal) as growing:
        growing.append([row(200, body=b"200")])
        assert file.catch_up() == 1
        assert out.read_bytes() == ordered + wanted(journal).splitlines(keepends=True)[-1]
        growing.append([row(201, body=b"201")])
        assert file.catch_up() == 1
    assert repair(out, journal).added > 40  # it is in neither order, and written anew
    assert out.read_bytes() == wanted(journal)


@pytest.mark.usefixtures("no_sync")
def test_a_kill_at_any_byte_of_an_ordered_out_that_has_grown_is_repaired(tmp_path: Path, out: Path) -> None:
    journal = tmp_path / "small.run"
    record(journal, some(0, 12, body=b"1"))
    with repaired(out, journal) as file:
        file.put_in_order()
    record(journal, some(16, 20, body=b"1"))
    with repaired(out, journal):
        pass
    ordered = wanted(journal, by_index=True)
    with repaired(out, journal) as file:
        for size in range(0, len(ordered), 5):
            out.write_bytes(ordered[:size])
            file.repair()
            assert out.read_bytes() == wanted(journal)
        out.write_bytes(ordered)
        assert file.repair() == Repaired(12, 0, 0)
        assert out.read_bytes() == ordered


@pytest.mark.parametrize("step", ["fsync", "replace", "write", "fchmod", "dup"])
def test_an_order_that_could_not_be_written_leaves_out_as_it_was(
    out: Path, journal: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with repaired(out, journal) as file:
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fails_with(errno.ENOSPC))
            with pytest.raises(WriteFailed, match="the disk is full"):
                file.put_in_order()
        assert out.read_bytes() == wanted(journal)
        assert not list(out.parent.glob("*.part"))
        file.repair()
        file.put_in_order()
        assert out.read_bytes() == wanted(journal, by_index=True)


def test_an_order_whose_folder_could_not_be_synced_is_gone_on_with(
    out: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with repaired(out, journal) as file:
        with monkeypatch.context() as patch:
            patch.setattr(out_file, "sync_folder", fails_with(errno.EIO))
            with pytest.raises(WriteFailed):
                file.put_in_order()
        with pytest.raises(WriteFailed, match="before repair"):
            file.append([b"into a file without a name\n"])
        assert file.repair() == Repaired(45, 0, 0)
        assert out.read_bytes() == wanted(journal, by_index=True)


def test_a_draft_that_a_kill_left_is_in_nobodys_way(out: Path, journal: Path) -> None:
    out.with_name("out.jsonl.part").write_bytes(b"half a line")
    with repaired(out, journal) as file:
        file.put_in_order()
    assert out.read_bytes() == wanted(journal, by_index=True)
    assert not out.with_name("out.jsonl.part").exists()


def test_no_descriptor_is_left_open(out: Path, journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []  # noqa: PTH112, PTH208
    with repaired(out, journal) as file:
        file.put_in_order()
        out.write_bytes(b"")
        file.repair()
        with monkeypatch.context() as patch:
            patch.setattr(out_file, "sync_folder", fails_with(errno.EIO))
            with pytest.raises(WriteFailed):
                file.put_in_order()
        file.repair()
    assert len(os.listdir("/proc/self/fd") if before else []) == len(before)  # noqa: PTH208


# Killed

KILLS = """
import json, os, random, signal, sys
from aiomap.cli.out_file import OutFile
from aiomap.journal.file import JournalFile

out, journal = sys.argv[1:]

def append(start, say):
    file = JournalFile(journal)
    file.open()
    file.begin({"function": "f", "serializer": "json"}, anew=False)
    target = OutFile(out, journal)
    target.repair()
    for number in range(start, start + 1000):
        os.write(say, b".")
        body = b'"%b"' % (b"x" * (number % 7 * 10_000))
        file.append([(number.to_bytes(16, "big"), 0, 1, 10**6 - number, 1, number, 1, str(number), body)])
        target.catch_up()
        if number % 4 == 3:
            target.put_in_order()

dice = random.Random(20)
for cycle in range(20):
    hear, say = os.pipe()
    child = os.fork()
    if not child:
        append(cycle * 1000, say)
    for _ in range(dice.randrange(1, 10)):
        os.read(hear, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    *lines, _ = open(out, "rb").read().split(b"\\n")
    assert all(json.loads(line) for line in lines)
"""


def test_a_process_that_is_killed_again_and_again_leaves_what_can_be_repaired(tmp_path: Path, out: Path) -> None:
    journal = tmp_path / "killed.run"
    subprocess.run([sys.executable, "-c", KILLS, str(out), str(journal)], check=True)
    recorded = sum(1 for _ in Journal.read(journal))
    done = repair(out, journal)
    assert done.kept + done.added == recorded > 50
    assert out.read_bytes() in {wanted(journal), wanted(journal, by_index=True)}


# What the other files use


def test_a_draft_takes_the_place_of_a_file_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), draft_of(str(path), str(tmp_path / "draft")) as descriptor:
        write_all(descriptor, b"half")
        assert path.read_bytes() == b"old"
        raise ZeroDivisionError
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    with draft_of(str(path), str(tmp_path / "draft")) as descriptor:
        write_all(descriptor, b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_reader_who_went_away_is_told_apart_from_a_disk(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), writing("standard output"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    with (
        pytest.raises(WriteFailed, match="re\N{REPLACEMENT CHARACTER}d cannot be written: Permission denied"),
        writing("re\x1bd"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Forty rows of a megabyte, in a process that may have little more than the interpreter."""
    journal = tmp_path / "large.run"
    with sitting(journal) as file:
        for number in range(40):
            file.append([(number.to_bytes(16, "big"), 0, DONE, 39 - number, 1, 0, 1, None, b'"%b"' % (b"x" * 10**6))])
    program = (
        "import resource, sys; from aiomap.cli.out_file import OutFile\n"
        "file = OutFile(*sys.argv[1:])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "file.repair(); file.put_in_order(); file.repair(); file.close()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out"), str(journal)]
    grown = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert grown * (1 if sys.platform == "darwin" else 1024) < 20 << 20
