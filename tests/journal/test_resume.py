"""Promises 25 to 27 in maps: what is recorded is not run again, and comes back in its place."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiomap import (
    SKIP,
    CallbackError,
    Journal,
    JournalChanged,
    JournalError,
    JournalLocked,
    PerKey,
    Rate,
    RecordedFailure,
    Retry,
    Throttled,
    Tolerate,
    UnrecordableResult,
    aimap,
    amap,
    aoutcomes,
)
from tests.conftest import Play


class Work:
    """A function to map, the calls it got, and what it is to do for some items."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.fails: dict[Any, Exception] = {}
        self.returns: dict[Any, Any] = {}
        self.takes: dict[Any, float] = {}

    async def __call__(self, item: Any) -> Any:
        self.calls.append(item)
        await asyncio.sleep(self.takes.get(item, 0.1))
        if item in self.fails:
            raise self.fails[item]
        return self.returns.get(item, f"<{item}>")

    def new_calls(self) -> list[Any]:
        calls, self.calls = self.calls, []
        return sorted(calls, key=str)


@pytest.fixture
def path() -> Iterator[Callable[[], Path]]:
    """Paths in memory, where there is such a place: what a disk does is tested elsewhere. A new one for each call."""
    memory = Path("/dev/shm")  # noqa: S108  (the folders in it have names that nobody can guess)
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield lambda: Path(tempfile.mkdtemp(dir=folder)) / "run.db"


async def listed(stream: Any) -> list[Any]:
    async with stream:
        return [result async for result in stream]


def values(path: Path) -> dict[int, Any]:
    return {record.index: record.value for record in Journal.read(path)}


def test_a_second_run_runs_nothing_and_gives_the_same_list(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        first = await amap(work, range(30), 4, journal=journal)
        assert first == [f"<{number}>" for number in range(30)]
        assert work.new_calls() == sorted(range(30), key=str)
        assert await amap(work, range(30), 4, journal=journal) == first
        assert work.new_calls() == []

    play(main)


def test_after_a_failure_only_what_is_missing_runs(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        work.fails[17] = ValueError("not today")
        with pytest.raises(ValueError, match="not today"):
            await amap(work, range(30), 4, journal=journal)
        before = set(work.new_calls())
        recorded = set(values(journal)) - {17}
        assert recorded >= set(range(14))
        del work.fails[17]
        assert await amap(work, range(30), 4, journal=journal) == [f"<{number}>" for number in range(30)]
        assert set(work.new_calls()) == set(range(30)) - recorded
        assert before >= recorded

    play(main)


def test_a_cancelled_run_has_recorded_all_that_was_completed(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        running = asyncio.ensure_future(amap(work, range(100), 10, journal=journal))
        await asyncio.sleep(0.55)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        completed = len(work.new_calls()) - 10
        assert len(values(journal)) == completed >= 30
        await amap(work, range(100), 10, journal=journal)
        assert len(work.new_calls()) == 100 - completed

    play(main)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("buffer", [None, 0, 3])
def test_streams_deliver_what_is_recorded_too(
    play: Play, path: Callable[[], Path], ordered: bool, buffer: int | None
) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        await amap(work, [*range(0, 40, 3)], journal=journal)
        work.new_calls()
        stream = aimap(work, range(40), 4, ordered=ordered, buffer=buffer, journal=journal)
        assert (stream.stats.recorded, stream.stats.pulled) == (0, 0)
        results = await listed(stream)
        expected = [f"<{number}>" for number in range(40)]
        assert results == expected if ordered else sorted(results) == sorted(expected)
        assert work.new_calls() == sorted(set(range(40)) - set(range(0, 40, 3)), key=str)
        assert (stream.stats.recorded, stream.stats.done, stream.stats.pulled) == (14, 26, 40)

    play(main)


def test_a_recalled_result_counts_as_started_and_not_delivered(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal, pulled = Work(), path(), 0
        await amap(work, range(100), 10, journal=journal)

        def numbers() -> Any:
            nonlocal pulled
            for pulled in range(1, 101):
                yield pulled - 1

        async with aimap(work, numbers(), 4, buffer=2, journal=journal) as stream:
            async for number in stream:
                delivered = int(number[1:-1]) + 1
                await asyncio.sleep(1)
                assert pulled - delivered <= 6 + 1, "one more is looked at, to know whether it must run"
        assert work.new_calls() == sorted(range(100), key=str)

    play(main)


def test_outcomes_of_an_earlier_run_say_how_it_went_then(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        work.takes["a"] = 2.0
        first = await listed(aoutcomes(work, ["a", "b"], 1, ordered=True, journal=journal))
        assert all(outcome.started >= 0 for outcome in first)
        second = await listed(aoutcomes(work, ["b", "a", "c"], 1, ordered=True, journal=journal))
        assert [outcome.value for outcome in second] == ["<b>", "<a>", "<c>"]
        assert [(outcome.index, outcome.item, outcome.attempts) for outcome in second] == [
            (0, "b", 1),
            (1, "a", 1),
            (2, "c", 1),
        ]
        assert second[1].elapsed == pytest.approx(2.0)
        assert [outcome.started < 0 for outcome in second] == [True, True, False]

    play(main)


def test_the_input_may_be_reordered_grow_and_shrink(
    play: Play, path: Callable[[], Path], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        await amap(work, ["a", "b", "c", "d"], journal=journal)
        work.new_calls()
        caplog.clear()
        with caplog.at_level(logging.INFO, "aiomap.journal"):
            assert await amap(work, ["e", "c", "b", "a"], journal=journal) == ["<e>", "<c>", "<b>", "<a>"]
        assert work.new_calls() == ["e"]
        shrunk, told = (record.getMessage() for record in caplog.records)
        assert "1 of its 4 results are of items that are not in the input any more; they are kept" in shrunk
        assert "3 results were recorded already, 3 of them from another place in the input; 1 are new" in told
        assert await amap(work, ["d"], journal=journal) == ["<d>"]
        assert work.new_calls() == []

    play(main)


def test_a_run_that_was_stopped_does_not_call_its_input_shrunk(
    play: Play, path: Callable[[], Path], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        await amap(work, range(20), journal=journal)
        caplog.clear()
        async with aimap(work, range(20), journal=journal) as stream:
            assert await anext(stream) == "<0>"
        assert not caplog.records

    play(main)


def test_equal_items_are_recorded_each(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        journal, calls = path(), 0

        async def count(_: str) -> int:
            nonlocal calls
            calls += 1
            return calls

        assert await amap(count, ["a", "a", "b", "a"], 1, journal=journal) == [1, 2, 3, 4]
        assert await amap(count, ["a", "a", "b", "a", "a"], 1, journal=journal) == [1, 2, 3, 4, 5]
        assert await amap(count, ["b", "a", "a", "a", "a", "b"], 1, journal=journal) == [3, 1, 2, 4, 5, 6]
        assert [(record.occurrence, record.value) for record in Journal.read(journal)] == [
            (0, 1), (1, 2), (0, 3), (2, 4), (3, 5), (1, 6)
        ]  # fmt: skip

    play(main)


def test_a_key_of_the_users_own_is_what_counts(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work = Work()
        journal = Journal(path(), key=lambda item: item[0])
        await amap(work, [("a", 1), ("b", 2)], journal=journal)
        assert len(work.new_calls()) == 2
        assert await amap(work, [("b", 9), ("a", 8)], journal=journal) == ["<('b', 2)>", "<('a', 1)>"]
        assert work.new_calls() == []
        assert {record.key: record.index for record in Journal.read(journal.path)} == {'"a"': 0, '"b"': 1}

    play(main)


def test_an_item_that_nobody_could_know_again_stops_the_run(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        with pytest.raises(TypeError, match=r"the journal cannot know item 2 again: .*key="):
            await amap(work, [1, 2, object(), 4], 1, journal=journal)
        assert set(values(journal)) <= {0, 1}
        with pytest.raises(TypeError, match="the journal cannot know what key gave for item 0 again"):
            await amap(work, [1], journal=Journal(path(), key=lambda _: object()))
        with pytest.raises(CallbackError, match="key raised for item 1") as raised:
            await amap(work, [1, 0], journal=Journal(path(), key=lambda item: 1 // item))
        assert isinstance(raised.value.__cause__, ZeroDivisionError)

    play(main)


@pytest.mark.parametrize(
    ("result", "fix"),
    [((1, 2), "list"), (float("nan"), "None"), ({1: "a"}, "str"), (b"bytes", "pickle"), ({"a": {2, 3}}, "list")],
    ids=["tuple", "nan", "integer key", "bytes", "set"],
)
def test_a_result_that_would_not_come_back_is_that_items_failure(
    play: Play, path: Callable[[], Path], result: object, fix: str
) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        work.returns[1] = result
        first = await amap(work, [0, 1, 2], journal=journal, on_error="return")
        assert [first[0], first[2]] == ["<0>", "<2>"]
        error = first[1]
        assert isinstance(error, UnrecordableResult)
        assert error.index == 1
        assert fix in str(error)
        with pytest.raises(UnrecordableResult, match="the result of item 1 cannot be recorded"):
            await amap(work, [0, 1, 2], journal=journal)
        assert await amap(work, [0, 1], journal=Journal(path(), serializer="pickle"), on_error="return") != []

    play(main)


def test_pickle_by_name_gives_back_any_kind_of_result(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work = Work()
        work.returns[0] = {1: (2, b"3", {4})}
        journal = Journal(path(), serializer="pickle")
        await amap(work, [0], journal=journal)
        work.new_calls()
        assert await amap(work, [0], journal=journal) == [{1: (2, b"3", {4})}]
        assert work.new_calls() == []
        with pytest.raises(JournalError, match="its results are kept as pickle, and this run wants json: write"):
            await amap(work, [0], journal=journal.path)
        with pytest.raises(JournalError, match=r"write Journal\.read\(path, serializer='pickle'\)"):
            Journal.read(journal.path)

    play(main)


def test_skipped_items_stay_left_out(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        work.returns = {1: SKIP, 3: None}
        for _ in range(2):
            assert await amap(work, range(5), journal=journal) == ["<0>", "<2>", None, "<4>"]
            assert await listed(aimap(work, range(5), journal=journal)) == ["<0>", "<2>", None, "<4>"]
        assert work.new_calls() == [0, 1, 2, 3, 4]

    play(main)


def test_failures_run_again_unless_they_are_kept(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        work.fails = {1: ValueError("see http://me:secret@host/"), 2: KeyError("x")}
        await amap(work, range(4), journal=journal, on_error="return")
        work.new_calls()
        kept = Journal(journal, retry_failed=False)
        results = await amap(work, range(4), journal=kept, on_error="return")
        assert work.new_calls() == []
        failure = results[1]
        assert isinstance(failure, RecordedFailure)
        told = failure.kind, failure.type_name, failure.message
        assert told == ("ValueError", "ValueError", "see http://***@host/")
        assert await amap(work, range(4), journal=kept, on_error="skip") == ["<0>", "<3>"]
        with pytest.raises(RecordedFailure, match="failed in an earlier run: ValueError"):
            await amap(work, range(4), 1, journal=kept)
        outcomes = await listed(aoutcomes(work, range(4), journal=kept, ordered=True))
        assert [type(outcome.error) for outcome in outcomes] == [
            type(None),
            RecordedFailure,
            RecordedFailure,
            type(None),
        ]
        work.fails = {1: ValueError("still")}
        assert (await amap(work, range(4), journal=journal, on_error="return"))[2] == "<2>"
        assert work.new_calls() == [1, 2]

    play(main)


def test_which_failures_run_again_can_be_asked_of_each(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal, asked = Work(), path(), list[str]()
        work.fails = {1: TimeoutError("slow"), 2: KeyError("x"), 3: TimeoutError("slow"), 5: KeyError("y")}
        await amap(work, range(6), journal=journal, on_error="return")
        await amap(work, [5, 5], journal=journal, on_error="return")
        work.new_calls()

        def is_timeout(failure: RecordedFailure) -> bool:
            asked.append(failure.kind)
            return failure.kind == "timeout"

        del work.fails[1], work.fails[5]
        results = await amap(work, range(6), journal=Journal(journal, retry_failed=is_timeout), on_error="return")
        assert work.new_calls() == [1, 3]
        assert sorted(asked) == ["KeyError", "KeyError", "KeyError", "timeout", "timeout"]
        assert results[1] == "<1>"
        assert [type(results[index]) for index in (2, 3, 5)] == [RecordedFailure, TimeoutError, RecordedFailure]

        def broken(failure: RecordedFailure) -> bool:
            raise ZeroDivisionError(failure)

        with pytest.raises(CallbackError, match="retry_failed raised for item"):
            await amap(work, range(6), journal=Journal(journal, retry_failed=broken))
        assert work.new_calls() == []

    play(main)


def test_failures_that_are_kept_count_for_tolerate(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal = Work(), Journal(path(), retry_failed=False)
        work.fails = dict.fromkeys(range(3), ValueError("no"))
        await amap(work, range(10), journal=journal, on_error=Tolerate(3))
        with pytest.raises(Exception, match="more than on_error=Tolerate"):
            await amap(work, range(10), journal=journal, on_error=Tolerate(2))

    play(main)


def test_the_callback_is_not_called_for_what_is_recorded(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal, told = Work(), path(), list[Any]()
        await amap(work, ["a", "b"], journal=journal)
        await amap(work, ["c", "a"], callback=lambda index, item: told.append((index, item)), journal=journal)
        assert told == [(0, "c")]

    play(main)


def test_an_async_input_is_resumed_too(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal, closed = Work(), path(), 0

        async def numbers() -> AsyncIterator[int]:
            nonlocal closed
            try:
                for number in range(30):
                    yield number
                    await asyncio.sleep(0)
            finally:
                closed += 1

        await amap(work, range(0, 30, 2), journal=journal)
        work.new_calls()
        assert await amap(work, numbers(), 3, journal=journal) == [f"<{number}>" for number in range(30)]
        assert work.new_calls() == sorted(range(1, 30, 2), key=str)
        assert await listed(aimap(work, numbers(), 3, journal=journal)) == [f"<{number}>" for number in range(30)]
        assert work.new_calls() == []
        assert closed == 2

    play(main)


@pytest.mark.parametrize("buffer", [None, 0])
def test_every_policy_works_with_a_journal(play: Play, path: Callable[[], Path], buffer: int | None) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        await amap(work, range(0, 60, 2), journal=journal)
        work.new_calls()
        tries: dict[int, int] = {}

        async def flaky(item: int) -> str:
            tries[item] = tries.get(item, 0) + 1
            if item % 3 == 0 and tries[item] == 1:
                raise ConnectionError
            if item % 5 == 0 and tries[item] == 1:
                raise Throttled(1)
            return str(await work(item))

        options: dict[str, Any] = {
            "timeout": 5,
            "retry": Retry(ConnectionError),
            "limits": [Rate(20), PerKey(lambda item: item % 3, 2)],
            "journal": Journal(journal, on_change="reuse"),
        }
        expected = [f"<{number}>" for number in range(60)]
        assert await listed(aimap(flaky, range(60), 4, buffer=buffer, **options)) == expected
        assert work.new_calls() == sorted(range(1, 60, 2), key=str)
        assert await amap(flaky, range(60), 4, **options) == expected
        assert work.new_calls() == []
        records = {record.index: record.attempts for record in Journal.read(journal)}
        assert records[9] == records[5] == 2

    play(main)


def test_a_throttle_in_a_run_without_policies_works_with_a_journal(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal, throttled = Work(), path(), True

        async def once(item: int) -> str:
            nonlocal throttled
            if item == 7 and throttled:
                throttled = False
                raise Throttled(2)
            return str(await work(item))

        for buffer in (None, 0):
            expected = [f"<{number}>" for number in range(50)]
            assert await listed(aimap(once, range(50), 3, buffer=buffer, journal=journal)) == expected
        assert work.new_calls() == sorted(range(50), key=str)

    play(main)


def test_a_changed_function_or_version_is_refused_with_the_ways_out(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        journal, calls = path(), list[str]()

        async def one(item: int) -> int:
            calls.append("one")
            return item

        async def two(item: int) -> int:
            calls.append("two")
            return item * 2

        assert await amap(one, [1, 2], journal=journal) == [1, 2]
        with pytest.raises(
            JournalChanged, match=r"another function .*on_change='reuse'.*on_change='rerun'.*another path"
        ):
            await amap(two, [1, 2], journal=journal)
        with pytest.raises(JournalChanged, match="version"):
            await amap(one, [1, 2], journal=Journal(journal, version="2"))
        assert await amap(two, [1, 2], journal=Journal(journal, on_change="reuse")) == [1, 2]
        assert await amap(two, [1, 2], journal=journal) == [1, 2], "that is the function it belongs to now"
        assert calls == ["one", "one"]
        assert await amap(one, [1, 2, 3], journal=Journal(journal, on_change="rerun")) == [1, 2, 3]
        assert calls == ["one"] * 5
        assert await amap(one, [3, 2, 1], journal=Journal(journal, on_change="rerun")) == [3, 2, 1]
        assert calls == ["one"] * 5
        assert sorted(values(journal).values()) == [1, 2, 3]

    play(main)


def test_a_journal_in_use_is_refused(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        first = asyncio.ensure_future(amap(work, range(50), 2, journal=journal))
        await asyncio.sleep(1)
        with pytest.raises(JournalLocked, match="in use by this process"):
            await amap(work, range(5), journal=journal)
        assert len(await first) == 50

    play(main)


def test_a_journal_that_cannot_be_opened_starts_nothing(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, pulled = Work(), list[int]()
        missing = path().parent / "no such folder" / "run.db"

        def numbers() -> Any:
            for number in range(5):
                pulled.append(number)
                yield number

        with pytest.raises(JournalError, match="no such folder"):
            await amap(work, numbers(), journal=missing)
        with pytest.raises(JournalError, match="no such folder"):
            await listed(aimap(work, numbers(), journal=missing))
        assert work.calls == pulled == []

    play(main)


def test_nothing_is_opened_before_the_first_await(path: Callable[[], Path]) -> None:
    journal = path()
    amap(Work(), [1], journal=journal).close()
    aimap(Work(), [1], journal=journal)
    assert list(journal.parent.iterdir()) == []


def test_a_durable_stream_hands_out_only_what_is_on_the_disk(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        for ordered in (True, False):
            work, journal = Work(), Journal(path(), durable=True)
            for end in (20, 40):
                async with aimap(work, range(end), 4, ordered=ordered, buffer=2, journal=journal) as stream:
                    async for result in stream:
                        assert result in values(Path(journal.path)).values()
            assert work.new_calls() == sorted(range(40), key=str)

    play(main)


def test_a_run_that_is_cancelled_while_the_journal_opens_ends(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        running = asyncio.ensure_future(amap(work, range(10), journal=journal))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert work.calls == []
        assert len(await amap(work, range(10), journal=journal)) == 10

    play(main)


def test_a_stream_can_be_left_at_any_time(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal = Work(), path()
        for _ in range(4):
            async with aimap(work, range(30), 3, journal=journal) as stream:
                await anext(stream)
                stream.drain()
                await asyncio.sleep(0.05)
        async with aimap(work, range(30), 3, journal=journal):
            pass
        assert len(await amap(work, range(30), 3, journal=journal)) == 30
        assert len(work.new_calls()) <= 30 + 4 * 3

    play(main)


def test_an_input_that_fails_leaves_what_was_completed(play: Play, path: Callable[[], Path]) -> None:
    async def main() -> None:
        work, journal = Work(), path()

        def numbers(end: int) -> Any:
            yield from range(end)
            raise OSError("the input broke")

        for end in (10, 20):
            with pytest.raises(OSError, match="the input broke"):
                await amap(work, numbers(end), 3, journal=journal, on_error="return")
            stream = aimap(work, numbers(end), 3, journal=journal, on_error="return")
            with pytest.raises(OSError, match="the input broke"):
                await listed(stream)
        assert work.new_calls() == sorted(range(20), key=str)

    play(main)


@pytest.mark.parametrize("limits", [[], [Rate(1000)]])
def test_at_every_moment_pulled_is_the_sum_of_the_states(
    play: Play, path: Callable[[], Path], limits: list[Rate]
) -> None:
    async def main() -> None:
        work, journal, pulled = Work(), path(), 0
        await amap(work, range(0, 60, 2), journal=journal)

        def numbers() -> Any:
            nonlocal pulled
            for pulled in range(1, 61):
                yield pulled - 1

        async with aimap(work, numbers(), 4, buffer=3, limits=limits, journal=journal) as stream:
            async for _ in stream:
                stats = stream.stats
                states = stats.running + stats.waiting + stats.retrying + stats.done + stats.recorded
                assert stats.pulled == states == pulled
                await asyncio.sleep(0.03)
        assert (stream.stats.recorded, stream.stats.done) == (30, 30)

    play(main)
