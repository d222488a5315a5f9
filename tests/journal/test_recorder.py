"""Promises 25 to 27 in the corners: what a run with a journal counts, keeps in order, holds back, closes, survives."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aiomap import (
    SKIP,
    CallbackError,
    Journal,
    JournalDamaged,
    JournalError,
    Rate,
    RecordedFailure,
    Throttled,
    Tolerate,
    UnrecordableResult,
    aimap,
    amap,
    aoutcomes,
    run,
)
from aiomap.errors import TooManyFailures
from aiomap.journal import writer
from aiomap.journal.file import JournalFile
from aiomap.journal.rows import FAILED, Row
from aiomap.testing import SimLoop, simulate
from tests.conftest import Play

append = JournalFile.append


@pytest.fixture
def path() -> Iterator[Callable[[], Path]]:
    """Paths in memory, where there is such a place. A new one for each call."""
    memory = Path("/dev/shm")  # noqa: S108  (the folders in it have names that nobody can guess)
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield lambda: Path(tempfile.mkdtemp(dir=folder)) / "run.db"


async def same(item: Any) -> Any:
    return item


async def slow(item: Any) -> Any:
    await asyncio.sleep(1)
    return item


async def record(journal: Path, items: Any) -> None:
    """Records these items, of either function above."""
    await amap(same, items, journal=Journal(journal, on_change="reuse"))


def resumed(journal: Path, **options: Any) -> Journal:
    return Journal(journal, on_change="reuse", **options)


def keys(journal: Path) -> Counter[int]:
    return Counter(json.loads(record.key) for record in Journal.read(journal)) if journal.exists() else Counter()


def states(journal: Path) -> dict[int, str]:
    return {record.index: record.state for record in Journal.read(journal)}


def counts(journal: Path) -> dict[str, int]:
    """What the last sitting wrote when it was closed."""
    with closing(sqlite3.connect(journal)) as connection:
        (body,) = connection.execute("SELECT body FROM sitting ORDER BY id DESC LIMIT 1").fetchone()
    told: dict[str, int] = json.loads(body)["counts"]
    return told


class Numbers:
    """A plain input that counts what was taken from it; at `fails` it raises, and would again."""

    def __init__(self, end: int, fails: int = -1) -> None:
        self.end, self.fails = end, fails
        self.asked = 0
        self.pulled = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.asked += 1
        if self.pulled == self.fails:
            raise OSError("the input broke")
        if self.pulled == self.end:
            raise StopIteration
        self.pulled += 1
        return self.pulled - 1


# What a run counts and notes down.


def test_a_record_says_when_its_item_started_however_long_the_input_took_to_open(path: Callable[[], Path]) -> None:
    class Opening(Numbers):
        def __iter__(self) -> Iterator[int]:
            loop.advance(1000)
            return super().__iter__()

    async def main() -> None:
        await amap(slow, Opening(3), 1, journal=journal)

    loop, journal, before = SimLoop(seed=None), path(), time.time()
    loop.run(main)
    for number, record in enumerate(Journal.read(journal)):
        assert before <= record.started - number <= time.time() + 0.1, "virtual time went on by a second an item"
        assert record.elapsed == 1.0


def test_outcomes_of_an_earlier_run_started_before_this_one_also_if_the_clock_was_set_back(
    play: Play, path: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        loop, journal, shift = asyncio.get_running_loop(), path(), 0.0
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: 1e9 + loop.time() + shift)
            await amap(slow, [0], journal=journal)
            await asyncio.sleep(3600)
            async with aoutcomes(slow, [0], journal=journal) as stream:
                assert (await anext(stream)).started == pytest.approx(-3601, abs=1)
            shift = -7200
            async with aoutcomes(slow, [0], journal=journal) as stream:
                outcome = await anext(stream)
                assert (-outcome.started, outcome.elapsed) == pytest.approx((1, 1), abs=1e-5)

    play(main)


def test_the_counts_that_a_run_leaves_in_the_journal_are_those_at_its_end(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        journal = path()
        await record(journal, ["a", "b", "c", "d"])
        assert counts(journal) == {"recalled": 0, "moved": 0, "recorded": 4, "missing": 0}
        await amap(same, ["b", "a", "c"], journal=journal)
        assert counts(journal) == {"recalled": 3, "moved": 2, "recorded": 0, "missing": 1}
        await amap(same, ["a", "e"], journal=journal)
        assert counts(journal) == {"recalled": 1, "moved": 0, "recorded": 1, "missing": 3}

    play(main)


def test_nothing_is_said_of_an_input_that_was_not_read_to_its_end(
    play: Play, path: Callable[[], Path], caplog: pytest.LogCaptureFixture
) -> None:
    async def waiting_behind() -> AsyncIterator[int]:
        for number in (5, 6, 0):  # the last one is known, and taken from the input when the others run
            yield number

    async def main() -> None:
        for data, drained in ((lambda: range(5, 9), True), (lambda: range(5, 9), False), (waiting_behind, False)):
            journal = path()
            await record(journal, [0, 1, 2])
            async with aimap(slow, data(), 2, buffer=0, journal=resumed(journal)) as stream:
                waiting = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0.5)
                if drained:
                    stream.drain()
                    await waiting
                    assert await anext(stream) == 6
                waiting.cancel()
        with pytest.raises(OSError, match="broke"):
            await amap(slow, Numbers(9, fails=0), journal=resumed(journal), on_error="return")
        with pytest.raises(OSError, match="broke"):
            await amap(slow, Numbers(9, fails=0), journal=resumed(journal))
        assert [message for message in caplog.messages if "not in the input" in message] == []

    play(main)


def test_a_first_run_has_nothing_to_tell(
    play: Play, path: Callable[[], Path], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with caplog.at_level(logging.INFO, "aiomap.journal"):
            await record(path(), [1])
        assert caplog.messages == []

    play(main)


def test_the_share_that_tolerate_allows_is_of_all_that_is_done_in_earlier_runs_too(
    play: Play, path: Callable[[], Path]
) -> None:
    async def work(item: int) -> int:
        await asyncio.sleep(1)
        if item % 20 == 0:
            raise ValueError(item)
        return item

    async def main() -> None:
        journal = path()
        await amap(work, iter(range(100)), 50, journal=journal, on_error="return")
        kept, tenth = Journal(journal, retry_failed=False), Tolerate(0.1)
        assert len(await amap(work, iter(range(150)), 1, journal=kept, on_error=tenth)) == 150
        with pytest.raises(TooManyFailures) as raised:
            await amap(work, iter(range(200)), 1, journal=kept, on_error=Tolerate(8))
        assert (raised.value.failed, raised.value.done) == (9, 161)

    play(main)


def test_kept_failures_alone_can_be_more_than_tolerate_allows(play: Play, path: Callable[[], Path]) -> None:
    async def work(item: int) -> int:
        if item % 2:
            raise ValueError(item)
        return item

    async def main() -> None:
        journal = path()
        await amap(work, iter(range(40)), journal=journal, on_error="return")
        kept = Journal(journal, retry_failed=False)
        with pytest.raises(TooManyFailures):
            await amap(work, iter(range(40)), journal=kept, on_error=Tolerate(0.4))
        assert len(await amap(work, iter(range(40)), journal=kept, on_error=Tolerate(0.5))) == 40

    play(main)


def test_a_failure_is_noted_with_the_name_of_its_type_and_a_message_of_2000_characters(
    play: Play, path: Callable[[], Path]
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise LookupError

    class Lost(Exception):
        pass

    failures = [Mute(), Lost("x" * 3000), KeyError("k")]

    async def work(item: int) -> int:
        raise failures[item]

    async def main() -> None:
        journal = path()
        await amap(work, range(3), journal=journal, on_error="return")
        mute, lost, key = (record.error for record in Journal.read(journal))
        assert mute is not None
        assert lost is not None
        assert key is not None
        assert mute.type_name.startswith(f"{__name__}.")
        assert mute.type_name.endswith(".Mute")
        assert "LookupError" in mute.message
        assert lost.message == "x" * 2000
        assert (key.type_name, key.message) == ("KeyError", "'k'")

    play(main)


# What counts as recorded.


def test_a_callback_that_raises_loses_no_result(play: Play, path: Callable[[], Path]) -> None:
    def broken(index: int, item: Any) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        journal = path()
        with pytest.raises(CallbackError):
            await amap(same, [1], callback=broken, journal=journal)
        assert states(journal) == {0: "done"}

    play(main)


def test_a_callback_that_raises_what_the_journal_raises_is_a_broken_callback_all_the_same(
    play: Play, path: Callable[[], Path]
) -> None:
    def broken(index: int, item: Any) -> None:
        raise UnrecordableResult(index, "as a map in the callback would raise it")

    async def main() -> None:
        journal = path()
        with pytest.raises(CallbackError, match="callback raised for item 0"):
            await amap(same, [1], callback=broken, journal=journal)
        assert states(journal) == {0: "done"}

    play(main)


def test_an_item_that_fails_because_it_is_stopped_or_cancelled_is_not_recorded_as_a_failure(
    play: Play, path: Callable[[], Path]
) -> None:
    async def work(item: int) -> int:
        if item == 2:
            raise asyncio.CancelledError
        try:
            await asyncio.sleep(1 if item else 100)
        except asyncio.CancelledError as error:
            raise ValueError("it lost its connection") from error
        return item

    async def main() -> None:
        journal = path()
        results = await amap(work, [1, 2], journal=journal, on_error="return")
        assert results[0] == 1
        stopped = asyncio.ensure_future(amap(work, [0, 1], journal=journal, on_error="return"))
        await asyncio.sleep(2)
        stopped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopped
        assert states(journal) == {0: "done"}

    play(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_kept_failure_ends_a_stream_after_what_precedes_it_and_nothing_else_comes(
    play: Play, path: Callable[[], Path], ordered: bool
) -> None:
    async def work(item: int) -> int:
        if item == 5:
            raise ValueError(item)
        return item

    async def main() -> None:
        journal = path()
        await amap(work, range(10), journal=journal, on_error="return")
        kept = Journal(journal, retry_failed=False)
        stream, results = aimap(work, range(10), 2, ordered=ordered, journal=kept), list[Any]()
        with pytest.raises(RecordedFailure, match="ValueError: 5") as raised:
            async for result in stream:
                results.append(result)
        assert results == [0, 1, 2, 3, 4] if ordered else set(results) <= {0, 1, 2, 3, 4, 6, 7, 8, 9}
        assert "item 5: 5" in str(raised.value.__notes__)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    play(main)


def test_the_same_journal_value_serves_one_run_after_the_other(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        journal = Journal(path(), durable=True)
        for end in (3, 5):
            assert await amap(same, range(end), journal=journal) == list(range(end))
            async with aimap(same, range(end + 1), journal=journal) as stream:
                assert [result async for result in stream] == list(range(end + 1))
        assert set(keys_by_position := states(Path(journal.path))) == set(range(6))
        assert len(keys_by_position) == 6

    play(main)


def test_a_recorded_failure_that_cannot_be_read_back_is_damage_and_no_hang(
    play: Play, path: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(file: JournalFile, rows: Sequence[Row]) -> int:
        return append(file, [(*row[:-1], b"[]") if row[2] == FAILED else row for row in rows])

    async def work(item: int) -> int:
        raise ValueError(item)

    async def main() -> None:
        journal = path()
        with monkeypatch.context() as patched:
            patched.setattr(JournalFile, "append", empty)
            await amap(work, [1], journal=journal, on_error="return")
        with pytest.raises(JournalDamaged):
            await amap(work, [1], journal=Journal(journal, retry_failed=False), on_error="return")
        with pytest.raises(JournalDamaged):
            list(Journal.read(journal))

    play(main)


def test_a_row_of_another_item_is_never_taken_for_the_one_that_was_asked_for(
    play: Play, path: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recall = JournalFile.recall

    def swapped(file: JournalFile, ids: Sequence[int]) -> list[Row]:
        return recall(file, ids)[::-1]

    async def main() -> None:
        for items in ([1, 2], [1, 1]):
            journal = path()
            await record(journal, items)
            with monkeypatch.context() as patched:
                patched.setattr(JournalFile, "recall", swapped)
                with pytest.raises(JournalDamaged, match="row 1 is not the one"):
                    await amap(same, items, journal=journal)

    play(main)


# The input, the window and the loop.


def test_an_input_that_raised_is_not_asked_again(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        journal = path()
        await record(journal, range(0, 8, 2))
        for known in (2, 3, 8):  # it raises behind a recorded item, behind a new one, and when all are recorded
            numbers = Numbers(20, fails=known)
            with pytest.raises(OSError, match="broke"):
                await amap(same, numbers, 2, journal=journal, on_error="return")
            assert numbers.asked == known + 1

    play(main)


def test_an_async_input_is_closed_while_it_waits_and_recorded_items_are_on_their_way(
    play: Play, path: Callable[[], Path]
) -> None:
    async def main() -> None:
        journal, closed = path(), 0
        await record(journal, range(4))

        async def numbers() -> AsyncIterator[int]:
            nonlocal closed
            try:
                for number in range(4):
                    yield number
                await asyncio.Event().wait()
            finally:
                closed += 1

        async with aimap(same, numbers(), journal=journal) as stream:
            assert await anext(stream) == 0
        assert closed == 1
        stream = aimap(same, numbers(), journal=journal)
        results = [await anext(stream) for _ in range(4)]
        stream.drain()
        assert [*results, *[result async for result in stream]] == [0, 1, 2, 3]
        assert closed == 2

    play(main)


def test_an_async_input_is_one_item_ahead_and_that_one_is_counted_as_waiting(
    play: Play, path: Callable[[], Path]
) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def main() -> None:
        async with aimap(slow, numbers(), 1, buffer=0, journal=path()) as stream:
            first = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.5)
            stats = stream.stats
            assert await first == 0
            assert (stats.pulled, stats.running, stats.waiting) == (2, 1, 1)

    play(main)


def test_an_input_that_fails_right_behind_recorded_items_leaves_no_callback_behind(path: Callable[[], Path]) -> None:
    said: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        journal = path()
        await record(journal, range(3))
        with pytest.raises(OSError, match="broke"):
            await amap(same, Numbers(4, fails=3), journal=journal)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert said == []


@pytest.mark.parametrize("count", [3, 512, 513])
def test_an_input_that_fails_right_behind_recorded_items_leaves_nothing_behind(
    play: Play, path: Callable[[], Path], count: int
) -> None:
    async def main() -> None:
        journal = path()
        await record(journal, range(count))
        for on_error in ("raise", "return"):
            with pytest.raises(OSError, match="broke"):
                await amap(same, Numbers(count + 1, fails=count), journal=journal, on_error=on_error)

    play(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_the_window_is_full_and_never_fuller_with_recorded_and_new_items(
    play: Play, path: Callable[[], Path], ordered: bool
) -> None:
    async def main() -> None:
        for known in (range(60), range(0, 60, 2), [number for number in range(60) if number % 7]):
            journal, numbers, delivered = path(), Numbers(60), 0
            await record(journal, known)
            options: dict[str, Any] = {"ordered": ordered, "buffer": 2, "journal": resumed(journal)}
            async with aimap(slow, numbers, 4, **options) as stream:
                async for _ in stream:
                    delivered += 1
                    assert numbers.pulled - delivered <= 6
                    await asyncio.sleep(5)
                    assert numbers.pulled - delivered == min(6, 60 - delivered)
            assert delivered == 60

    play(main)


def test_the_loop_goes_round_while_recorded_items_are_passed_over(path: Callable[[], Path]) -> None:
    async def main() -> None:
        journal, numbers, most = path(), Numbers(6000), 0
        await record(journal, range(6000))
        running = asyncio.ensure_future(amap(same, numbers, journal=journal))
        while not running.done():
            before = numbers.pulled
            await asyncio.sleep(0)
            most = max(most, numbers.pulled - before)
        assert len(await running) == 6000
        assert most <= 2048

    asyncio.run(main())


def test_a_durable_stream_starts_the_next_item_as_soon_as_one_that_is_left_out_makes_room(
    play: Play, path: Callable[[], Path]
) -> None:
    started: list[int] = []

    async def work(item: int) -> Any:
        started.append(item)
        await asyncio.sleep({1: 3}.get(item, 1))
        return SKIP if item == 2 else item

    async def main() -> None:
        started.clear()
        async with aimap(work, range(9), 2, buffer=0, journal=Journal(path(), durable=True)) as stream:
            assert await anext(stream) == 0
            await asyncio.sleep(10)
            assert started == [0, 1, 2, 3], "of the window of two, 1 is there and 2 came to nothing"

    play(main)


# A run that cannot start, and one that nobody goes on with.


def test_a_run_that_cannot_start_lets_go_of_its_journal(path: Callable[[], Path]) -> None:
    rate, journal = Rate(100), path()

    async def main() -> None:
        begun, end = threading.Event(), threading.Event()

        async def hold(item: int) -> None:
            begun.set()
            await asyncio.to_thread(end.wait)

        other = threading.Thread(target=run, args=(hold, [1]), kwargs={"limits": [rate]})
        other.start()
        try:
            await asyncio.to_thread(begun.wait)
            with pytest.raises(RuntimeError, match="in another event loop"):
                await amap(same, [1], limits=[rate], journal=journal)
            assert await amap(same, [1], journal=journal) == [1]
        finally:
            end.set()
            other.join()

    asyncio.run(main())


def test_a_run_whose_progress_bar_cannot_be_shown_starts_nothing(
    play: Play, path: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed:
        def update(self, _: object) -> None:
            raise BrokenPipeError

        def close(self, _: object) -> None:
            pass

    async def main() -> None:
        journal, numbers = path(), Numbers(3)
        with monkeypatch.context() as patched:
            patched.setattr("aiomap._map._observer", lambda *_: Closed())
            with pytest.raises(BrokenPipeError):
                await amap(same, numbers, journal=journal)
        await asyncio.sleep(10)
        assert numbers.pulled == 0
        assert await amap(same, [1], journal=journal) == [1]

    play(main)


def test_a_run_on_a_simulated_loop_that_is_cancelled_while_its_journal_opens_lets_go_of_it(
    path: Callable[[], Path],
) -> None:
    async def main() -> None:
        journal = path()
        running = asyncio.ensure_future(amap(same, range(3), journal=journal))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await amap(same, range(3), journal=journal) == [0, 1, 2]

    for seed in range(60):
        simulate(main, seed)


def test_a_stream_that_is_collected_lets_go_of_its_journal(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        journal = path()
        await record(journal, range(0, 30, 2))
        streams = [aimap(slow, range(30), 3, journal=resumed(journal))]
        assert [await anext(streams[0]), await anext(streams[0])] == [0, 1]
        with pytest.warns(ResourceWarning, match="was left before its end"):
            streams.clear()
        await asyncio.sleep(10)
        assert await amap(slow, range(30), journal=resumed(journal)) == list(range(30))

    play(main)


def test_a_loop_that_never_runs_again_keeps_no_journal(path: Callable[[], Path]) -> None:
    journal = path()

    def abandon() -> None:
        loop = asyncio.new_event_loop()

        async def work(item: int) -> int:
            if item == 3:
                loop.stop()
                await asyncio.Event().wait()
            return item

        async def main() -> None:
            await amap(work, range(10), 2, journal=journal)

        task = loop.create_task(main())
        loop.set_exception_handler(lambda *_: None)  # it would say that tasks were left
        loop.run_forever()
        task.get_name()
        loop.close()

    abandon()
    deadline = time.monotonic() + 5
    while True:  # the thread may be at its last commit
        gc.collect()
        try:
            results = run(same, range(10), journal=resumed(journal))
        except JournalError:
            if time.monotonic() > deadline:
                raise
        else:
            break
    assert results == list(range(10))


def test_run_works_with_a_journal_in_a_running_loop(path: Callable[[], Path]) -> None:
    async def main() -> None:
        journal = path()
        assert run(same, [1, 2], journal=journal) == [1, 2]
        assert run(same, [2, 1, 3], journal=journal) == [2, 1, 3]
        assert len(states(journal)) == 3

    asyncio.run(main())


# Whatever is done to a stream, at any step.


class Story:
    """A stream made from a seed: what is recorded already, what its items come to, and what is done to it when."""

    def __init__(self, seed: int, journal: Path) -> None:
        chance, self.seed = Random(seed), seed
        self.count = chance.randrange(1, 30)
        self.known = chance.sample(range(self.count), chance.randrange(self.count + 1))
        self.skips = set(chance.sample(range(self.count), chance.randrange(min(self.count, 6))))
        self.throttled = set(chance.sample(range(self.count), 1)) if chance.random() < 0.2 else set[int]()
        self.delays = [chance.choice((0, 0, 0.001, 0.05, 0.3)) for _ in range(self.count)]
        self.broken, self.is_async = chance.random() < 0.2, chance.random() < 0.4
        self.consumer = chance.choice((0, 0, 0.1))
        self.ordered, self.limit = chance.random() < 0.5, chance.choice((1, 2, 5))
        self.options: dict[str, Any] = {
            "buffer": chance.choice((None, 0, 1, 3)),
            "limits": [Rate(20)] if chance.random() < 0.25 else [],
            "journal": Journal(journal, key=int, durable=chance.random() < 0.4),
            "on_error": chance.choice(("raise", "return")),
        }
        kinds = ("pause", "resume", "drain", "fewer", "more", "cancel", "aclose")
        self.acts = {chance.randrange(1, 60): chance.choice(kinds) for _ in range(chance.choice((1, 1, 2, 3)))}
        self.ran: Counter[int] = Counter()
        self.results: list[int] = []
        self.journal, self.helpers = journal, list[asyncio.Task[None]]()

    async def work(self, item: int) -> Any:
        if self.delays[item]:
            await asyncio.sleep(self.delays[item])
        if item in self.throttled:
            self.throttled.clear()
            raise Throttled(0.1)
        self.ran[item] += 1
        return SKIP if item in self.skips else item

    def data(self) -> Any:
        numbers = Numbers(self.count, fails=self.count if self.broken else -1)

        async def each() -> AsyncIterator[int]:
            for number in numbers:
                await asyncio.sleep(0.001)
                yield number

        return each() if self.is_async else numbers

    async def first(self) -> None:
        await amap(self.work, self.known, journal=self.options["journal"])

    async def main(self) -> None:
        self.consuming = asyncio.current_task()
        self.stream = aimap(self.work, self.data(), self.limit, ordered=self.ordered, **self.options)
        try:
            async with self.stream:
                async for result in self.stream:
                    self.results.append(result)
                    await asyncio.sleep(self.consumer)
        except OSError:
            assert self.broken
        finally:
            for helper in self.helpers:
                await helper

    def act(self, loop: SimLoop, step: int) -> None:
        stream: Any = getattr(self, "stream", None)
        if stream is None:
            return
        stats = stream.stats
        assert (
            stats.pulled
            == (stats.running + stats.waiting + stats.retrying + stats.done + stats.skipped + stats.cancelled)
            + stats.recorded
        )
        assert min(stats.running, stats.waiting, stats.done, stats.buffered) >= 0
        assert stats.recorded <= len(self.known)
        match self.acts.get(step):
            case "pause":
                stream.pause()
                loop.call_later(5, stream.resume)
            case "fewer" | "more" as kind:
                stream.max_concurrent_tasks = 1 if kind == "fewer" else 9
            case "cancel":
                assert self.consuming is not None
                self.consuming.cancel()
            case "aclose":
                self.helpers.append(loop.create_task(stream.aclose()))
            case "drain" | "resume" as kind:
                getattr(stream, kind)()
            case _:
                pass

    async def last(self) -> list[int]:
        return await amap(self.work, range(self.count), 3, journal=self.options["journal"])

    def check(self) -> None:
        SimLoop(self.seed).run(self.first)
        assert keys(self.journal) == Counter(self.known)
        self.ran.clear()
        loop = SimLoop(self.seed)
        loop.before_step = lambda step: self.act(loop, step)
        whole = not {"drain", "cancel", "aclose"} & set(self.acts.values())
        whole = whole and not (self.broken and self.options["on_error"] == "raise")
        with suppress(asyncio.CancelledError):
            loop.run(self.main)
        assert not set(self.ran) & set(self.known), "what was recorded ran again"
        assert keys(self.journal) == Counter(self.known) + self.ran
        expected = [number for number in range(self.count) if number not in self.skips]
        results = self.results if self.ordered else sorted(self.results)
        assert results == expected[: len(results)] if self.ordered else set(results) <= set(expected)
        assert len(results) == len(set(results))
        assert not whole or results == expected
        assert SimLoop(self.seed).run(self.last) == expected
        assert self.ran == Counter(range(self.count)) - Counter(self.known)
        assert Journal(self.journal).check().ok


@pytest.mark.parametrize("block", range(5))
def test_whatever_is_done_to_a_stream_at_any_step_nothing_hangs_is_lost_or_runs_twice(
    path: Callable[[], Path], block: int
) -> None:
    for seed in range(block * 20, block * 20 + 20):
        Story(seed, path()).check()


# On real threads.


async def settled(turns: int = 500) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110  (what it waits for happens in another thread)
        await asyncio.sleep(0)


@pytest.mark.once
def test_a_recorded_result_is_read_however_steadily_others_are_recorded(
    path: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, recall, deadline = path(), JournalFile.recall, time.monotonic() + 10
    completed = commits = 0
    commits_before: list[int] = []
    asyncio.run(record(journal, [100]))

    def busy(file: JournalFile, rows: Sequence[Row]) -> int:
        """A disk that is never done before there is more."""
        nonlocal commits
        commits += 1
        last = append(file, rows)
        while not commits_before and completed < 20 * commits + 15 and time.monotonic() < deadline:
            time.sleep(0)
        return last

    def read(file: JournalFile, ids: Sequence[int]) -> list[Row]:
        commits_before.append(commits)
        return recall(file, ids)

    async def work(item: int) -> int:
        nonlocal completed
        await until(lambda: bool(commits_before) or completed < 20 * commits + 20)
        completed += 1
        return item

    async def main() -> None:
        async with aimap(work, range(1000), 10, ordered=False, journal=resumed(journal)) as stream:
            async for result in stream:
                if result == 100:
                    return

    with monkeypatch.context() as patched:
        patched.setattr(JournalFile, "append", busy)
        patched.setattr(JournalFile, "recall", read)
        asyncio.run(main())
    assert commits_before[0] <= 12, "it was asked for after 100 results, in 5 commits or a few more"


def test_a_durable_stream_hands_out_no_result_whose_commit_has_not_come_back(
    path: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_COMMIT", 0.0)
    commits = [threading.Event(), threading.Event()]
    begun: list[int] = []
    completed: list[int] = []

    def held(file: JournalFile, rows: Sequence[Row]) -> int:
        begun.append(len(rows))
        commits[len(begun) - 1].wait()
        return append(file, rows)

    monkeypatch.setattr(JournalFile, "append", held)

    async def work(item: int) -> int:
        await until(lambda: len(begun) == item)
        completed.append(item)
        return item

    async def main() -> None:
        async with aimap(work, range(2), 2, journal=Journal(path(), durable=True)) as stream:
            first = asyncio.ensure_future(anext(stream))
            await until(lambda: len(completed) == 2)
            await settled()
            assert not first.done()
            commits[0].set()
            assert await first == 0
            second = asyncio.ensure_future(anext(stream))
            await until(lambda: len(begun) == 2)
            await settled()
            assert not second.done()
            commits[1].set()
            assert await second == 1

    try:
        asyncio.run(main())
    finally:
        for commit in commits:
            commit.set()


def test_no_thread_and_no_file_is_left_after_a_run(path: Callable[[], Path]) -> None:
    def threads() -> int:
        return sum(thread.name.startswith("aiomap.journal") for thread in threading.enumerate())

    async def main() -> None:
        journal, before = path(), threads()
        for _ in range(3):
            assert await amap(same, range(3), journal=journal) == [0, 1, 2]
            assert not journal.with_name("run.db-wal").exists()
        await until(lambda: threads() <= before)

    asyncio.run(main())
