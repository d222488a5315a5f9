"""Promise 24 and the rest of `Stream`: pause, resume, drain, another number of slots."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from aiomap import Stream, aimap

from .conftest import Play
from .meter import Meter


async def two_turns() -> None:
    """In a shuffled turn, what is due in the next one may come after us."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def collect(stream: Stream[int]) -> list[int]:
    return [item async for item in stream]


def test_raising_the_limit_takes_effect_at_once(play: Play) -> None:
    async def main() -> None:
        meter = Meter(lambda _: 10.0)
        async with aimap(meter, range(8), 2) as stream:
            collecting = asyncio.create_task(collect(stream))
            await asyncio.sleep(1)
            assert meter.running == 2
            stream.max_concurrent_tasks = 5
            await two_turns()
            assert meter.running == 5
            assert stream.max_concurrent_tasks == 5
            assert await collecting == list(range(8))
            # 0, 1 end at 10 and 2, 3, 4 at 11; the last start at 10 and end at 20 and 21.
            assert asyncio.get_running_loop().time() == 21

    play(main)


def test_lowering_the_limit_never_cancels_what_runs(play: Play) -> None:
    async def main() -> None:
        meter = Meter(lambda item: 1.0 + item / 10)
        most_after = 0

        async def work(item: int) -> int:
            nonlocal most_after
            if stream.max_concurrent_tasks == 2:
                most_after = max(most_after, meter.running + 1)
            return await meter(item)

        async with aimap(work, range(20), 6) as stream:
            collecting = asyncio.create_task(collect(stream))
            await asyncio.sleep(0.5)
            stream.max_concurrent_tasks = 2
            assert meter.running == 6
            assert await collecting == list(range(20))
        assert meter.cancelled == []
        assert most_after == 2

    play(main)


def test_a_lowered_limit_is_used_to_the_full(play: Play) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with aimap(Meter(lambda _: 1.0), range(20), 10) as stream:
            collecting = asyncio.create_task(collect(stream))
            await asyncio.sleep(0.5)
            stream.max_concurrent_tasks = 5
            await collecting
            assert loop.time() == 3

    play(main)


def test_pause_holds_back_starts_and_resume_lets_them_go_on(play: Play) -> None:
    async def main() -> None:
        meter = Meter(lambda _: 1.0)
        async with aimap(meter, range(6), 2) as stream:
            collecting = asyncio.create_task(collect(stream))
            await asyncio.sleep(0.5)
            stream.pause()
            await asyncio.sleep(10)
            assert sorted(meter.finished) == [0, 1]
            assert meter.running == 0
            stream.resume()
            await two_turns()
            assert meter.running == 2
            assert await collecting == list(range(6))
        assert asyncio.get_running_loop().time() == 12.5

    play(main)


@pytest.mark.any_loop
def test_a_stream_paused_before_its_first_result_starts_nothing(play: Play) -> None:
    async def main() -> None:
        meter = Meter()
        async with aimap(meter, range(3)) as stream:
            stream.pause()
            collecting = asyncio.create_task(collect(stream))
            for _ in range(10):
                await asyncio.sleep(0)
            assert meter.started == []
            stream.resume()
            assert await collecting == [0, 1, 2]

    play(main)


@pytest.mark.any_loop
@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_drain_takes_no_more_input_and_delivers_what_was_taken(play: Play, kind: str, paused: bool) -> None:
    async def main() -> None:
        taken = 0
        closed = False

        async def source() -> AsyncIterator[int]:
            nonlocal taken, closed
            try:
                for number in itertools.count():
                    taken = number + 1
                    yield number
            finally:
                closed = True

        meter = Meter(lambda _: 0.001)
        async with aimap(meter, source() if kind == "async" else itertools.count(), 3) as stream:
            results = [await anext(stream)]
            if paused:
                stream.pause()
            stream.drain()
            results += await collect(stream)
            if kind == "async":
                assert closed
                assert results == list(range(taken))
            assert results == list(range(stream.stats.pulled))
            assert meter.cancelled == []

    play(main)


@pytest.mark.any_loop
def test_drain_ends_the_wait_for_a_source_that_never_yields(play: Play) -> None:
    async def main() -> None:
        closed = asyncio.Event()

        async def silent() -> AsyncIterator[int]:
            try:
                await asyncio.Event().wait()
                yield 0
            finally:
                closed.set()

        async with aimap(Meter(), silent()) as stream:
            collecting = asyncio.create_task(collect(stream))
            for _ in range(5):
                await asyncio.sleep(0)
            stream.drain()
            assert await collecting == []
            assert closed.is_set()

    play(main)


@pytest.mark.any_loop
def test_drain_from_within_the_mapped_function_ends_the_stream_after_what_runs(play: Play) -> None:
    async def main() -> None:
        async def work(item: int) -> int:
            if item == 10:
                stream.drain()
            return item

        async with aimap(work, itertools.count(), 1) as stream:
            assert await collect(stream) == list(range(11))

    play(main)


@pytest.mark.any_loop
def test_a_stream_drained_before_its_first_result_is_empty(play: Play) -> None:
    async def main() -> None:
        meter = Meter()
        async with aimap(meter, range(3)) as stream:
            stream.drain()
            assert await collect(stream) == []
        assert meter.started == []

    play(main)


@pytest.mark.any_loop
@pytest.mark.parametrize("bad", [0, -1, True, 2.5, "4", None])
def test_a_bad_limit_is_refused_and_changes_nothing(play: Play, bad: object) -> None:
    async def main() -> None:
        stream = aimap(Meter(), range(3), 2)
        with pytest.raises((TypeError, ValueError), match="max_concurrent_tasks must be an integer of at least 1"):
            stream.max_concurrent_tasks = bad  # type: ignore[assignment]  # the mistake itself
        assert stream.max_concurrent_tasks == 2

    play(main)
