"""Promise 29: `stats` is one consistent snapshot."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from aiomap import SKIP, Stats, Stream, aimap

from .conftest import Play
from .meter import Meter


def total(stats: Stats) -> int:
    return stats.running + stats.waiting + stats.retrying + stats.done + stats.failed + stats.skipped + stats.cancelled


async def mixed(number: int) -> int:
    await asyncio.sleep(number % 4 / 1000)
    if number % 5 == 0:
        raise ValueError(number)
    return SKIP if number % 7 == 0 else number


@pytest.mark.any_loop
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_at_every_moment_pulled_is_the_sum_of_the_states(play: Play, ordered: bool, kind: str) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(60):
            await asyncio.sleep(0)
            yield number

    async def main() -> None:
        async with aimap(
            mixed, numbers() if kind == "async" else range(60), 4, ordered=ordered, on_error="skip"
        ) as stream:

            async def watch() -> None:
                while True:
                    stats = stream.stats
                    assert total(stats) == stats.pulled
                    assert min(stats.done, stats.running, stats.waiting) >= 0
                    assert stats.running <= 4
                    await asyncio.sleep(0.0003)

            watching = asyncio.create_task(watch())
            delivered = 0
            async for _ in stream:
                delivered += 1
                assert total(stream.stats) == stream.stats.pulled
                # An item that is left out may wait for its turn too.
                assert 0 <= delivered + stream.stats.buffered - stream.stats.done <= 4
                await asyncio.sleep(0.001)
            watching.cancel()
            await asyncio.wait([watching])
            assert watching.cancelled()
            stats = stream.stats
        assert (stats.pulled, stats.running, stats.waiting, stats.buffered) == (60, 0, 0, 0)
        assert stats.failed == 12
        assert stats.skipped == 7
        assert stats.done == 41

    play(main)


@pytest.mark.any_loop
def test_before_the_start_everything_is_zero(play: Play) -> None:
    async def main() -> None:
        stats = aimap(Meter(), range(3)).stats
        assert stats.pulled == 0
        assert set(stats.slot_seconds) == {"function", "source", "limit", "gate", "backoff", "consumer", "idle"}
        assert not any(stats.slot_seconds.values())

    play(main)


async def drained(stream: Stream[int], pause: float = 0.0) -> dict[str, float]:
    async with stream:
        async for _ in stream:
            if pause:
                await asyncio.sleep(pause)
    return {reason: seconds for reason, seconds in stream.stats.slot_seconds.items() if seconds}


def test_slot_seconds_say_where_the_time_of_the_slots_went(play: Play) -> None:
    async def slow_numbers() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(2)
            yield number

    async def main() -> None:
        # Two slots for 3 s: 5 items of 1 s, and in the last second nothing left for one of them.
        assert await drained(aimap(Meter(lambda _: 1.0), range(5), 2)) == {"function": 5, "idle": 1}
        # One slot: fetching takes 2 s each, of which 1 s overlaps with the item before.
        assert await drained(aimap(Meter(lambda _: 1.0), slow_numbers(), 1)) == {"function": 3, "source": 4}
        # A consumer that takes 3 s for each result of a one-second item, with a window of one.
        slow = await drained(aimap(Meter(lambda _: 1.0), range(3), 1, buffer=0), pause=3.0)
        assert slow == {"function": 3, "consumer": 4}

    play(main)


def test_the_ledger_is_closed_when_the_run_is_over(play: Play) -> None:
    async def main() -> None:
        stream = aimap(Meter(lambda _: 1.0), range(4), 2)
        assert await drained(stream) == {"function": 4}
        await asyncio.sleep(100)
        assert sum(stream.stats.slot_seconds.values()) == 4

    play(main)


def test_the_slot_seconds_add_up_to_slots_times_seconds(play: Play) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with aimap(Meter(lambda item: item % 3), itertools.count(), 5, buffer=3) as stream:
            for _ in range(20):
                await anext(stream)
                await asyncio.sleep(0.3)
            slots = 5 * loop.time()
            assert sum(stream.stats.slot_seconds.values()) == pytest.approx(slots)
            stream.pause()
            await asyncio.sleep(10)
            stream.resume()
            stream.max_concurrent_tasks = 2
            await asyncio.sleep(10)
            assert stream.stats.slot_seconds["consumer"] >= 50 - 5 * 2

    play(main)
