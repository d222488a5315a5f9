"""Promises 1 to 8: what runs when, and in which order results come."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator

import pytest

from aiomap import SKIP, aimap, amap, aoutcomes

from .conftest import Play
from .meter import Meter

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


async def identity(item: int) -> int:
    return item


async def counted(upto: int, pause: float = 0.0) -> AsyncIterator[int]:
    for number in range(upto):
        await asyncio.sleep(pause)
        yield number


@pytest.mark.any_loop
@pytest.mark.parametrize("limit", [1, 4, 30, 1000])
def test_results_come_in_input_order_whatever_the_order_of_completion(play: Play, limit: int) -> None:
    async def main() -> None:
        delays = random.Random(41)
        meter = Meter(lambda _: delays.random() / 100)
        assert await amap(meter, range(30), limit) == list(range(30))
        assert meter.finished != list(range(30)) or limit == 1

    play(main)


@pytest.mark.any_loop
@pytest.mark.parametrize("empty", [[], (), {}, set[int](), iter([])])
def test_empty_input_gives_an_empty_list_and_starts_nothing(play: Play, empty: list[int]) -> None:
    meter = Meter()

    async def main() -> None:
        assert await amap(meter, empty) == []
        assert await amap(meter, counted(0)) == []
        async with aimap(meter, empty) as stream:
            assert [item async for item in stream] == []

    play(main)
    assert meter.started == []


@pytest.mark.parametrize("limit", [2, 4, 8])
def test_items_start_in_input_order_and_never_more_than_the_limit_run(play: Play, limit: int) -> None:
    async def main() -> None:
        delays = random.Random(limit)
        meter = Meter(lambda _: delays.choice([0, 0, 1, 2, 5]))
        await amap(meter, range(200), limit)
        assert meter.started == list(range(200))
        assert meter.most == limit

    play(main)


def test_an_attempt_counts_until_it_has_really_ended(play: Play) -> None:
    """An item that goes on after its cancel keeps its slot."""

    async def main() -> None:
        running = most = 0

        async def stubborn(item: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                await asyncio.sleep(5)
            running -= 1
            return item

        stream = aimap(stubborn, itertools.count(), 3)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(1)
        await stream.aclose()
        assert (running, most) == (0, 3)
        assert asyncio.get_running_loop().time() == 6
        await waiting

    play(main)


def test_a_free_slot_is_filled_within_one_turn_of_the_loop(play: Play) -> None:
    """Work-conserving: with equal items the slots never idle, so 1,000 items of 1 s in 10 slots take 100 s exactly."""

    async def main() -> None:
        await amap(Meter(lambda _: 1.0), range(1000), 10)
        assert asyncio.get_running_loop().time() == pytest.approx(100)

    play(main)


def test_all_slots_start_in_the_first_turn(play: Play) -> None:
    async def main() -> None:
        meter = Meter(lambda _: 1.0)
        task = asyncio.ensure_future(amap(meter, range(100), 50))
        for _ in range(2):
            await asyncio.sleep(0)
        # The task itself took one turn; the workers were started in it and ran in the next.
        turns_left = 0
        while len(meter.started) < 50:
            await asyncio.sleep(0)
            turns_left += 1
        assert turns_left <= 1
        await task

    play(main)


@pytest.mark.any_loop
def test_input_is_pulled_on_demand_and_never_again_after_its_end(play: Play) -> None:
    class Source:
        def __init__(self) -> None:
            self.asked = 0

        def __iter__(self) -> Source:
            return self

        def __next__(self) -> int:
            self.asked += 1
            if self.asked == 21:
                raise StopIteration
            if self.asked > 21:
                pytest.fail("asked again after its end")
            return self.asked

    async def main() -> None:
        source = Source()
        assert await amap(Meter(lambda item: item % 3 / 1000), source, 5) == list(range(1, 21))
        assert source.asked == 21

    play(main)


@pytest.mark.any_loop
def test_no_more_is_pulled_than_there_are_free_slots(play: Play) -> None:
    async def main() -> None:
        pulled = 0

        def source() -> Iterator[int]:
            nonlocal pulled
            for pulled in itertools.count(1):
                yield pulled

        gate = asyncio.Event()

        async def held(_: int) -> None:
            await gate.wait()

        async with aimap(held, source(), 7) as stream:
            waiting = asyncio.ensure_future(anext(stream))
            for _ in range(20):
                await asyncio.sleep(0)
            assert pulled == 7
            assert stream.stats.pulled == 7
            gate.set()
            await waiting

    play(main)


@pytest.mark.any_loop
def test_an_async_source_is_at_most_one_item_ahead(play: Play) -> None:
    async def main() -> None:
        pulled = 0

        async def source() -> AsyncIterator[int]:
            nonlocal pulled
            for pulled in itertools.count(1):
                yield pulled

        gate = asyncio.Event()

        async def held(_: int) -> None:
            await gate.wait()

        async with aimap(held, source(), 7) as stream:
            waiting = asyncio.ensure_future(anext(stream))
            for _ in range(40):
                await asyncio.sleep(0)
            assert pulled == 8
            assert (stream.stats.running, stream.stats.waiting) == (7, 1)
            gate.set()
            await waiting

    play(main)


@pytest.mark.any_loop
def test_the_source_runs_in_one_context_and_leaks_nothing_into_items_or_caller(play: Play) -> None:
    async def main() -> None:
        colour.set("callers")
        seen_by_source: list[str] = []
        seen_by_items: list[str] = []

        def source() -> Iterator[int]:
            for number in range(20):
                seen_by_source.append(colour.get())
                colour.set(f"source {number}")
                yield number

        async def look(number: int) -> None:
            seen_by_items.append(colour.get())
            await asyncio.sleep(0)
            colour.set(f"item {number}")

        await amap(look, source(), 3)
        assert seen_by_source == ["callers", *(f"source {number}" for number in range(19))]
        assert set(seen_by_items) == {"callers"}
        assert colour.get() == "callers"

    play(main)


@pytest.mark.any_loop
def test_an_async_source_is_iterated_and_closed_by_one_task_alone(play: Play) -> None:
    async def main() -> None:
        tasks: list[asyncio.Task[object] | None] = []

        async def source() -> AsyncIterator[int]:
            try:
                for number in itertools.count():
                    tasks.append(asyncio.current_task())
                    async with asyncio.timeout(5):
                        yield number
            finally:
                await asyncio.sleep(0)
                tasks.append(asyncio.current_task())

        async with aimap(Meter(lambda item: item % 2 / 1000), source(), 3) as stream:
            async for item in stream:
                if item == 9:
                    break
        assert len(set(tasks)) == 1
        count = len(tasks)
        await asyncio.sleep(0)
        assert len(tasks) == count

    play(main)


@pytest.mark.any_loop
def test_an_async_generator_is_closed_before_the_call_returns(play: Play) -> None:
    async def main() -> None:
        closed: list[str] = []

        async def source(name: str) -> AsyncIterator[int]:
            try:
                for number in range(100):
                    yield number
            finally:
                await asyncio.sleep(0.001)
                closed.append(name)

        async def fail(item: int) -> int:
            if item == 5:
                raise ValueError(item)
            return item

        with pytest.raises(ValueError, match="5"):
            await amap(fail, source("failed"), 2)
        assert closed == ["failed"]
        assert await amap(identity, source("ended")) == list(range(100))
        assert closed == ["failed", "ended"]
        async with aimap(identity, source("left")) as stream:
            await anext(stream)
        assert closed == ["failed", "ended", "left"]

    play(main)


def test_a_slow_source_never_holds_back_finished_results(play: Play) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        times: list[float] = []
        async with aimap(Meter(lambda _: 0.25), counted(4, pause=1.0), 3) as stream:
            async for _ in stream:
                times.append(loop.time())
        assert times == [1.25, 2.25, 3.25, 4.25]

    play(main)


def test_the_next_item_is_fetched_while_others_run(play: Play) -> None:
    """With one slot, fetching 1 s and running 1 s overlap: 10 items take 11 s, not 20."""

    async def main() -> None:
        await amap(Meter(lambda _: 1.0), counted(10, pause=1.0), 1)
        assert asyncio.get_running_loop().time() == pytest.approx(11)

    play(main)


@pytest.mark.any_loop
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("limit", "buffer"), [(1, 0), (4, 0), (3, 1), (2, 5), (10, 100)])
def test_at_most_buffer_plus_limit_items_are_started_and_not_delivered(
    play: Play, ordered: bool, limit: int, buffer: int
) -> None:
    async def main() -> None:
        started = delivered = 0

        async def count(item: int) -> int:
            nonlocal started
            started += 1
            assert started - delivered <= buffer + limit
            if item % 3:
                await asyncio.sleep(0)
            return item

        async with aimap(count, range(300), limit, ordered=ordered, buffer=buffer) as stream:
            async for _ in stream:
                delivered += 1
                if delivered % 7 == 0:
                    for _ in range(5):
                        await asyncio.sleep(0)
        assert delivered == 300

    play(main)


@pytest.mark.any_loop
@pytest.mark.parametrize("ordered", [True, False])
def test_a_consumer_that_stops_taking_stops_new_starts_and_each_delivery_allows_one(play: Play, ordered: bool) -> None:
    async def main() -> None:
        meter = Meter()
        async with aimap(meter, itertools.count(), 2, ordered=ordered, buffer=3) as stream:
            await anext(stream)
            for delivered in range(1, 5):
                for _ in range(20):
                    await asyncio.sleep(0)
                assert len(meter.started) == delivered + 5
                await anext(stream)

    play(main)


def test_behind_a_slow_head_the_slots_go_on_up_to_a_thousand_results(play: Play) -> None:
    async def main() -> None:
        meter = Meter(lambda item: 1000.0 if item == 0 else 0.0)
        async with aimap(meter, itertools.count(), 4) as stream:
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(1)
            assert len(meter.started) == 1000 + 4
            assert await waiting == 0

    play(main)


@pytest.mark.parametrize("head_returns", ["a value", "SKIP"])
def test_a_slow_head_that_ends_makes_room_for_all_slots_at_once(play: Play, head_returns: str) -> None:
    """The window is full of items that were left out: nothing of them is ever delivered, but they are gone."""

    async def main() -> None:
        async def keep_few(number: int) -> int:
            await asyncio.sleep(1000 if number == 0 else 1)
            return number if number == 0 and head_returns == "a value" else SKIP

        loop = asyncio.get_running_loop()
        async with aimap(keep_few, range(1 + 300), 10, buffer=90) as stream:
            kept = [number async for number in stream]
        assert kept == ([0] if head_returns == "a value" else [])
        # 99 items ran beside the head; the other 201 run 10 at a time after it.
        assert loop.time() == 1000 + 21

    play(main)


def test_unordered_results_come_as_they_are_completed(play: Play) -> None:
    async def main() -> None:
        async with aimap(Meter(lambda item: 10.0 - item), range(5), 5, ordered=False) as stream:
            assert [item async for item in stream] == [4, 3, 2, 1, 0]

    play(main)


@pytest.mark.any_loop
def test_nothing_is_pulled_or_started_before_the_first_await(play: Play) -> None:
    async def main() -> None:
        class Untouched:
            touched = False

            def __iter__(self) -> Iterator[int]:
                self.touched = True
                return iter([1])

        source = Untouched()
        meter = Meter()
        pending = amap(meter, source)
        stream = aimap(meter, source)
        outcomes = aoutcomes(meter, source)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not source.touched
        assert stream.stats.pulled == 0
        async with stream, outcomes:
            pass
        assert not source.touched
        assert await pending == [1]

    play(main)


@pytest.mark.parametrize("verb", ["amap", "aimap", "async source"])
@pytest.mark.parametrize("seconds", [0.00001, 0.001, 0.02])
def test_the_loop_gets_a_turn_every_10_ms_also_when_no_item_ever_suspends(
    play: Play, verb: str, seconds: float
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        longest = before = 0.0

        def tick() -> None:
            nonlocal longest, before
            longest = max(longest, loop.time() - before)
            before = loop.time()
            handle[0] = loop.call_soon(tick)

        async def busy(_: int) -> int:
            loop.advance(seconds)  # type: ignore[attr-defined]  # these tests run on SimLoop
            return SKIP

        handle = [loop.call_soon(tick)]
        count = min(20_000, int(1 / seconds))
        if verb == "amap":
            await amap(busy, range(count))
        elif verb == "aimap":
            async with aimap(busy, range(count)) as stream:
                async for _ in stream:
                    pass
        else:
            await amap(busy, counted(min(count, 500)))
        handle[0].cancel()
        assert longest <= 0.010 + 2 * seconds

    play(main)


@pytest.mark.any_loop
@pytest.mark.parametrize("isolate", [False, True])
def test_starting_many_workers_leaves_the_loop_alive(play: Play, isolate: bool) -> None:
    async def main() -> None:
        turn = 0
        starts: Counter[int] = Counter()
        all_started = asyncio.Event()

        async def count_turns() -> None:
            nonlocal turn
            while not all_started.is_set():
                turn += 1
                await asyncio.sleep(0)

        async def note(item: int) -> None:
            starts[turn] += 1
            if item == 3999:
                all_started.set()
            if item % 2:
                await all_started.wait()

        counter = asyncio.ensure_future(count_turns())
        await amap(note, range(4000), 4000, isolate=isolate)
        await counter
        assert not isolate or max(starts.values()) <= 2100
        assert len(starts) >= (2 if isolate else 1)

    play(main)


@pytest.mark.any_loop
@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("callers_context", ["empty", "full"])
def test_every_item_starts_from_the_callers_context(play: Play, isolate: bool, callers_context: str) -> None:
    class Equal:
        """Equal to all of its kind: `==` cannot tell it from another."""

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        __hash__ = None  # type: ignore[assignment]  # it is not to be hashed

    holder: contextvars.ContextVar[Equal | None] = contextvars.ContextVar("holder", default=None)

    async def main() -> None:
        mine = Equal() if callers_context == "full" else None
        if mine is not None:
            holder.set(mine)

        async def look(number: int) -> None:
            assert holder.get() is mine
            if number % 3 == 0:
                holder.set(Equal())
            if number % 5 == 0:
                await asyncio.sleep(0)

        await amap(look, range(50), 3, isolate=isolate)

    contextvars.Context().run(play, main)


@pytest.mark.any_loop
def test_isolated_items_have_a_task_of_their_own(play: Play) -> None:
    async def main() -> None:
        async def task_of(_: int) -> asyncio.Task[object] | None:
            return asyncio.current_task()

        assert len(set(await amap(task_of, range(20), 3, isolate=True))) == 20
        assert len(set(await amap(task_of, range(20), 3))) < 20

    play(main)


@pytest.mark.any_loop
@pytest.mark.parametrize("ordered", [True, False])
def test_skip_leaves_an_item_out_wherever_it_stands(play: Play, ordered: bool) -> None:
    async def main() -> None:
        async def odd(number: int) -> int:
            await asyncio.sleep(number % 4 / 1000)
            return number if number % 2 else SKIP

        for upto in range(8):
            expected = list(range(1, upto, 2))
            assert await amap(odd, range(upto)) == expected
            async with aimap(odd, range(upto), ordered=ordered) as stream:
                assert sorted([item async for item in stream]) == expected
                assert stream.stats.skipped == upto - len(expected)
            async with aoutcomes(odd, range(upto), ordered=ordered) as outcomes:
                assert sorted([outcome.index async for outcome in outcomes]) == expected

    play(main)


@pytest.mark.any_loop
def test_falsy_and_odd_values_are_ordinary_results(play: Play) -> None:
    values = [None, 0, False, "", (), NotImplemented, Ellipsis, StopIteration, ValueError("a value")]

    async def main() -> None:
        async def pick(index: int) -> object:
            return values[index]

        assert await amap(pick, range(len(values))) == values
        async with aimap(pick, range(len(values))) as stream:
            assert [value async for value in stream] == values

    play(main)


@pytest.mark.any_loop
@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_keeps_no_result_that_was_delivered(play: Play, ordered: bool) -> None:
    class Page:
        pass

    async def main() -> None:
        alive: weakref.WeakSet[Page] = weakref.WeakSet()

        async def make(_: int) -> Page:
            page = Page()
            alive.add(page)
            return page

        async with aimap(make, range(500), 2, ordered=ordered, buffer=10) as stream:
            async for _ in stream:
                assert len(alive) <= 10 + 2 + 1

    play(main)


@pytest.mark.any_loop
def test_maps_can_be_nested_and_streams_chained(play: Play) -> None:
    async def main() -> None:
        async def double(number: int) -> int:
            await asyncio.sleep(0)
            return 2 * number

        async def inner(number: int) -> list[int]:
            return await amap(double, range(number), 2)

        assert await amap(inner, range(4), 3) == [[], [0], [0, 2], [0, 2, 4]]
        async with aimap(double, aimap(double, range(50), 3), 2) as stream:
            assert [item async for item in stream] == [4 * number for number in range(50)]
        first = aimap(double, itertools.count(), 3)
        async with aimap(double, first, 2) as stream:
            assert await anext(stream) == 0
        with pytest.raises(StopAsyncIteration):
            while True:
                await anext(first)

    play(main)


def awaitable_only(item: int) -> Awaitable[int]:
    return asyncio.ensure_future(identity(item))


@pytest.mark.any_loop
def test_any_callable_that_returns_an_awaitable_will_do(play: Play) -> None:
    async def main() -> None:
        assert await amap(awaitable_only, [1, 2]) == [1, 2]
        assert await amap(lambda item: identity(item + 1), [1, 2]) == [2, 3]

    play(main)
