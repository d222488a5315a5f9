"""The thread between a run and its journal: the loop never waits for the disk; a slow or full one holds back starts.

On asyncio's own loop, since a simulated one runs no threads.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from aiomap import Journal, JournalError, aimap, amap
from aiomap.journal import writer
from aiomap.journal.file import JournalFile
from aiomap.journal.rows import Row

append = JournalFile.append


async def until(true: Any) -> None:
    while not true():  # noqa: ASYNC110  (what it waits for is a file, or happens in another thread)
        await asyncio.sleep(0)


async def settled(count: Any) -> None:
    """Until a number has stayed as it is for many turns of the loop."""
    seen, turns = count(), 0
    while turns < 500:
        await asyncio.sleep(0)
        turns = turns + 1 if count() == seen else 0
        seen = count()


def recorded(path: Path) -> int:
    return len(list(Journal.read(path)))


def test_all_that_touches_the_disk_happens_in_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, int]] = []
    for name in ("open", "begin", "known", "append", "recall", "close"):
        original = getattr(JournalFile, name)

        def noting(*args: Any, _original: Any = original, _name: str = name, **options: Any) -> Any:
            called.append((_name, threading.get_ident()))
            return _original(*args, **options)

        monkeypatch.setattr(JournalFile, name, noting)

    async def work(item: int) -> int:
        return item

    for _ in range(2):
        asyncio.run(amap(work, range(10), journal=tmp_path / "run.db"))
    assert {name for name, _ in called} == {"open", "begin", "known", "append", "recall", "close"}
    assert threading.get_ident() not in {thread for _, thread in called}


@pytest.mark.parametrize("most", ["rows", "bytes"])
def test_a_disk_that_is_behind_holds_back_new_starts_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: str
) -> None:
    monkeypatch.setattr(writer, "_MOST_ROWS", 100 if most == "rows" else 10**9)
    monkeypatch.setattr(writer, "_MOST_BYTES", 100 * 1000 if most == "bytes" else 10**9)
    monkeypatch.setattr(writer, "_MOST_MICROSECONDS", 10**12)
    disk, started = threading.Event(), 0

    def slow(file: JournalFile, rows: Sequence[Row]) -> int:
        disk.wait()
        return append(file, rows)

    monkeypatch.setattr(JournalFile, "append", slow)

    async def work(item: int) -> str:
        nonlocal started
        started += 1
        await asyncio.sleep(0)
        return "x" * 998

    async def main() -> None:
        running = asyncio.ensure_future(amap(work, range(500), 7, journal=tmp_path / "run.db"))
        try:
            await until(lambda: started >= 100)
            await settled(lambda: started)
            assert 100 <= started <= 100 + 7
        finally:
            disk.set()
        assert len(await running) == 500

    asyncio.run(main())
    assert recorded(tmp_path / "run.db") == 500


def test_a_second_without_a_commit_counts_as_behind() -> None:
    class Loop:
        def run_in_executor(self, *_: object) -> None:
            pass

    class File:
        def close(self, counts: object) -> None:
            pass

    class Owner:
        def told(self, *_: object) -> None:
            pass

    def record(ended: float) -> None:
        desk.record((b"key", 0, 1, 0, 1, int(ended * 1e6) - 10, 10, None, b"1"))

    owner = Owner()
    desk = writer.Writer(Loop(), File(), owner.told, owner.told)  # type: ignore[arg-type]  # as much as is asked for
    record(1000)
    record(1000.9)
    assert not desk.behind
    record(1001.1)
    assert desk.behind


def test_512_results_are_committed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_COMMIT", 3600.0)
    path = tmp_path / "run.db"

    async def work(item: int) -> int:
        if item == 600:
            await until(lambda: path.exists() and recorded(path) >= 512)
        return item

    assert len(asyncio.run(amap(work, range(601), journal=path))) == 601


@pytest.mark.parametrize("ordered", [True, False])
def test_what_is_recorded_comes_back_while_others_are_being_recorded(tmp_path: Path, ordered: bool) -> None:
    came_back = False

    async def work(item: str) -> str:
        return item

    def items() -> Iterator[str]:
        for number in itertools.count():
            yield "recorded" if number == 3000 else f"new {number}"
            if came_back:
                return
            assert number < 60_000, "it waits for ever behind the commits"

    async def main() -> None:
        nonlocal came_back
        await amap(work, ["recorded"], journal=tmp_path / "run.db")
        async with aimap(work, items(), ordered=ordered, journal=tmp_path / "run.db") as stream:
            async for result in stream:
                came_back = came_back or result == "recorded"

    asyncio.run(main())


def test_a_few_results_are_committed_soon(tmp_path: Path) -> None:
    path = tmp_path / "run.db"

    async def work(item: int) -> int:
        if item == 3:
            await until(lambda: path.exists() and recorded(path) >= 3)
        return item

    assert len(asyncio.run(amap(work, range(4), journal=path))) == 4


def test_results_are_committed_while_an_item_blocks_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "run.db"

    async def work(item: int) -> int:
        while item == 3 and not (path.exists() and recorded(path) >= 3):
            pass
        return item

    assert len(asyncio.run(amap(work, range(4), 1, journal=path))) == 4


@pytest.mark.parametrize("verb", ["amap", "aimap"])
def test_a_disk_that_takes_nothing_more_ends_the_run_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    path, full = tmp_path / "run.db", JournalError("run.db", "the disk is full")
    cancelled = 0

    def failing(file: JournalFile, rows: Sequence[Row]) -> int:
        if any(row[3] >= 10 for row in rows):
            raise full
        return append(file, rows)

    monkeypatch.setattr(JournalFile, "append", failing)

    async def work(item: int) -> int:
        nonlocal cancelled
        try:
            await until(lambda: item <= 10 or item > 12)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        if item == 10:
            await until(lambda: recorded(path) == 10)
        return item

    async def main() -> None:
        if verb == "amap":
            await amap(work, range(12), 5, journal=path)
        else:
            async with aimap(work, range(12), 5, journal=path) as stream:
                async for _ in stream:
                    pass

    with pytest.raises(JournalError) as raised:
        asyncio.run(main())
    assert raised.value is full
    assert cancelled == 1
    assert recorded(path) == 10
    monkeypatch.undo()
    cancelled = -1
    assert len(asyncio.run(amap(work, range(11), 5, journal=path))) == 11


def test_a_disk_that_fails_at_the_very_end_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(file: JournalFile, rows: Sequence[Row]) -> int:
        raise JournalError("run.db", "the disk is full")

    monkeypatch.setattr(JournalFile, "append", failing)

    async def work(item: int) -> int:
        return item

    with pytest.raises(JournalError, match="the disk is full"):
        asyncio.run(amap(work, [1], journal=tmp_path / "run.db"))
    monkeypatch.undo()
    assert asyncio.run(amap(work, [1], journal=tmp_path / "run.db")) == [1]


def test_a_mistake_in_the_journal_itself_is_an_error_and_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(item: int) -> int:
        return item

    for name in ("append", "known", "recall", "close"):
        path, original = tmp_path / f"{name}.db", getattr(JournalFile, name)
        asyncio.run(amap(work, [1], journal=path))

        def broken(*args: Any, _original: Any = original, **options: Any) -> Any:
            _original(*args, **options)
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr(JournalFile, name, broken)
            with pytest.raises(ZeroDivisionError):
                asyncio.run(amap(work, [1, 2], journal=path))
