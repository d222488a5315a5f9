"""Promises 15 to 17: a cancel from outside, and leaving a stream."""

from __future__ import annotations

import asyncio
import gc
import itertools
import warnings
from collections.abc import AsyncIterator

import pytest

from aiomap import SKIP, Outcome, Stream, aimap, amap, aoutcomes

from .conftest import Play
from .meter import Meter


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[object]) -> bool:
    await asyncio.wait([task])
    return task.cancelled()


@pytest.mark.any_loop
def test_cancelling_the_caller_cancels_every_running_item_once_and_awaits_all(play: Play) -> None:
    async def main() -> None:
        meter = Meter(lambda _: 5.0)
        cleaned: list[int] = []

        async def work(item: int) -> None:
            try:
                await meter(item)
            finally:
                await asyncio.sleep(0.001)
                cleaned.append(item)

        task = asyncio.create_task(amap(work, itertools.count(), 3))
        await turns()
        task.cancel()
        assert await cancelled(task)
        assert (meter.started, sorted(meter.cancelled), sorted(cleaned)) == ([0, 1, 2], [0, 1, 2], [0, 1, 2])

    play(main)


@pytest.mark.any_loop
def test_no_function_is_entered_after_the_cancel_arrived(play: Play) -> None:
    """Not even by a worker that runs between the cancel and the caller's own turn."""

    async def main() -> None:
        for moment in range(30):
            meter = Meter()
            task = asyncio.create_task(amap(meter, itertools.count(), 3))
            await turns(moment)
            task.cancel()
            started = len(meter.started)
            assert await cancelled(task)
            assert len(meter.started) == started

    play(main)


@pytest.mark.any_loop
def test_a_cancel_that_comes_from_within_an_item_is_a_cancel_from_outside(play: Play) -> None:
    async def main() -> None:
        started: list[int] = []

        async def work(item: int) -> None:
            started.append(item)
            if item == 4:
                task.cancel()
            await asyncio.sleep(0)

        task = asyncio.create_task(amap(work, itertools.count(), 2))
        assert await cancelled(task)
        assert len(started) <= 6

    play(main)


@pytest.mark.any_loop
def test_the_callers_cancelling_count_is_left_as_it_was(play: Play) -> None:
    async def main() -> None:
        counts: list[int] = []

        async def caller() -> None:
            task = asyncio.current_task()
            assert task is not None
            try:
                await amap(Meter(lambda _: 5.0), range(5))
            finally:
                counts.append(task.cancelling())

        task = asyncio.create_task(caller())
        await turns()
        task.cancel()
        assert await cancelled(task)
        assert counts == [1]

    play(main)


def test_a_timeout_round_the_call_is_a_timeout_error_at_its_time(play: Play) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await amap(Meter(lambda _: 1.0), itertools.count(), 2)
        assert asyncio.get_running_loop().time() == 2.5

    play(main)


@pytest.mark.any_loop
def test_a_second_cancel_is_forwarded_once_more_and_never_swallowed(play: Play) -> None:
    async def main() -> None:
        received: list[int] = []

        async def stubborn(item: int) -> None:
            for _ in range(2):
                try:
                    await asyncio.sleep(5)
                except asyncio.CancelledError:
                    received.append(item)

        task = asyncio.create_task(amap(stubborn, range(2), 2))
        await turns()
        task.cancel()
        await turns()
        assert sorted(received) == [0, 1]
        assert not task.done()
        task.cancel()
        assert await cancelled(task)
        assert sorted(received) == [0, 0, 1, 1]

    play(main)


@pytest.mark.any_loop
def test_a_second_cancel_of_a_streams_consumer_is_forwarded_too(play: Play) -> None:
    async def main() -> None:
        received = 0

        async def stubborn(_: int) -> None:
            nonlocal received
            for _ in range(2):
                try:
                    await asyncio.sleep(5)
                except asyncio.CancelledError:
                    received += 1

        async def consume() -> None:
            async with aimap(stubborn, range(1)) as stream:
                async for _ in stream:
                    pass

        task = asyncio.create_task(consume())
        await turns()
        task.cancel()
        await turns()
        assert received == 1
        assert not task.done()
        task.cancel()
        assert await cancelled(task)
        assert received == 2

    play(main)


@pytest.mark.any_loop
def test_a_cancel_after_a_failure_is_not_forwarded_a_second_time_but_the_one_after_it_is(play: Play) -> None:
    async def main() -> None:
        received = 0

        async def work(item: int) -> None:
            nonlocal received
            if item == 0:
                await turns(3)
                raise ValueError(item)
            for _ in range(2):
                try:
                    await asyncio.sleep(5)
                except asyncio.CancelledError:
                    received += 1

        task = asyncio.create_task(amap(work, range(2), 2))
        await turns()
        assert received == 1
        task.cancel()
        await turns()
        assert received == 1
        task.cancel()
        assert await cancelled(task)
        assert received == 2

    play(main)


@pytest.mark.any_loop
def test_an_item_that_swallows_the_cancel_may_finish_and_its_slot_is_not_reused(play: Play) -> None:
    async def main() -> None:
        finished: list[int] = []

        async def swallow(item: int) -> int:
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                await asyncio.sleep(0.001)
            finished.append(item)
            return item

        task = asyncio.create_task(amap(swallow, itertools.count(), 2))
        await turns()
        task.cancel()
        assert await cancelled(task)
        assert sorted(finished) == [0, 1]

    play(main)


@pytest.mark.any_loop
def test_the_source_is_closed_when_the_caller_is_cancelled_wherever_it_waits(play: Play) -> None:
    async def main() -> None:
        for pause, hold in ((5.0, 0.0), (0.0, 5.0)):
            events: list[str] = []

            async def source(pause: float = pause, events: list[str] = events) -> AsyncIterator[int]:
                try:
                    for number in itertools.count():
                        await asyncio.sleep(pause)
                        yield number
                except (asyncio.CancelledError, GeneratorExit) as error:
                    events.append(type(error).__name__)
                    raise
                finally:
                    await asyncio.sleep(0)
                    events.append("closed")

            task = asyncio.create_task(amap(Meter(dict.fromkeys(range(99), hold).__getitem__), source(), 2))
            await turns()
            task.cancel()
            assert await cancelled(task)
            assert events[-1] == "closed"
            assert len(events) == 2

    play(main)


@pytest.mark.any_loop
def test_a_worker_cancelled_by_a_stranger_before_its_first_step_hangs_nobody(play: Play) -> None:
    """What `asyncio.run` does to every task when it ends."""

    async def main() -> None:
        for moment in range(6):
            meter = Meter(lambda _: 0.001)
            task = asyncio.create_task(amap(meter, range(6), 3, on_error="skip"))
            await turns(moment)
            for other in asyncio.all_tasks():
                if other not in (task, asyncio.current_task()):
                    other.cancel()
            result = await task
            assert set(meter.finished) == set(result)

    play(main)


@pytest.mark.any_loop
def test_the_end_of_asyncio_run_leaves_no_task_behind(play: Play) -> None:
    async def main() -> None:
        tasks = {asyncio.create_task(amap(Meter(lambda _: 5.0), itertools.count(), 3)) for _ in range(2)}
        await turns()
        everything = asyncio.all_tasks() - {asyncio.current_task()}
        for task in everything:
            task.cancel()
        await asyncio.wait(everything)
        assert all(task.cancelled() for task in tasks)
        await turns()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    play(main)


@pytest.mark.any_loop
def test_a_result_that_an_item_returned_is_recorded_whatever_comes_next(play: Play) -> None:
    """The callback is where results are recorded here: after a cancel it has seen every item that returned."""

    async def main() -> None:
        for moment in range(25):
            returned: list[int] = []
            recorded: list[int] = []

            async def work(item: int, returned: list[int] = returned) -> int:
                await asyncio.sleep(0)
                returned.append(item)
                return item

            def record(index: int, _: int, recorded: list[int] = recorded) -> None:
                recorded.append(index)

            task = asyncio.create_task(amap(work, itertools.count(), 3, callback=record))
            await turns(moment)
            task.cancel()
            assert await cancelled(task)
            assert recorded == returned

    play(main)


@pytest.mark.any_loop
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("way_out", ["break", "error", "aclose", "return"])
def test_on_leaving_the_with_block_no_task_of_the_map_is_alive(play: Play, ordered: bool, way_out: str) -> None:
    async def main() -> None:
        meter = Meter(lambda item: item % 3 / 1000)
        before = asyncio.all_tasks()

        async def leave() -> None:
            async with aimap(meter, itertools.count(), 4, ordered=ordered) as stream:
                async for item in stream:
                    if item < 5:
                        continue
                    if way_out == "error":
                        raise LookupError
                    if way_out == "return":
                        return
                    if way_out == "aclose":
                        await stream.aclose()
                    break

        try:
            await leave()
        except LookupError:
            assert way_out == "error"
        assert meter.running == 0
        assert asyncio.all_tasks() == before
        count = len(meter.started)
        await turns()
        assert len(meter.started) == count

    play(main)


@pytest.mark.any_loop
def test_a_bare_break_stops_the_run_and_warns_with_the_fix(play: Play) -> None:
    async def main() -> None:
        meter = Meter(lambda _: 5.0)

        async def careless() -> None:
            async for _ in aimap(quick_then_slow, itertools.count(), 3, ordered=False):
                break

        async def quick_then_slow(item: int) -> int:
            return item if item == 0 else await meter(item)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await careless()
            gc.collect()
        assert [warning.category for warning in caught] == [ResourceWarning]
        assert "async with aimap" in str(caught[0].message)
        started = len(meter.started)
        await turns()
        assert len(meter.started) == started
        assert meter.running == 0
        assert sorted(meter.cancelled) == sorted(meter.started)

    play(main)


@pytest.mark.any_loop
def test_a_stream_that_was_never_used_or_ran_to_its_end_needs_no_closing(play: Play) -> None:
    async def main() -> None:
        aimap(Meter(), range(5))
        assert [item async for item in aimap(Meter(), range(5))] == list(range(5))
        gc.collect()

    play(main)


@pytest.mark.any_loop
def test_aclose_may_be_called_again_and_by_several_tasks_at_once(play: Play) -> None:
    async def main() -> None:
        meter = Meter(lambda _: 5.0)
        stream = aimap(meter, itertools.count(), 3)
        await stream.aclose()
        assert meter.started == []
        stream = aimap(meter, itertools.count(), 3)
        waiting = asyncio.create_task(anext(stream))
        await turns()
        await asyncio.gather(stream.aclose(), stream.aclose())
        await stream.aclose()
        assert meter.running == 0
        with pytest.raises(StopAsyncIteration):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    play(main)


@pytest.mark.any_loop
def test_results_that_were_there_at_aclose_can_still_be_taken(play: Play) -> None:
    async def main() -> None:
        async with aimap(Meter(), range(5), 5) as stream:
            await anext(stream)
            await turns()
        assert [item async for item in stream] == [1, 2, 3, 4]

    play(main)


@pytest.mark.any_loop
def test_cancelling_a_waiting_consumer_loses_no_result_and_does_not_stop_the_run(play: Play) -> None:
    async def main() -> None:
        for moment in range(20):
            async with aimap(Meter(lambda _: 0.001), range(6), 2) as stream:
                taken: list[int] = []

                async def take(stream: Stream[int] = stream, taken: list[int] = taken) -> None:
                    async for item in stream:
                        taken.append(item)

                task = asyncio.create_task(take())
                await turns(moment)
                task.cancel()
                await asyncio.wait([task])
                taken += [item async for item in stream]
                assert taken == list(range(6))

    play(main)


def test_a_timeout_round_one_result_leaves_the_stream_usable(play: Play) -> None:
    async def main() -> None:
        async with aimap(Meter(lambda _: 1.0), range(3), 1) as stream:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await anext(stream)
            assert [item async for item in stream] == [0, 1, 2]

    play(main)


@pytest.mark.any_loop
def test_a_second_consumer_of_one_stream_is_told_so(play: Play) -> None:
    async def main() -> None:
        async with aimap(Meter(lambda _: 0.001), range(3)) as stream:
            first = asyncio.create_task(anext(stream))
            await turns(2)
            with pytest.raises(RuntimeError, match="another task"):
                await anext(stream)
            assert await first == 0

    play(main)


@pytest.mark.any_loop
def test_aclose_from_within_the_mapped_function_says_what_to_do_instead(play: Play) -> None:
    async def main() -> None:
        streams: list[Stream[int]] = []

        async def closing(item: int) -> int:
            await streams[0].aclose()
            return item

        streams.append(aimap(closing, range(3)))
        async with streams[0] as stream:
            with pytest.raises(RuntimeError, match=r"drain\(\)"):
                await anext(stream)

    play(main)


@pytest.mark.any_loop
def test_a_keyboard_interrupt_while_closing_leaves_from_aclose(play: Play) -> None:
    async def main() -> None:
        async def interrupted(_: int) -> None:
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None

        stream = aimap(interrupted, range(2))
        waiting = asyncio.create_task(anext(stream))
        await turns()
        waiting.cancel()
        await asyncio.wait([waiting])
        with pytest.raises(KeyboardInterrupt):
            await stream.aclose()

    play(main)


@pytest.mark.any_loop
def test_a_stream_collected_after_its_loop_is_gone_is_silent(play: Play) -> None:
    kept: list[Stream[int]] = []

    async def main() -> None:
        kept[:] = [aimap(Meter(), range(5), 2, buffer=1)]
        await anext(kept[0])
        await turns()

    play(main)
    kept.clear()
    gc.collect()


@pytest.mark.any_loop
def test_outcomes_of_cancelled_items_are_counted_and_not_delivered(play: Play) -> None:
    async def main() -> None:
        async def work(item: int) -> int:
            if item > 2:
                await asyncio.sleep(5)
            return SKIP if item == 1 else item

        seen: list[Outcome[int, int]] = []
        async with aoutcomes(work, itertools.count(), 3) as stream:
            async for outcome in stream:
                seen.append(outcome)
                if len(seen) == 2:
                    break
            await turns()
        assert [outcome.item for outcome in seen] == [0, 2]
        stats = stream.stats
        assert (stats.done, stats.skipped, stats.cancelled, stats.running) == (2, 1, 3, 0)
        assert stats.pulled == 6

    play(main)
