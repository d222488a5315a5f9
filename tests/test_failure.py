"""Promises 9 to 14: what becomes of an item that fails, and of the run."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import pytest

from aiomap import (
    CallbackError,
    ItemCancelled,
    Outcome,
    Tolerate,
    TooManyFailures,
    aimap,
    amap,
    aoutcomes,
)

from .conftest import Play
from .meter import Meter

pytestmark = pytest.mark.any_loop


class Odd(Exception):  # an exception of a user's
    pass


async def fail_on_odd(number: int) -> int:
    await asyncio.sleep(number % 3 / 1000)
    if number % 2:
        raise Odd(number)
    return number


def test_the_first_failure_is_raised_itself_with_a_note_of_its_item(play: Play) -> None:
    async def main() -> None:
        error = Odd("the very object")

        async def fail(link: str) -> None:
            if link == "b":
                raise error

        with pytest.raises(Odd) as caught:
            await amap(fail, ["a", "b", "c"])
        assert caught.value is error
        assert caught.value.__notes__ == ["aiomap: item 1: 'b'"]
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None

    play(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_raises_the_first_failure_itself_too(play: Play, *, ordered: bool) -> None:
    async def main() -> None:
        error = Odd("the very object")

        async def fail(link: str) -> None:
            await asyncio.sleep(1)
            if link == "b":
                raise error

        with pytest.raises(Odd) as caught:
            async with aimap(fail, ["a", "b", "c"], 1, ordered=ordered) as results:
                async for _ in results:
                    pass
        assert caught.value is error
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None

    play(main)


def test_the_note_is_short_and_survives_any_repr(play: Play) -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    async def main() -> None:
        async def fail(_: object) -> None:
            raise Odd

        for item, note in ((Shy(), "<Shy, whose repr() fails>"), ("x" * 500 + "\x1b[31m\n", None)):
            with pytest.raises(Odd) as caught:
                await amap(fail, [item])
            assert len(caught.value.__notes__[0]) < 120
            assert caught.value.__notes__[0].isprintable()
            assert note is None or note in caught.value.__notes__[0]

    play(main)


def test_an_exception_that_takes_no_notes_is_raised_without_one(play: Play) -> None:
    class Frozen(Exception):  # as above
        def add_note(self, _: str) -> None:
            raise AttributeError("frozen")

    async def main() -> None:
        async def fail(_: int) -> None:
            raise Frozen

        with pytest.raises(Frozen):
            await amap(fail, [1])

    play(main)


def test_at_the_first_failure_nothing_starts_and_what_runs_is_cancelled_once_and_awaited(play: Play) -> None:
    async def main() -> None:
        meter = Meter(lambda _: 5.0)
        cleaned: list[int] = []

        async def work(item: int) -> None:
            if item == 3:
                await asyncio.sleep(0.001)
                raise Odd(item)
            try:
                await meter(item)
            finally:
                await asyncio.sleep(0.001)
                cleaned.append(item)

        with pytest.raises(Odd):
            await amap(work, itertools.count(), 4)
        assert meter.started == [0, 1, 2]
        assert sorted(meter.cancelled) == [0, 1, 2]
        assert sorted(cleaned) == [0, 1, 2]

    play(main)


def test_failures_that_follow_the_first_are_silent(play: Play) -> None:
    """What reaches the loop's exception handler fails every test here."""

    async def main() -> None:
        async def fail(number: int) -> None:
            try:
                await asyncio.sleep(0.001 if number == 1 else 1)
            finally:
                raise Odd(number)

        with pytest.raises(Odd, match="1"):
            await amap(fail, range(3), 3)

    play(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_return_puts_the_exception_in_the_items_place(play: Play, ordered: bool) -> None:
    async def main() -> None:
        results = await amap(fail_on_odd, range(20), 4, on_error="return")
        assert [type(result) for result in results] == [int, Odd] * 10
        async with aimap(fail_on_odd, range(20), 4, ordered=ordered, on_error="return") as stream:
            streamed = [result async for result in stream]
        assert sum(isinstance(result, Odd) for result in streamed) == 10
        if ordered:
            assert [type(result) for result in streamed] == [int, Odd] * 10

    play(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_skip_leaves_failed_items_out_and_counts_them(play: Play, ordered: bool) -> None:
    async def main() -> None:
        assert await amap(fail_on_odd, range(20), 4, on_error="skip") == list(range(0, 20, 2))
        async with aimap(fail_on_odd, range(20), 4, ordered=ordered, on_error="skip") as stream:
            assert sorted([result async for result in stream]) == list(range(0, 20, 2))
        assert (stream.stats.done, stream.stats.failed, stream.stats.skipped) == (10, 10, 0)

    play(main)


def test_outcomes_say_which_item_it_was_and_how_it_went(play: Play) -> None:
    async def main() -> None:
        async with aoutcomes(fail_on_odd, [8, 9, 10], 2) as stream:
            outcomes = sorted([outcome async for outcome in stream], key=lambda outcome: outcome.index)
        assert [outcome.item for outcome in outcomes] == [8, 9, 10]
        assert [outcome.value for outcome in outcomes] == [8, None, 10]
        assert [type(outcome.error) for outcome in outcomes] == [type(None), Odd, type(None)]
        assert [outcome.ok for outcome in outcomes] == [True, False, True]
        assert all(outcome.attempts == 1 for outcome in outcomes)

    play(main)


def test_an_outcome_can_be_made_with_its_types_spelled_out(play: Play) -> None:
    async def main() -> None:
        outcome = Outcome[int, str](0, 7, "seven", None, 1, 0.0, 0.5)
        assert outcome == Outcome(0, 7, "seven", None, 1, 0.0, 0.5)
        with pytest.raises(AttributeError):
            outcome.index = 3  # type: ignore[misc]  # the mistake itself

    play(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_gives_out_what_precedes_the_failure_and_then_raises_it_once(play: Play, ordered: bool) -> None:
    async def main() -> None:
        async def work(number: int) -> int:
            await asyncio.sleep(0.001 * (number + 1))
            if number == 5:
                raise Odd(number)
            return number

        seen: list[int] = []
        async with aimap(work, range(100), 4, ordered=ordered) as stream:
            with pytest.raises(Odd):
                async for number in stream:
                    seen.append(number)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        assert seen == [0, 1, 2, 3, 4]

    play(main)


def test_an_ordered_stream_never_goes_beyond_a_failed_item(play: Play) -> None:
    async def main() -> None:
        async def work(number: int) -> int:
            if number == 2:
                await asyncio.sleep(0.01)
                raise Odd(number)
            return number

        seen: list[int] = []
        async with aimap(work, range(50), 3) as stream:
            with pytest.raises(Odd):
                async for number in stream:
                    seen.append(number)
        assert seen == [0, 1]

    play(main)


def test_a_function_that_raises_before_it_returns_an_awaitable_has_failed_that_item(play: Play) -> None:
    async def main() -> None:
        def work(number: int) -> Any:
            if number == 1:
                raise Odd(number)
            return asyncio.sleep(0, number)

        first, second, third = await amap(work, range(3), on_error="return")
        assert (first, third) == (0, 2)
        assert isinstance(second, Odd)
        with pytest.raises(TypeError, match="positional argument"):
            await amap(lambda: None, [1])  # type: ignore[arg-type,misc]  # the mistake itself

    play(main)


@pytest.mark.parametrize("returned", [None, 7, "text", object()])
def test_a_result_that_cannot_be_awaited_is_a_type_error_that_names_function_and_fix(
    play: Play, returned: object
) -> None:
    async def main() -> None:
        def blocking(_: int) -> Any:
            return returned

        with pytest.raises(TypeError, match=r"blocking returned .* in_thread\(.*blocking\)"):
            await amap(blocking, [1])
        results = await amap(blocking, range(5), 2, on_error="return")
        assert [type(result) for result in results] == [TypeError] * 5

    play(main)


async def raise_cancelled(_: int) -> None:
    raise asyncio.CancelledError("mine")


async def await_a_cancelled_future(_: int) -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def cancel_itself(_: int) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize("work", [raise_cancelled, await_a_cancelled_future, cancel_itself])
def test_a_cancelled_error_of_its_own_making_is_that_items_failure(play: Play, work: Any) -> None:
    async def main() -> None:
        async def second_cancels(number: int) -> int:
            if number == 1:
                await work(number)
            await asyncio.sleep(0)
            return number

        results = await amap(second_cancels, range(6), 2, on_error="return")
        error = results.pop(1)
        assert results == [0, 2, 3, 4, 5]
        assert isinstance(error, ItemCancelled)
        assert error.index == 1
        assert isinstance(error.__cause__, asyncio.CancelledError)
        with pytest.raises(ItemCancelled):
            await amap(second_cancels, range(6), 2)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    play(main)


def test_an_item_that_cancels_itself_and_returns_has_returned(play: Play) -> None:
    async def main() -> None:
        async def work(number: int) -> int:
            task = asyncio.current_task()
            assert task is not None
            if number % 2:
                task.cancel()
                return number
            assert task.cancelling() == 0
            await asyncio.sleep(0)
            return number

        assert await amap(work, range(10), 2) == list(range(10))

    play(main)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="before 3.13, uncancel() leaves the cancel pending")
def test_an_item_that_takes_back_its_own_cancel_harms_no_other(play: Play) -> None:
    async def main() -> None:
        async def work(number: int) -> int:
            task = asyncio.current_task()
            assert task is not None
            if number % 2:
                task.cancel()
                task.uncancel()
                return number
            await asyncio.sleep(0)
            return number

        assert await amap(work, range(10), 2) == list(range(10))

    play(main)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
@pytest.mark.parametrize("how", ["async function", "plain function"])
def test_stop_iteration_of_an_item_ends_neither_input_nor_stream(play: Play, kind: type[Exception], how: str) -> None:
    async def main() -> None:
        async def work(number: int) -> int:
            if number == 1:
                raise kind
            return number

        def plain(number: int) -> Any:
            if number == 1:
                raise kind
            return work(number)

        function = work if how == "async function" else plain
        results = await amap(function, range(4), on_error="return")
        assert [results[0], *results[2:]] == [0, 2, 3]
        assert isinstance(results[1], RuntimeError)
        with pytest.raises(RuntimeError):
            await amap(function, range(4))
        async with aimap(function, range(4), on_error="return") as stream:
            assert len([result async for result in stream]) == 4
        async with aimap(function, range(4)) as stream:
            with pytest.raises(RuntimeError):
                async for _ in stream:
                    pass

    play(main)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("on_error", ["raise", "return", "skip"])
def test_keyboard_interrupt_and_system_exit_stop_the_run_and_leave_as_themselves(
    play: Play, kind: type[BaseException], on_error: Literal["raise", "skip"]
) -> None:
    error = kind("stop")

    async def main() -> None:
        meter = Meter(lambda _: 5.0)

        async def work(number: int) -> None:
            if number == 2:
                await asyncio.sleep(0.001)
                raise error
            await meter(number)

        with pytest.raises(kind) as caught:
            await amap(work, itertools.count(), 3, on_error=on_error)
        assert caught.value is error
        assert meter.running == 0
        assert meter.started == [0, 1]
        assert sorted(meter.cancelled) == [0, 1]
        meter.started.clear()
        meter.cancelled.clear()
        async with aimap(work, itertools.count(), 3, on_error=on_error) as stream:
            with pytest.raises(kind):
                await anext(stream)
        assert meter.running == 0

    play(main)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("source_kind", ["sync", "async"])
def test_an_exception_of_the_source_is_raised_as_itself_after_what_runs_was_cancelled(
    play: Play, position: int, source_kind: str
) -> None:
    async def main() -> None:
        error = Odd("from the source")
        asked = 0

        def source() -> Iterator[int]:
            nonlocal asked
            for number in range(position):
                yield number
            asked += 1
            raise error

        async def async_source() -> AsyncIterator[int]:
            for number in source():
                yield number

        meter = Meter(lambda _: 5.0)
        with pytest.raises(Odd) as caught:
            await amap(meter, source() if source_kind == "sync" else async_source(), 10)
        assert caught.value is error
        assert meter.running == 0
        assert meter.finished == []
        assert asked == 1

    play(main)


@pytest.mark.parametrize("source_kind", ["sync", "async"])
@pytest.mark.parametrize("limit", [1, 10])
def test_under_the_other_policies_what_runs_is_finished_and_delivered_first(
    play: Play, source_kind: str, limit: int
) -> None:
    async def main() -> None:
        def source() -> Iterator[int]:
            yield from range(3)
            raise Odd

        async def async_source() -> AsyncIterator[int]:
            for number in source():
                yield number

        def fresh() -> Any:
            return source() if source_kind == "sync" else async_source()

        seen: list[Outcome[int, int]] = []
        async with aoutcomes(Meter(lambda _: 0.001), fresh(), limit) as stream:
            with pytest.raises(Odd):
                async for outcome in stream:
                    seen.append(outcome)
        assert sorted(outcome.index for outcome in seen) == [0, 1, 2]
        meter = Meter(lambda _: 0.001)
        with pytest.raises(Odd):
            await amap(meter, fresh(), limit, on_error="return")
        assert sorted(meter.finished) == [0, 1, 2]

    play(main)


def test_an_input_that_cannot_be_iterated_raises_what_it_raises_and_ends(play: Play) -> None:
    class Broken:
        asked = 0

        def __iter__(self) -> Iterator[int]:
            self.asked += 1
            raise Odd

    async def main() -> None:
        with pytest.raises(Odd):
            await amap(fail_on_odd, Broken())
        broken = Broken()
        stream = aimap(fail_on_odd, broken)
        with pytest.raises(Odd):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert broken.asked == 1

    play(main)


@pytest.mark.parametrize("position", range(5))
def test_a_callback_that_raises_stops_the_run_with_its_error_as_the_cause(play: Play, position: int) -> None:
    async def main() -> None:
        meter = Meter(lambda _: 0.001)
        calls = 0

        def callback(index: int, item: int) -> None:
            nonlocal calls
            assert index == item
            calls += 1
            if calls > position:
                raise Odd(index)

        with pytest.raises(CallbackError) as caught:
            await amap(meter, range(100), 3, callback=callback)
        assert isinstance(caught.value.__cause__, Odd)
        assert "callback" in str(caught.value)
        assert calls == position + 1
        assert meter.running == 0

    play(main)


def test_the_callback_is_called_once_for_each_item_that_succeeded(play: Play) -> None:
    async def main() -> None:
        seen: list[tuple[int, int]] = []
        await amap(fail_on_odd, range(10, 20), 3, -1, lambda *pair: seen.append(pair), on_error="skip")
        assert sorted(seen) == [(number - 10, number) for number in range(10, 20, 2)]

    play(main)


def test_tolerate_goes_on_up_to_n_failures_and_then_stops_a_hopeless_run(play: Play) -> None:
    async def main() -> None:
        results = await amap(fail_on_odd, range(10), on_error=Tolerate(5))
        assert sum(isinstance(result, Odd) for result in results) == 5
        with pytest.raises(TooManyFailures) as caught:
            await amap(fail_on_odd, range(100), 1, on_error=Tolerate(5))
        assert isinstance(caught.value.__cause__, Odd)
        assert caught.value.failed == 6
        assert caught.value.done == 12
        with pytest.raises(TooManyFailures):
            await amap(fail_on_odd, range(100), on_error=Tolerate(0))

    play(main)


def test_a_share_is_one_of_the_input_if_it_has_a_length_else_of_what_is_done_from_the_20th_on(play: Play) -> None:
    async def main() -> None:
        async def first_fail(number: int) -> int:
            if number < 10:
                raise Odd(number)
            return number

        await amap(first_fail, range(100), 1, on_error=Tolerate(0.1))
        with pytest.raises(TooManyFailures):
            await amap(first_fail, range(99), 1, on_error=Tolerate(0.1))
        await amap(first_fail, iter(range(100)), 1, on_error=Tolerate(0.1))
        started = 0

        async def every_fifth_fails(number: int) -> int:
            nonlocal started
            started += 1
            if number % 5 == 0:
                raise Odd(number)
            return number

        with pytest.raises(TooManyFailures) as caught:
            await amap(every_fifth_fails, itertools.count(), 1, on_error=Tolerate(0.1))
        assert (started, caught.value.failed, caught.value.done) == (21, 5, 21)

    play(main)


def test_an_exception_of_an_item_keeps_neither_engine_nor_other_results_alive(play: Play) -> None:
    async def main() -> None:
        results = await amap(fail_on_odd, range(4), on_error="return")
        frames: list[str] = []
        error = results[1]
        assert isinstance(error, Odd)
        trace = error.__traceback__
        while trace is not None:
            frames.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        assert frames == ["fail_on_odd"]

    play(main)
