"""Promise 18: `timeout` bounds one attempt, from its start."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from aiomap import AttemptTimeout, Rate, aimap, amap, aoutcomes, in_thread

from .conftest import Play
from .meter import Meter


def now() -> float:
    return asyncio.get_running_loop().time()


async def sleep(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def stubborn(seconds: float) -> float:
    """Does not care about the first cancel."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        await asyncio.sleep(seconds)
    return seconds


def test_an_attempt_that_takes_too_long_fails_with_attempt_timeout(play: Play) -> None:
    async def main() -> None:
        with pytest.raises(AttemptTimeout, match=r"^item 1 took longer than its timeout of 3 seconds") as caught:
            await amap(sleep, [1, 5], timeout=3)
        assert now() == 3
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value.__cause__, asyncio.CancelledError), "it shows where the attempt was waiting"
        assert (caught.value.index, caught.value.seconds) == (1, 3)

    play(main)


def test_an_attempt_that_takes_just_as_long_as_it_may_or_less_succeeds(play: Play) -> None:
    async def main() -> None:
        assert await amap(sleep, [2.5, 0, 1], timeout=2.75) == [2.5, 0, 1]

    play(main)


def test_waiting_for_a_slot_or_a_limit_never_counts(play: Play) -> None:
    async def main() -> None:
        assert await amap(sleep, [2] * 9, 2, timeout=2.5, limits=[Rate(1, per=3)]) == [2] * 9
        assert now() == 8 * 3 + 2

    play(main)


@pytest.mark.any_loop
def test_each_attempt_has_the_whole_time(play: Play) -> None:
    async def main() -> None:
        results = await amap(sleep, [0.01] * 8 + [9.0] + [0.01] * 8, 3, timeout=0.1, on_error="return")
        assert [type(result) for result in results] == [float] * 8 + [AttemptTimeout] + [float] * 8

    play(main)


def test_a_timed_out_attempt_is_cancelled_once_and_keeps_its_slot_until_it_has_ended(play: Play) -> None:
    async def main() -> None:
        cancels = 0

        async def clean_up(_: int) -> None:
            nonlocal cancels
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                cancels += 1
                await asyncio.sleep(4)
                raise

        meter = Meter(lambda _: 1.0)

        async def work(item: int) -> object:
            return await (clean_up(item) if item == 0 else meter(item))

        results = await amap(work, range(3), 1, timeout=2, on_error="return")
        assert [type(result) for result in results] == [AttemptTimeout, int, int]
        assert cancels == 1
        assert meter.start_times == {1: 6, 2: 7}

    play(main)


def test_a_value_that_is_returned_after_the_timeout_stands(play: Play) -> None:
    async def main() -> None:
        assert await amap(stubborn, [3], timeout=2) == [3]
        assert now() == 5

    play(main)


def test_an_error_that_is_raised_after_the_timeout_stands(play: Play) -> None:
    async def main() -> None:
        async def translate(_: int) -> None:
            try:
                await asyncio.sleep(9)
            except asyncio.CancelledError:
                raise ConnectionError("closed") from None

        with pytest.raises(ConnectionError, match="closed"):
            await amap(translate, [0], timeout=2)

    play(main)


def test_the_next_item_of_the_worker_knows_nothing_of_the_cancel(play: Play) -> None:
    async def main() -> None:
        seen: list[int] = []

        async def work(seconds: float) -> float:
            task = asyncio.current_task()
            assert task is not None
            seen.append(task.cancelling())
            async with asyncio.timeout(50):
                return await sleep(seconds)

        results = await amap(work, [9, 1, 9, 1], 1, timeout=2, on_error="return")
        assert [type(result) for result in results] == [AttemptTimeout, int, AttemptTimeout, int]
        assert seen == [0, 0, 0, 0]

    play(main)


@pytest.mark.parametrize("first", ["the timer", "the cancel"])
def test_an_outside_cancel_in_the_same_tick_wins(play: Play, first: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        meter = Meter(lambda _: 9.0)
        mapping = asyncio.ensure_future(amap(meter, range(3), timeout=2, on_error="return"))
        if first == "the cancel":
            loop.call_at(2, mapping.cancel)
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(0)
            loop.call_at(2, mapping.cancel)
        with pytest.raises(asyncio.CancelledError):
            await mapping
        assert now() == 2
        assert sorted(meter.cancelled) == [0, 1, 2], "each of them once"

    play(main)


def test_a_run_that_is_cancelled_while_an_attempt_cleans_up_does_not_cancel_it_again(play: Play) -> None:
    async def main() -> None:
        cleaned: list[float] = []

        async def clean_up(_: int) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(5)
                cleaned.append(now())

        mapping = asyncio.ensure_future(amap(clean_up, [0], timeout=2))
        await asyncio.sleep(3)
        mapping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await mapping
        assert cleaned == [7]

    play(main)


def test_a_timeout_does_not_cancel_what_the_run_has_cancelled(play: Play) -> None:
    async def main() -> None:
        cleaned: list[float] = []

        async def clean_up(_: int) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(5)
                cleaned.append(now())

        mapping = asyncio.ensure_future(amap(clean_up, [0], timeout=2))
        await asyncio.sleep(1)
        mapping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await mapping
        assert cleaned == [6]

    play(main)


def test_an_outside_cancel_beside_the_timeout_is_not_taken_for_it(play: Play) -> None:
    """The item's own task is cancelled by somebody else at the very moment: its failure, and no timeout."""

    async def main() -> None:
        async def work(_: int) -> None:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_at(2, task.cancel)
            await asyncio.sleep(9)

        (error,) = await amap(work, [0], timeout=2, on_error="return")
        assert type(error).__name__ == "ItemCancelled"

    play(main)


def test_a_timeout_inside_of_the_function_is_the_functions_own(play: Play) -> None:
    async def main() -> None:
        async def work(_: int) -> str:
            try:
                async with asyncio.timeout(1):
                    await asyncio.sleep(9)
            except TimeoutError:
                await asyncio.sleep(0.5)
            return "went on"

        assert await amap(work, [0], timeout=2) == ["went on"]

    play(main)


def test_who_ignores_the_cancel_keeps_its_slot_and_is_named_in_a_warning(play: Play) -> None:
    async def main() -> None:
        async def ignore(item: int) -> int:
            for _ in range(30):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(1)
            return item

        meter = Meter()

        async def work(item: int) -> int:
            return await (ignore(item) if item == 7 else meter(item))

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = await amap(work, [7, 8], 1, timeout=5)
        assert results == [7, 8]
        assert meter.start_times[8] >= 29, "the slot was not free before"
        (warning,) = caught
        assert warning.category is RuntimeWarning
        assert "item 0 goes on although it was cancelled 10 seconds ago" in str(warning.message)
        assert "its timeout of 5 seconds" in str(warning.message)

    play(main)


def test_the_warning_made_an_error_ends_the_run(play: Play) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeWarning, match="item 0 goes on"):
            await amap(stubborn, [20], timeout=5)
        assert now() == 15, "stopped, and so cancelled once more"

    play(main)


def test_a_stream_goes_on_after_a_timeout(play: Play) -> None:
    async def main() -> None:
        async with aoutcomes(sleep, [1, 9, 2], 2, timeout=3) as outcomes:
            seen = [(outcome.item, outcome.ok, outcome.started, outcome.elapsed) async for outcome in outcomes]
        assert sorted(seen) == [(1, True, 0, 1), (2, True, 1, 2), (9, False, 0, 3)]

    play(main)


def test_a_slow_source_is_no_slow_attempt(play: Play) -> None:
    async def main() -> None:
        async def slow() -> AsyncIterator[float]:
            for seconds in (1.0, 1.0):
                await asyncio.sleep(50)
                yield seconds

        async with aimap(sleep, slow(), timeout=2) as stream:
            assert [result async for result in stream] == [1.0, 1.0]

    play(main)


def test_no_timer_is_left_behind(play: Play) -> None:
    """SimLoop tells of timers that outlive the program; here the timeout is far in the future when the run ends."""

    async def main() -> None:
        assert await amap(sleep, [1] * 50, 5, timeout=1e6) == [1] * 50
        assert now() == 10

    play(main)


def test_ten_thousand_attempts_take_one_timer(play: Play) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made = 0
        call_at = loop.call_at

        def counting(*arguments: object, **keywords: object) -> object:
            nonlocal made
            made += 1
            return call_at(*arguments, **keywords)  # type: ignore[arg-type]  # passed on as they come

        loop.call_at = counting  # type: ignore[assignment, method-assign]  # to count

        async def quick(item: int) -> int:
            return item

        assert len(await amap(quick, range(10_000), timeout=60)) == 10_000
        assert made <= 2

    play(main)


def test_a_blocking_call_is_left_to_end() -> None:
    """A thread cannot be stopped: the attempt ends when the call does. Threads need real time, but little of it."""
    release = threading.Event()

    def block(_: int) -> None:
        assert release.wait(10)

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.05, release.set)
        with pytest.raises(AttemptTimeout):
            await amap(in_thread(block), [0], timeout=0.01)
        assert release.is_set()

    asyncio.run(main())
