"""Journals that earlier versions made are read and continued by this one."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aiomap import Journal, amap
from aiomap.testing import simulate
from tests.journal.kept.make import make
from tests.journal.kept.work import MIXED, RETRY, fetch_en, keyed, plain, world

KEPT = sorted((Path(__file__).parent / "kept").glob("version-*.db"))
each_kept = pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.stem)


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(kept, tmp_path / "run.db"))


def results_of(items: list[str], journal: Journal | None) -> list[Any]:
    """What comes out of a run in which nothing is ill any more; `world.ran` has what ran."""
    world.ill = False
    world.ran.clear()
    return simulate(lambda: amap(fetch_en, items, 3, on_error="skip", retry=RETRY, journal=journal))


@each_kept
@pytest.mark.parametrize(("journal_of", "failed"), [(keyed, ["broken"]), (plain, ["broken", "ill"])])
def test_a_journal_of_an_earlier_version_is_continued_where_it_ended(
    copied: Path, journal_of: Any, failed: list[str]
) -> None:
    items = ["new", *reversed(MIXED), "a"]
    expected = results_of(items, None)
    # Four are equal to "a", and three are recorded: the last one runs.
    assert results_of(items, journal_of(copied)) == expected
    assert sorted(world.ran) == sorted(["new", "a", *failed])
    assert results_of(items, journal_of(copied)) == expected
    assert world.ran == ["broken"]
    assert Journal(copied).check().ok


@each_kept
def test_a_journal_of_an_earlier_version_is_read_as_what_it_is(copied: Path) -> None:
    assert Journal(copied).check().ok
    records = list(Journal.read(copied))
    for known_by_key in (True, False):
        found = [record for record in records if record.key.startswith("{") == known_by_key]
        found.sort(key=lambda record: record.index)
        assert [record.index for record in found] == list(range(len(MIXED)))
        assert [record.occurrence for record in found] == [
            MIXED[:index].count(page) for index, page in enumerate(MIXED)
        ]
        states = dict.fromkeys(MIXED, "done") | {"empty": "skipped", "broken": "failed"}
        states |= {} if known_by_key else {"ill": "failed"}
        assert [record.state for record in found] == [states[page] for page in MIXED]
        assert [record.attempts for record in found] == [3 if page == "slow" else 1 for page in MIXED]
        done = [page for page in MIXED if states[page] == "done"]
        assert [record.value for record in found if record.state == "done"] == results_of(done, None)
        errors = {str(record.error) for record in found if record.state == "failed"}
        assert errors == {
            f"failed in an earlier run: LookupError: there is no page '{page}' ☃"
            for page in states
            if states[page] == "failed"
        }


def test_the_rows_that_are_written_today_are_those_of_the_kept_journal(tmp_path: Path) -> None:
    """If this fails, the format or the meaning of a key has changed: older journals would be lost."""
    make(tmp_path / "today.db")
    kept = Path(__file__).parent / "kept" / "version-1.db"
    assert content_of(tmp_path / "today.db") == content_of(kept)


def content_of(path: Path) -> list[Any]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        queries = (
            "SELECT * FROM outcome ORDER BY id",
            "SELECT * FROM sqlite_master ORDER BY name",
            "PRAGMA application_id",
            "PRAGMA user_version",
        )
        bodies = [json.loads(body) for (body,) in connection.execute("SELECT body FROM sitting ORDER BY id")]
        # Not what they tell about the machine and the run.
        sittings = [(body.get("opens"), body.get("first"), body.get("closes")) for body in bodies]
        return [*(connection.execute(query).fetchall() for query in queries), sittings]
