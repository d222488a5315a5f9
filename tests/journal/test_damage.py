"""Promise 27, damage: it is refused, never served; and promise 25: what was synced survives what a power cut leaves.

A power cut is simulated by what the disk then holds: everything up to the last sync, and after that anything.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import pytest

from aiomap.errors import JournalDamaged, JournalError
from aiomap.journal.file import JournalFile
from aiomap.journal.reading import identity_of, read_rows
from aiomap.journal.rows import DONE, FAILED, SKIPPED, Row
from aiomap.journal.salvage import Report, check, repair

pytestmark = pytest.mark.once

ME = {"function": "module.fetch", "serializer": "json"}
PAGE = 4096
SECTOR = 512
FIRST_LEAF = 4  # pages from 1: the schema, the roots of the two tables, and then what the rows are in


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a folder: what a sync does is simulated here, and there are thousands of them."""
    memory = Path("/dev/shm")  # noqa: S108  (a new folder in it)
    if not memory.is_dir():
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def made_up(count: int, seed: int = 1) -> list[Row]:
    chance = Random(seed)
    return [
        (
            chance.randbytes(16),
            0 if chance.random() < 0.9 else chance.randrange(3),
            chance.choice([DONE, DONE, DONE, SKIPPED, FAILED]),
            position,
            chance.randrange(1, 5),
            chance.randrange(2**51),
            chance.randrange(10**9),
            None if chance.random() < 0.7 else f'["label {position}"]',
            chance.randbytes(chance.choice([0, 40, 200, 200, 200, 600])),
        )
        for position in range(count)
    ]


def name_of(row: Row) -> bytes:
    return row[0] + row[1].to_bytes(4, "big") if row[1] else row[0]


@contextmanager
def opened(path: Path) -> Iterator[JournalFile]:
    file = JournalFile(str(path))
    file.open()
    try:
        yield file
    finally:
        file.close(None)


def known(file: JournalFile) -> dict[bytes, int]:
    return file.known(failures=True, stop=lambda: False)


def create(path: Path, rows: list[Row], *, sittings: int = 1) -> None:
    for number in range(sittings):
        with opened(path) as file:
            file.begin({**ME, "sitting": number}, anew=False)
            if not number:
                file.append(rows)


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def put(path: Path, database: bytes, log: bytes = b"", lock: bytes = b"") -> None:
    path.write_bytes(database)
    for ending, content in (("-wal", log), (".lock", lock)):
        Path(f"{path}{ending}").unlink(missing_ok=True)
        if content:
            Path(f"{path}{ending}").write_bytes(content)


# What a disk may hold after the last sync, of what was written to it since.


def cut_off(tail: bytes, chance: Random) -> bytes:
    return tail[: chance.randrange(len(tail) + 1)]


def sectors_lost(tail: bytes, chance: Random) -> bytes:
    left = bytearray(tail)
    for start in range(0, len(left), SECTOR):
        if chance.random() < 0.02:
            left[start : start + SECTOR] = bytes(len(left[start : start + SECTOR]))
    return bytes(left)


def garbage(tail: bytes, chance: Random) -> bytes:
    start = chance.randrange(len(tail))
    return tail[:start] + chance.randbytes(len(tail) - start)


def stale(tail: bytes, chance: Random) -> bytes:
    """Frames that are whole, but stood elsewhere before."""
    frame = PAGE + 24
    frames = [tail[start : start + frame] for start in range(0, len(tail), frame)]
    return b"".join(chance.choice(frames) if chance.random() < 0.5 else each for each in frames)


@pytest.mark.parametrize("left", [cut_off, sectors_lost, garbage, stale])
def test_every_batch_that_was_synced_survives_a_power_cut_whole(
    tmp_path: Path, left: Callable[[bytes, Random], bytes]
) -> None:
    rows = made_up(120)
    source, path = tmp_path / "source.db", tmp_path / "run.db"
    log = Path(f"{source}-wal")
    with opened(source) as file:
        file.begin(ME, anew=False)
        ends = {file.append(rows[start : start + 20]) for start in (0, 20, 40)}
        synced = log.stat().st_size
        ends |= {file.append(rows[start : start + 20]) for start in (60, 80, 100)}
        database, written = source.read_bytes(), log.read_bytes()
    assert len(database) <= PAGE  # nothing of it is in the database yet: it is all for the log to bring
    chance = Random(left.__name__)
    survived = Counter[int]()
    for _ in range(150):
        put(path, database, written[:synced] + left(written[synced:], chance), b"%020d" % 60)
        with opened(path) as file:
            found = len(known(file))
            assert file.recall(range(1, found + 1)) == rows[:found]
        assert found in ends
        assert found >= 60
        survived[found] += 1
    assert len(survived) > 1  # the damage was neither all nor nothing


# What may become of a database on a disk that is failing.


def bit_flipped(content: bytearray, chance: Random) -> range:
    place = chance.randrange(len(content))
    content[place] ^= 1 << chance.randrange(8)
    return range(place, place + 1)


def byte_changed(content: bytearray, chance: Random) -> range:
    place = chance.randrange(len(content))
    content[place] = chance.randrange(256)
    return range(place, place + 1)


def head_of_page_hit(content: bytearray, chance: Random) -> range:
    """Where the structure of the tree is: a random hit is mostly within a row."""
    place = chance.randrange(1, len(content) // PAGE) * PAGE + chance.randrange(40)
    content[place] ^= 1 << chance.randrange(8)
    return range(place, place + 1)


def sector_zeroed(content: bytearray, chance: Random) -> range:
    start = chance.randrange(len(content) // SECTOR) * SECTOR
    content[start : start + SECTOR] = bytes(SECTOR)
    return range(start, start + SECTOR)


def sector_of_garbage(content: bytearray, chance: Random) -> range:
    start = chance.randrange(len(content) // SECTOR) * SECTOR
    content[start : start + SECTOR] = chance.randbytes(SECTOR)
    return range(start, start + SECTOR)


def page_misplaced(content: bytearray, chance: Random) -> range:
    source, target = (number * PAGE for number in chance.sample(range(len(content) // PAGE), 2))
    content[target : target + PAGE] = content[source : source + PAGE]
    return range(target, target + PAGE)


def end_lost(content: bytearray, chance: Random) -> range:
    start = chance.randrange(len(content))
    length = len(content)
    del content[start:]
    return range(start, length)


DAMAGES: dict[Callable[[bytearray, Random], range], int] = {
    bit_flipped: 300,
    byte_changed: 100,
    head_of_page_hit: 150,
    sector_zeroed: 60,
    sector_of_garbage: 60,
    page_misplaced: 60,
    end_lost: 30,
}


def served(path: Path) -> dict[bytes, Row]:
    """What a run would take from it."""
    with opened(path) as file:
        numbers = known(file)
        return dict(zip(numbers, file.recall(list(numbers.values())), strict=True))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_never_serves_a_wrong_row(
    tmp_path: Path, damage: Callable[[bytearray, Random], range], record_property: Callable[[str, object], None]
) -> None:
    rows = made_up(150)
    truth = {name_of(row): row for row in rows}
    path = tmp_path / "run.db"
    create(path, rows, sittings=3)
    whole, lock = path.read_bytes(), Path(f"{path}.lock").read_bytes()
    assert len(whole) // PAGE > 8
    chance = Random(damage.__name__)
    endings = Counter[str]()
    for _ in range(DAMAGES[damage]):
        content = bytearray(whole)
        damage(content, chance)
        put(path, bytes(content), lock=lock)
        try:
            found = served(path)
        except JournalError:
            endings["refused"] += 1
            continue
        assert found.items() <= truth.items()
        endings["right" if len(found) == len(truth) else "missing"] += 1
    record_property("endings", dict(endings))
    assert endings["refused"]


def as_stored(path: Path, count: int) -> dict[int, Any]:
    """The rows that SQLite alone gives back, asked for one by one."""
    found = dict[int, Any]()
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        connection.execute("PRAGMA writable_schema=ON")  # reads a file that has lost its end too
        for number in range(1, count + 1):
            with suppress(sqlite3.Error):
                for row in connection.execute("SELECT * FROM outcome WHERE id = ?", (number,)).fetchall():
                    found[number] = row
    return found


def sitting_is_left(path: Path) -> bool:
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        for number in (1, 2, 3):
            with suppress(sqlite3.Error):
                for body, crc in connection.execute("SELECT body, crc FROM sitting WHERE id = ?", (number,)).fetchall():
                    if crc == crc32(f"{number}:{body}".encode()):
                        return True
    return False


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_check_finds_what_a_run_would_refuse_and_a_repair_saves_every_row_that_is_whole(
    tmp_path: Path, damage: Callable[[bytearray, Random], range]
) -> None:
    rows = made_up(150)
    path, new = tmp_path / "run.db", tmp_path / "new.db"
    create(path, rows, sittings=3)
    whole, lock = path.read_bytes(), Path(f"{path}.lock").read_bytes()
    stored = as_stored(path, len(rows))
    chance = Random(damage.__name__)
    repaired = 0
    for _ in range(DAMAGES[damage] // 2):
        content = bytearray(whole)
        hit = damage(content, chance)
        put(path, bytes(content), lock=lock)
        try:
            report = check(str(path))
        except JournalError:
            assert hit[0] < 100  # what tells its kind: else it says what is wrong
            continue
        if not sitting_is_left(path):
            with pytest.raises(JournalDamaged, match="no row that says whose results these are can be read"):
                repair(str(path), str(new))
            assert not report.ok
            continue
        saved = repair(str(path), str(new))
        assert path.read_bytes() == bytes(content)
        assert Report(len(rows), ()) == report == saved or not report.ok
        assert report.rows == saved.rows
        left = [row for _, row in read_rows(str(new))]
        assert left == [row for row in rows if row in left]
        still = as_stored(path, len(rows))
        assert all(row in left for number, row in enumerate(rows, 1) if stored[number] == still.get(number))
        assert check(str(new)) == Report(len(left), ())
        assert identity_of(str(new)) in [{**ME, "sitting": number} for number in range(3)]
        try:
            with opened(path) as file:
                file.recall(range(1, len(known(file)) + 1))
        except JournalError:
            assert not report.ok
        new.unlink()
        repaired += 1
    assert repaired


CHANGES = {
    "key": "zeroblob(16)",
    "occurrence": "occurrence + 1",
    "state": "CASE state WHEN 1 THEN 2 ELSE 1 END",
    "position": "position + 1",
    "attempts": "attempts + 1",
    "started": "started + 1",
    "elapsed": "elapsed * 2",
    "label": "coalesce(label, '') || ' '",
    "body": "body || x'00'",
    "crc": "crc + 1",
}


@pytest.mark.parametrize("column", CHANGES)
def test_a_row_that_was_changed_is_refused_and_the_others_are_not(tmp_path: Path, column: str) -> None:
    path, rows = tmp_path / "run.db", made_up(50)
    create(path, rows)
    change(path, f"UPDATE outcome SET {column} = {CHANGES[column]} WHERE id = 7")  # noqa: S608  (of this file)
    with opened(path) as file:
        for asked in ([7], [6, 7, 8], list(range(1, 51))):
            with pytest.raises(JournalDamaged, match=r"row 7 is not as it was written: .* says what is wrong"):
                file.recall(asked)
        others = [number for number in range(1, 51) if number != 7]
        assert file.recall(others) == [rows[number - 1] for number in others]
    with pytest.raises(JournalDamaged, match="row 7 is not as it was written"):
        list(read_rows(str(path)))
    assert check(str(path)) == Report(49, ("row 7: not as written",))


@pytest.mark.parametrize(
    "wrong", ["key = x'00'", "key = ''", "state = 4", "state = 11", "state = 'x'", "state = -1", "occurrence = -1",
              "occurrence = 'x'", "occurrence = 5000000000", "occurrence = '0,0'", "occurrence = 1.5"]
)  # fmt: skip
def test_what_no_run_has_written_is_not_loaded(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "run.db"
    create(path, made_up(50))
    change(path, f"UPDATE outcome SET {wrong} WHERE id = 7")  # noqa: S608  (of this file)
    with opened(path) as file, pytest.raises(JournalDamaged, match="row"):
        known(file)


def test_rows_that_changed_places_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    create(path, made_up(10))
    change(path, *(f"UPDATE outcome SET id = {new} WHERE id = {old}" for old, new in ((3, 99), (4, 3), (99, 4))))  # noqa: S608
    with opened(path) as file:
        for asked in ([3], [4], list(range(1, 11))):
            with pytest.raises(JournalDamaged, match=r"row [34] is not as it was written"):
                file.recall(asked)
    assert check(str(path)) == Report(8, ("rows 3 to 4: not as written",))


def test_a_check_says_which_rows_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    create(path, made_up(100))
    change(path, "DELETE FROM outcome WHERE id IN (1, 5, 6, 7, 99, 100)")
    assert check(str(path)) == Report(94, ("row 1: missing", "rows 5 to 7: missing", "rows 99 to 100: missing"))


def test_a_check_says_that_the_tables_are_others(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    create(path, made_up(3))
    change(path, "CREATE VIEW v AS SELECT 1")
    assert check(str(path)) == Report(3, ("the tables are not those of a journal",))
    change(path, "DROP VIEW v", "DROP TABLE outcome")
    assert check(str(path)).rows == 0
    assert not check(str(path)).ok


@pytest.mark.parametrize(
    "wrong", ["UPDATE outcome SET id = -5 WHERE id = 3", "UPDATE outcome SET id = 1 << 60 WHERE id = 3"]
)
def test_a_number_that_no_row_was_given_is_found_and_not_counted_up_to(tmp_path: Path, wrong: str) -> None:
    path, new = tmp_path / "run.db", tmp_path / "new.db"
    rows = made_up(3)
    create(path, rows)
    change(path, wrong)
    with pytest.raises(JournalDamaged, match="it has 3 rows, and they are numbered from"), opened(path):
        pass
    assert check(str(path)) == Report(2, ("row 3: missing", "there are rows with numbers that no row was given"))
    assert repair(str(path), str(new)).rows == 2
    assert [row for _, row in read_rows(str(new))] == rows[:2]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("page", range(FIRST_LEAF, 9))
def test_a_page_that_is_lost_costs_its_own_rows_only(tmp_path: Path, page: int, marked: bool) -> None:
    path, new, rows = tmp_path / "run.db", tmp_path / "new.db", made_up(60)
    create(path, rows)
    stored = as_stored(path, len(rows))
    content = bytearray(path.read_bytes())
    last = len(content) // PAGE
    start = (min(page, last) - 1) * PAGE
    content[start : start + PAGE] = bytes(PAGE)
    path.write_bytes(content)
    if not marked:
        Path(f"{path}.lock").unlink()
    report = repair(str(path), str(new))
    assert 60 - 25 <= report.rows < 60
    assert as_stored(path, len(rows)).items() <= stored.items()
    assert [row for _, row in read_rows(str(new))] == [rows[number - 1] for number in as_stored(path, len(rows))]
    assert any("cannot be read" in problem for problem in report.problems)
    with opened(new) as file:
        assert file.identity == {**ME, "sitting": 0}
        assert len(known(file)) == report.rows
        assert file.append(rows[:1]) == report.rows + 1


def test_a_repaired_journal_keeps_what_counts_and_what_is_latest(tmp_path: Path) -> None:
    path, new, rows = tmp_path / "run.db", tmp_path / "new.db", made_up(6)
    create(path, rows)
    with opened(path) as file:
        file.begin({"function": "second"}, anew=True)
        file.append([rows[0], (*rows[0][:2], FAILED, *rows[0][3:]), rows[1]])
        file.append([(*rows[0][:8], b"latest")])
    change(path, "UPDATE outcome SET body = 'x' WHERE id IN (2, 9)")
    assert repair(str(path), str(new)) == Report(3, ("row 9: not as written",))
    latest = list(read_rows(str(new)))
    assert latest == [(3, (*rows[0][:8], b"latest"))]
    assert identity_of(str(new)) == {"function": "second"}
    with opened(new) as file:
        assert known(file) == {name_of(rows[0]): 3}


def test_a_repair_goes_by_the_last_sitting_that_can_be_read(tmp_path: Path) -> None:
    path, new = tmp_path / "run.db", tmp_path / "new.db"
    create(path, made_up(3), sittings=3)
    change(path, "UPDATE sitting SET body = 'x' WHERE id = 3")
    assert check(str(path)) == Report(3, ("sitting 3: not as written",))
    assert repair(str(path), str(new)) == Report(3, ("sitting 3: not as written",))
    assert identity_of(str(new)) == {**ME, "sitting": 1}


@pytest.mark.parametrize("wrong", ["DELETE FROM sitting", "UPDATE sitting SET crc = 0", "DROP TABLE sitting"])
def test_a_repair_without_any_sitting_is_refused_and_leaves_nothing(tmp_path: Path, wrong: str) -> None:
    path, new = tmp_path / "run.db", tmp_path / "new.db"
    create(path, made_up(3))
    change(path, wrong)
    with pytest.raises(JournalDamaged, match="no row that says whose results these are can be read"):
        repair(str(path), str(new))
    assert {each.name for each in tmp_path.iterdir()} == {"run.db", "run.db.lock", "new.db.lock"}


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
def test_a_repair_overwrites_nothing(tmp_path: Path, ending: str) -> None:
    path, new = tmp_path / "run.db", tmp_path / f"new.db{ending}"
    create(path, made_up(3))
    new.write_text("precious")
    with pytest.raises(JournalError, match="exists already, and nothing is overwritten: use another path"):
        repair(str(path), str(tmp_path / "new.db"))
    assert new.read_text() == "precious"
    with pytest.raises(JournalError, match="exists already"):
        repair(str(path), str(path))


def test_a_repair_brings_in_what_only_the_log_holds(tmp_path: Path) -> None:
    source, path, new, rows = tmp_path / "source.db", tmp_path / "run.db", tmp_path / "new.db", made_up(40)
    with opened(source) as file:
        file.begin(ME, anew=False)
        file.append(rows)
        put(path, source.read_bytes(), Path(f"{source}-wal").read_bytes())
    assert repair(str(path), str(new)) == check(str(path)) == Report(40, ())
    assert [row for _, row in read_rows(str(new))] == rows


def test_two_rows_of_one_number_are_not_loaded_under_each_others_keys(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    create(path, made_up(8))
    content = bytearray(path.read_bytes())
    page = PAGE  # the second: all rows are in the root of their table
    cell = page + int.from_bytes(content[page + 18 : page + 20], "big")  # the sixth
    number = cell + (2 if content[cell] & 0x80 else 1)  # behind the length
    assert content[number] == 6
    content[number] = 7
    path.write_bytes(content)
    with opened(path) as file, pytest.raises(JournalDamaged, match="not all rows from 1 to 8 are there, once"):
        known(file)


def test_a_journal_that_was_not_closed_is_looked_at_by_sqlite_itself(tmp_path: Path) -> None:
    source, path = tmp_path / "source.db", tmp_path / "run.db"
    create(source, made_up(60))
    with opened(source) as file:
        file.begin(ME, anew=False)
        database, log = bytearray(source.read_bytes()), Path(f"{source}-wal").read_bytes()
    database[3 * PAGE + 7] += 1  # how many bytes between the rows of the first leaf are unused: nobody reads that
    put(path, bytes(database))
    with opened(path):
        pass
    put(path, bytes(database), log)
    with pytest.raises(JournalDamaged, match=r"the database is damaged \(.*ragment"), opened(path):
        pass


def test_the_mark_of_a_repaired_journal_is_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, new = tmp_path / "run.db", tmp_path / "new.db"
    create(path, made_up(5))
    Path(f"{new}.lock").write_bytes(b"%020d" % 100)  # of one that was deleted
    assert repair(str(path), str(new)).ok
    with opened(new):
        pass
    assert not caplog.records
    change(new, "DELETE FROM outcome WHERE id = 5")
    assert check(str(new)) == Report(4, ("row 5: missing",))
