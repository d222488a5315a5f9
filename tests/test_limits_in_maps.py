"""Promises 2, 3, 21 and 22 in maps: limits hold, hold nothing up that they need not, and are shared."""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
import uvloop

from aiomap import (
    Adaptive,
    CallbackError,
    CostAboveRate,
    ItemCancelled,
    Limit,
    PerKey,
    Rate,
    Retry,
    Throttled,
    aimap,
    amap,
    aoutcomes,
    current,
    run,
)
from aiomap.testing import simulate

from .conftest import Play
from .meter import Meter


def now() -> float:
    return asyncio.get_running_loop().time()


def fullest(starts: list[float], window: float) -> int:
    """The most starts in any half-open window of that length."""
    starts = sorted(starts)
    return max(sum(start <= other < start + window for other in starts[i:]) for i, start in enumerate(starts))


class Weight:
    """A limit of one's own: at most so much on its way at once."""

    def __init__(self, most: float) -> None:
        self.free = most

    def claim(self, item: float) -> float:
        return item

    def next_start(self, claim: float, now: float) -> float:
        return now if claim <= self.free else float("inf")

    def started(self, claim: float, now: float) -> float:  # noqa: ARG002
        self.free -= claim
        return claim

    def ended(self, ticket: float, now: float, ending: str, retry_after: float | None) -> None:  # noqa: ARG002
        self.free += ticket


class TestRate:
    def test_the_ith_start_is_exactly_a_period_after_the_one_n_before(self, play: Play) -> None:
        async def main() -> None:
            for seconds in (0.0, 0.4, 7.0):
                meter = Meter(lambda _, seconds=seconds: seconds)  # type: ignore[misc]
                began = now()
                await amap(meter, range(20), 100, limits=[Rate(3, per=2)])
                assert [meter.start_times[item] - began for item in range(20)] == [2.0 * (i // 3) for i in range(20)]
                await asyncio.sleep(2)

        play(main)

    def test_several_rates_hold_together(self, play: Play) -> None:
        async def main() -> None:
            meter = Meter(lambda _: 0.3)
            await amap(meter, range(60), 100, limits=[Rate(2, per=1), Rate(10, per=10), Rate(1, per=0.25)])
            starts = list(meter.start_times.values())
            assert (fullest(starts, 1), fullest(starts, 10), fullest(starts, 0.25)) == (2, 10, 1)
            assert max(starts) == 50 + 4.25, "and no start is later than they make it"

        play(main)

    def test_cost_weighs_the_items(self, play: Play) -> None:
        async def main() -> None:
            meter = Meter()
            await amap(meter, [5, 5, 3, 8, 1, 1, 10, 0, 2], limits=[Rate(10, per=60, cost=lambda item: item)])
            assert meter.started == [5, 5, 3, 8, 1, 1, 10, 0, 2]
            assert [meter.start_times[item] for item in (3, 8, 10, 0, 2)] == [60, 120, 180, 180, 240]

        play(main)

    def test_the_cost_is_asked_once_per_item(self, play: Play) -> None:
        async def main() -> None:
            asked: list[int] = []

            def cost(item: int) -> int:
                asked.append(item)
                return 1

            async def work(item: int) -> int:
                if current().attempt < 3:
                    raise ConnectionError
                return item

            retry = Retry(on=ConnectionError, base=0.1, budget=None)
            await amap(work, range(9), limits=[Rate(2, cost=cost)], retry=retry)
            assert asked == list(range(9))

        play(main)

    def test_an_item_above_the_limit_fails_and_the_others_go_on(self, play: Play) -> None:
        async def main() -> None:
            meter = Meter()
            limits = [Rate(10, cost=lambda item: item)]
            retry = Retry(on=Exception)
            results = await amap(meter, [1, 11, 2], limits=limits, retry=retry, on_error="return")
            assert [type(result) for result in results] == [int, CostAboveRate, int]
            assert meter.started == [1, 2]
            with pytest.raises(CostAboveRate, match=r"an item of cost 11 can never start under Rate\(10, cost="):
                await amap(meter, [1, 11, 2], limits=limits)
            with pytest.raises(ValueError, match="cost 11"):
                await amap(meter, [11], limits=limits)

        play(main)

    def test_an_item_above_the_limit_is_final_whatever_the_policies_say_of_its_error(self, play: Play) -> None:
        async def main() -> None:
            limits: list[Limit] = [Rate(10, cost=lambda item: item), PerKey(lambda _: "host", 1)]
            retry = Retry(on=Exception, throttle=lambda _: Throttled(5))
            with pytest.raises(CostAboveRate):
                await amap(Meter(), [11], limits=limits, retry=retry)
            assert now() == 0

        play(main)

    def test_smooth_spaces_the_starts(self, play: Play) -> None:
        async def main() -> None:
            meter = Meter(lambda _: 9.0)
            await amap(meter, range(9), 100, limits=[Rate(4, smooth=True)])
            assert [meter.start_times[item] for item in range(9)] == [item / 4 for item in range(9)]

        play(main)

    def test_a_cancelled_run_uses_up_no_start_that_it_did_not_make(self, play: Play) -> None:
        async def main() -> None:
            rate, meter = Rate(5, per=10), Meter(lambda _: 100.0)
            mapping = asyncio.ensure_future(amap(meter, range(100), limits=[rate]))
            await asyncio.sleep(12)
            mapping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await mapping
            assert len(meter.start_times) == 10
            after = Meter()
            await amap(after, range(5), limits=[rate])
            assert list(after.start_times.values()) == [20] * 5

        play(main)

    @pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
    def test_it_holds_in_real_time_with_early_and_late_timers(
        self, new_loop: Callable[[], asyncio.AbstractEventLoop]
    ) -> None:
        """On uvloop timers come up to a millisecond early, and its loop's clock stands still for a turn."""

        class Noting(Weight):
            """Looks at the times by which the rate went."""

            def started(self, claim: float, now: float) -> float:  # noqa: ARG002
                starts.append(now)
                return super().started(0, now)

        starts: list[float] = []
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(_map_over(60, [Rate(10, per=0.02), Noting(1000)]))
        assert all(later >= earlier + 0.02 for earlier, later in zip(starts, starts[10:], strict=False))


async def _map_over(items: int, limits: list[Any]) -> None:
    await amap(Meter(), range(items), limits=limits)


class TestPerKey:
    def test_at_most_so_many_of_a_key_at_once(self, play: Play) -> None:
        async def main() -> None:
            running: Counter[str] = Counter()
            most: Counter[str] = Counter()

            async def work(item: tuple[str, int]) -> None:
                running[item[0]] += 1
                most[item[0]] = max(most[item[0]], running[item[0]])
                await asyncio.sleep(1 + item[1] / 100)
                running[item[0]] -= 1

            items = [(key, number) for number in range(20) for key in "aab"]
            await amap(work, items, 100, limits=[PerKey(lambda item: item[0], 3)])
            assert most == {"a": 3, "b": 3}

        play(main)

    def test_items_of_a_key_start_in_input_order(self, play: Play) -> None:
        async def main() -> None:
            rng = random.Random(7)
            meter = Meter(lambda _: rng.random())
            await amap(meter, range(300), 7, limits=[PerKey(lambda item: item % 5, 2, Rate(9))])
            for key in range(5):
                started = [item for item in meter.started if item % 5 == key]
                assert started == sorted(started)

        play(main)

    def test_a_busy_key_never_blocks_another_while_the_window_has_room(self, play: Play) -> None:
        async def main() -> None:
            meter = Meter(lambda item: 10.0 if item < 1000 else 1.0)
            # 999 items of a key that takes 10,000 s, and one of another behind them.
            await amap(meter, range(1001), 2, limits=[PerKey(lambda item: item < 1000, 1)])
            assert meter.start_times[1000] == 0
            assert meter.start_times[999] == 9990

        play(main)

    def test_max_queue_size_bounds_how_far_it_looks(self, play: Play) -> None:
        async def main() -> None:
            meter = Meter(lambda _: 10.0)
            await amap(meter, range(30), 2, 5, limits=[PerKey(lambda item: item < 29, 1)])
            # 5 items wait behind the busy key; the 30th is seen when one of the last 5 before it starts.
            assert meter.start_times[29] == 240

        play(main)

    def test_the_rate_is_each_keys_own(self, play: Play) -> None:
        async def main() -> None:
            meter = Meter()
            await amap(meter, range(12), 100, limits=[PerKey(lambda item: item % 2, rate=Rate(1, per=5))])
            assert meter.start_times == {item: 5 * (item // 2) for item in range(12)}

        play(main)

    def test_none_is_no_key(self, play: Play) -> None:
        async def main() -> None:
            meter = Meter(lambda _: 1.0)
            await amap(meter, range(20), 20, limits=[PerKey(lambda _: None, 1, Rate(1))])
            assert meter.most == 20

        play(main)

    def test_two_keys_of_an_item_hold_together(self, play: Play) -> None:
        async def main() -> None:
            running: Counter[tuple[str, int]] = Counter()

            async def work(item: tuple[int, int]) -> None:
                for key in (("first", item[0]), ("second", item[1])):
                    running[key] += 1
                    assert running[key] <= 2
                await asyncio.sleep(1)
                for key in (("first", item[0]), ("second", item[1])):
                    running[key] -= 1

            items = [(i % 3, i % 4) for i in range(120)]
            limits = [PerKey(lambda item: item[0], 2), PerKey(lambda item: item[1], 2)]
            await amap(work, items, 50, limits=limits)
            assert now() <= 22, "120 items, 6 at a time: hardly a slot was wasted"

        play(main)

    def test_nobody_starves_among_ten_thousand_keys(self) -> None:
        """A few busy hosts and a long tail: each item starts no later than its own key and the slots make it."""

        async def main() -> None:
            rng = random.Random(3)
            keys = [rng.randrange(3) if rng.random() < 0.3 else rng.randrange(10_000) for _ in range(20_000)]
            meter = Meter(lambda _: 0.1)
            await amap(meter, range(20_000), 500, limits=[PerKey(lambda item: keys[item], 5, Rate(20))])
            last: dict[int, float] = {}
            for item, key in enumerate(keys):
                last[key] = max(last.get(key, 0.0), meter.start_times[item])
            tail = [time for key, time in last.items() if key >= 3]
            busiest = Counter(keys).most_common(1)[0][1]
            assert max(last.values()) <= busiest / 20 + 5
            assert sum(tail) / len(tail) < max(last.values()) * 0.6, "the long tail is not held up by the busy hosts"
            starts: dict[int, list[float]] = {}
            for item, time in meter.start_times.items():
                starts.setdefault(keys[item], []).append(time)
            assert all(fullest(of, 1) <= 20 for key, of in starts.items() if key < 3)

        simulate(main)


class TestOnesOwn:
    def test_a_limit_of_ones_own_holds_and_wastes_nothing(self, play: Play) -> None:
        async def main() -> None:
            weight = Weight(10)
            on_its_way = 0

            async def work(item: int) -> int:
                nonlocal on_its_way
                on_its_way += item
                assert on_its_way <= 10
                await asyncio.sleep(1)
                on_its_way -= item
                return item

            items = [10, 1, 2, 3, 4, 10, 5, 5, 5, 5]
            assert await amap(work, items, 20, limits=[weight]) == items
            assert now() == 5, "an end that frees room for several starts them all"
            assert weight.free == 10

        play(main)

    def test_an_end_that_frees_room_for_several_starts_them_by_the_next_turn(self) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            turn = -100
            started: list[int] = []

            def tick() -> None:
                nonlocal turn
                turn += 1
                if turn < 10:
                    loop.call_soon(tick)

            async def work(item: int) -> None:
                nonlocal turn
                started.append(turn)
                await asyncio.sleep(1)
                if item == 10:
                    turn = 0
                    loop.call_soon(tick)
                else:
                    await asyncio.sleep(5)

            await amap(work, [10, 1, 1, 1, 1], 20, limits=[Weight(10)])
            assert started[1:] == [0, 1, 1, 1], "one in the step of the end itself, the others in the turn after it"

        simulate(main, seed=None)

    def test_every_way_an_attempt_ends_is_told(self, play: Play) -> None:
        async def main() -> None:
            heard: list[str] = []

            class Listener(Weight):
                def ended(self, ticket: float, now: float, ending: str, retry_after: float | None) -> None:
                    super().ended(ticket, now, ending, retry_after)
                    heard.append(ending)

            async def work(item: int) -> int:
                if item == 1:
                    raise ValueError
                if item == 2:
                    await asyncio.sleep(100)
                if item == 3:
                    raise ConnectionRefusedError
                if item == 4:
                    raise asyncio.CancelledError
                return item

            limit = Listener(5)
            await amap(work, range(5), 1, timeout=2, limits=[limit], on_error="return")
            assert heard == ["success", "other", "overloaded", "overloaded", "other"]
            heard.clear()
            with pytest.raises(ValueError, match=r"^\s*aiomap|"):
                await amap(work, [2, 1], 2, limits=[limit])
            assert heard == ["other", "other"]
            assert limit.free == 5

        play(main)

    def test_a_limit_that_never_lets_anything_start_is_an_error_and_no_hang(self, play: Play) -> None:
        async def main() -> None:
            with pytest.raises(RuntimeError, match="nothing runs, and the limits let nothing start"):
                await amap(Meter(), [11], limits=[Weight(10)])
            with pytest.raises(RuntimeError, match="nothing runs"):
                async with aimap(Meter(lambda _: 1.0), [1, 11], limits=[Weight(10)]) as stream:
                    assert [item async for item in stream] == [1]

        play(main)

    @pytest.mark.parametrize("method", ["claim", "next_start", "started", "ended"])
    def test_a_limit_that_raises_stops_the_run_as_a_callback_error(self, play: Play, method: str) -> None:
        async def main() -> None:
            def broken(*_: object) -> float:
                raise LookupError(method)

            limit = Weight(10)
            setattr(limit, method, broken)
            with pytest.raises(CallbackError, match=r"limits raised for item [0-2]") as caught:
                await amap(Meter(), range(3), limits=[limit], on_error="return")
            assert isinstance(caught.value.__cause__, LookupError)

        play(main)

    def test_nan_is_no_time(self, play: Play) -> None:
        async def main() -> None:
            limit = Weight(10)
            limit.next_start = lambda *_: float("nan")  # type: ignore[method-assign]
            with pytest.raises(CallbackError, match="limits raised for item 0") as caught:
                await amap(Meter(), range(3), limits=[limit])
            assert "returned NaN: return seconds, or inf" in str(caught.value.__cause__)

        play(main)


class TestUsersFunctions:
    @pytest.mark.parametrize("on_error", ["raise", "return"])
    @pytest.mark.parametrize(
        ("name", "limit"),
        [
            ("key", lambda broken: PerKey(broken, 1)),
            ("cost", lambda broken: Rate(5, cost=broken)),
        ],
    )
    def test_one_that_raises_stops_the_run(
        self, play: Play, on_error: Any, name: str, limit: Callable[[Callable[[int], int]], PerKey | Rate]
    ) -> None:
        async def main() -> None:
            def broken(item: int) -> int:
                if item == 3:
                    raise LookupError(item)
                return item

            meter = Meter(lambda _: 50.0)
            with pytest.raises(CallbackError, match=f"{name} raised for item 3") as caught:
                await amap(meter, range(9), limits=[limit(broken)], on_error=on_error)
            assert isinstance(caught.value.__cause__, LookupError)
            assert now() == 0
            assert meter.finished == []

        play(main)

    @pytest.mark.parametrize(
        ("limit", "hint"),
        [
            (PerKey(cast("Any", lambda _: [1]), 1), "key must return something hashable.*tuple"),
            (Rate(5, cost=lambda _: -1), "at least 0"),
            (Rate(5, cost=lambda _: float("nan")), "at least 0"),
            (Rate(5, cost=cast("Any", lambda _: "3")), "weight of the item"),
            (PerKey(lambda _: 1, rate=Rate(5, cost=lambda _: -1)), "at least 0"),
        ],
    )
    def test_one_that_returns_nonsense_stops_the_run_with_the_fix(self, play: Play, limit: Any, hint: str) -> None:
        async def main() -> None:
            with pytest.raises(CallbackError) as caught:
                await amap(Meter(), range(3), limits=[limit])
            assert re.search(hint, str(caught.value.__cause__))

        play(main)


class TestSharing:
    def test_maps_that_share_a_rate_get_the_same_each(self, play: Play) -> None:
        async def main() -> None:
            rate = Rate(3)
            meters = [Meter(), Meter(lambda _: 0.5), Meter(lambda _: 5.0)]
            await asyncio.gather(*(amap(meter, range(30), 20, limits=[rate]) for meter in meters))
            starts = [time for meter in meters for time in meter.start_times.values()]
            assert fullest(starts, 1) == 3
            assert max(starts) == 29
            for meter in meters:
                by_then = [sum(time < until for time in meter.start_times.values()) for until in (10, 20)]
                # Just so in asyncio's own order; in a shuffled turn chance has a say.
                assert by_then == [pytest.approx(10, abs=4), pytest.approx(20, abs=4)]

        play(main)

    def test_maps_that_share_a_key_take_turns(self, play: Play) -> None:
        async def main() -> None:
            limit = PerKey(lambda _: "host", 1)
            meters = [Meter(lambda _: 1.0), Meter(lambda _: 1.0)]
            await asyncio.gather(*(amap(meter, range(20), 5, limits=[limit]) for meter in meters))
            starts = sorted(time for meter in meters for time in meter.start_times.values())
            assert starts == list(range(40)), "one at a time, and no gap"
            early = [sum(time < 20 for time in meter.start_times.values()) for meter in meters]
            assert min(early) >= 5, "10 in asyncio's own order; in a shuffled turn chance has a say"

        play(main)

    def test_maps_that_share_a_limit_of_ones_own_wake_each_other(self, play: Play) -> None:
        async def main() -> None:
            weight = Weight(10)
            long, short = Meter(lambda item: 10.0 if item else 100.0), Meter(lambda _: 1.0)
            first = asyncio.ensure_future(amap(long, [10, 0], limits=[weight]))
            await asyncio.sleep(1)
            await amap(short, [6, 7], limits=[weight])
            await first
            assert short.start_times == {6: 10, 7: 11}

        play(main)

    def test_a_map_that_is_cancelled_frees_what_it_held(self, play: Play) -> None:
        async def main() -> None:
            weight = Weight(10)
            first = asyncio.ensure_future(amap(Meter(lambda _: 1e6), [10], limits=[weight]))
            await asyncio.sleep(1)
            second = Meter(lambda _: 1.0)
            mapping = asyncio.ensure_future(amap(second, [10], limits=[weight]))
            await asyncio.sleep(4)
            first.cancel()
            await mapping
            assert second.start_times == {10: 5}

        play(main)

    def test_a_map_that_cannot_use_its_turn_is_passed_over(self, play: Play) -> None:
        async def main() -> None:
            rate = Rate(2)
            held_up = asyncio.ensure_future(amap(Meter(), range(5), limits=[rate, Rate(1, per=100)]))
            busy = Meter()
            await amap(busy, range(41), limits=[rate])
            assert max(busy.start_times.values()) <= 21
            await held_up

        play(main)

    def test_one_map_inside_of_another_shares_its_limit_without_a_deadlock(self, play: Play) -> None:
        async def main() -> None:
            rate = Rate(5)
            inner = Meter()

            async def work(item: int) -> None:
                await amap(inner, [10 * item, 10 * item + 1], limits=[rate])

            await amap(work, range(10), 3, limits=[rate])
            assert len(inner.started) == 20

        play(main)

    def test_a_limit_can_be_used_in_one_loop_after_the_other(self) -> None:
        rate, key, adaptive = Rate(2, per=1000), PerKey(lambda _: 1, 1, Rate(2, per=1000)), Adaptive()

        async def main() -> list[int]:
            return await amap(Meter(), range(2), adaptive, limits=[rate, key])

        for _ in range(3):
            assert simulate(main) == [0, 1], "the times of a loop that is gone mean nothing to the next"

    def test_a_limit_in_two_loops_at_once_is_an_error(self) -> None:
        rate = Rate(100)

        async def main() -> None:
            async def inner(_: int) -> None:
                with pytest.raises(RuntimeError, match=r"Rate\(100\) is in use by a map in another event loop"):
                    run(Meter(), [1], limits=[rate])

            await amap(inner, [0], limits=[rate])

        asyncio.run(main())

    def test_nothing_of_a_run_is_kept_when_it_is_over(self, play: Play) -> None:
        async def main() -> None:
            from aiomap._sharing import _lines

            rate = Rate(100)
            for _ in range(3):
                await amap(Meter(), range(5), limits=[rate])
                with pytest.raises(ItemCancelled):
                    await amap(cancelled, range(5), limits=[rate])
            gc.collect()
            assert _lines == {}

        async def cancelled(_: int) -> None:
            raise asyncio.CancelledError

        play(main)


class TestWithEverythingElse:
    def test_a_bundle_of_policies_is_a_partial(self, play: Play) -> None:
        async def main() -> None:
            polite = functools.partial(amap, limits=[Rate(2)], retry=Retry(on=ConnectionError))
            first, second = Meter(), Meter()
            await asyncio.gather(polite(first, range(4)), polite(second, range(4)))
            starts = [*first.start_times.values(), *second.start_times.values()]
            assert fullest(starts, 1) == 2

        play(main)

    @pytest.mark.parametrize("ordered", [True, False])
    def test_streams_keep_their_window(self, play: Play, ordered: bool) -> None:
        async def main() -> None:
            pulled = 0

            def source() -> Iterator[int]:
                nonlocal pulled
                for item in range(500):
                    pulled += 1
                    yield item

            delivered = 0
            limits: list[Limit] = [PerKey(lambda item: item % 4, 1), Rate(50)]
            async with aimap(Meter(lambda i: i % 3), source(), 3, ordered=ordered, buffer=7, limits=limits) as stream:
                async for _ in stream:
                    delivered += 1
                    assert pulled - delivered <= 10
                    if delivered % 50 == 0:
                        await asyncio.sleep(30)
            assert delivered == 500

        play(main)

    def test_an_endless_async_source_is_pulled_no_further_than_needed(self, play: Play) -> None:
        async def main() -> None:
            pulled = 0

            async def source() -> AsyncIterator[int]:
                nonlocal pulled
                while True:
                    pulled += 1
                    yield pulled

            async with aimap(Meter(), source(), 10, ordered=False, limits=[Rate(1, per=10)]) as stream:
                async for _ in stream:
                    if now() >= 50:
                        break
            assert pulled <= 6 + 2

        play(main)

    def test_a_paused_stream_starts_nothing_and_goes_on(self, play: Play) -> None:
        async def main() -> None:
            meter = Meter()
            async with aimap(meter, range(6), limits=[Rate(1, per=10)]) as stream:
                assert await anext(stream) == 0
                stream.pause()
                await asyncio.sleep(35)
                assert meter.started == [0]
                stream.resume()
                assert [item async for item in stream] == [1, 2, 3, 4, 5]
            assert [meter.start_times[item] for item in (1, 2, 5)] == [35, 45, 75]

        play(main)

    def test_lowering_the_number_of_slots_holds_with_limits(self, play: Play) -> None:
        async def main() -> None:
            meter = Meter(lambda _: 1.0)
            async with aimap(meter, range(40), 10, limits=[PerKey(lambda item: item % 20, 1)]) as stream:
                assert await anext(stream) == 0
                stream.max_concurrent_tasks = 2
                await asyncio.sleep(3)
                assert meter.running == 2
                stream.max_concurrent_tasks = 20
                assert len([item async for item in stream]) == 39

        play(main)

    def test_the_trouble_of_one_key_says_nothing_about_the_others(self, play: Play) -> None:
        async def main() -> None:
            adaptive = Adaptive(max=50, start=20)

            async def work(item: int) -> None:
                await asyncio.sleep(1)
                if item % 2:
                    raise ConnectionRefusedError

            await amap(work, range(40), adaptive, limits=[PerKey(lambda item: item % 2)], on_error="return")
            assert adaptive.limit >= 20
            await amap(work, range(40), adaptive, on_error="return")
            assert adaptive.limit < 20, "without a key it is a sign of overload"

        play(main)

    def test_an_adaptive_number_is_shown_by_the_stream(self, play: Play) -> None:
        async def main() -> None:
            meter = Meter(lambda _: 1.0)
            async with aimap(meter, range(200), Adaptive(max=30, start=4)) as stream:
                assert stream.max_concurrent_tasks == 4
                assert len([item async for item in stream]) == 200
                assert stream.max_concurrent_tasks == 30
            assert meter.most == 30

        play(main)

    def test_outcomes_of_a_source_that_fails_are_all_delivered(self, play: Play) -> None:
        async def main() -> None:
            def source() -> Iterator[int]:
                yield from range(5)
                raise OSError("disk")

            seen: list[int] = []
            with pytest.raises(OSError, match="disk"):
                async with aoutcomes(Meter(lambda _: 1.0), source(), 2, limits=[Rate(1, per=5)]) as outcomes:
                    async for outcome in outcomes:
                        seen.append(outcome.index)
            assert seen == [0, 1, 2, 3, 4]

        play(main)

    def test_slot_seconds_of_a_limit_are_booked_to_it(self, play: Play) -> None:
        async def main() -> None:
            async with aimap(Meter(lambda _: 1.0), range(3), 2, limits=[Rate(1, per=10)]) as stream:
                assert [item async for item in stream] == [0, 1, 2]
                seconds = stream.stats.slot_seconds
            assert seconds["function"] == pytest.approx(3)
            assert seconds["limit"] == pytest.approx(2 * 20 - 2)

        play(main)


@pytest.mark.parametrize(
    ("arguments", "kind", "hint"),
    [
        ({"limits": Rate(5)}, TypeError, r"limits must be a list of limits.*write limits=\[Rate\(5\)\]"),
        ({"limits": [5]}, TypeError, r"got 5, which has no claim\(\): a number of starts a second is Rate\(n\)"),
        ({"limits": 5}, TypeError, "got 5"),
        ({"limits": "rate"}, TypeError, "got 'rate'"),
        ({"limits": None}, TypeError, "got None"),
        ({"limits": [Rate]}, TypeError, "Rate"),
        ({"limits": [rate := Rate(3), rate]}, ValueError, r"got Rate\(3\) twice"),
        ({"timeout": 0}, ValueError, "timeout must be None .* or a number of seconds above 0, got 0"),
        ({"timeout": -1}, ValueError, "got -1"),
        ({"timeout": float("nan")}, ValueError, "got nan"),
        ({"timeout": float("inf")}, ValueError, "leave it out for no bound"),
        ({"timeout": True}, TypeError, "got True"),
        ({"timeout": "5"}, TypeError, "got '5'"),
        ({"retry": 3}, TypeError, r"retry must be None, a Retry.*write Retry\(on=ConnectionError, attempts=4\)"),
        ({"retry": ConnectionError}, TypeError, r"write Retry\(on=\.\.\.\)"),
        ({"retry": Retry}, TypeError, r"write Retry\(on=\.\.\.\)"),
        ({"retry": (OSError, ValueError)}, TypeError, r"write Retry\(on=\.\.\.\)"),
        ({"retry": "always"}, TypeError, "got 'always'"),
    ],
)
@pytest.mark.parametrize("verb", [amap, aimap, aoutcomes, run])
def test_a_bad_policy_is_refused_at_the_call(verb: Any, arguments: Any, kind: type[Exception], hint: str) -> None:
    with pytest.raises(kind, match=hint):
        verb(Meter(), [], **arguments)
