"""Promise 19: a failed attempt is made again, later, and holds no slot until then."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import tenacity

from aiomap import (
    AttemptTimeout,
    CallbackError,
    PerKey,
    Rate,
    Retry,
    Tolerate,
    aimap,
    amap,
    aoutcomes,
    current,
)

from .conftest import Play
from .meter import Meter


def now() -> float:
    return asyncio.get_running_loop().time()


class Flaky:
    """Fails the first `failures(item)` attempts of each item, after `seconds`; keeps a record of all attempts."""

    def __init__(self, failures: Callable[[int], int], seconds: float = 0.0) -> None:
        self._failures = failures
        self._seconds = seconds
        self.attempts: list[tuple[float, int, int]] = []
        self.running = self.most = 0

    async def __call__(self, item: int) -> int:
        attempt = current().attempt
        self.attempts.append((now(), item, attempt))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self.running -= 1
        if attempt <= self._failures(item):
            raise ConnectionError(item)
        return item

    def of(self, item: int) -> list[int]:
        return [attempt for _, each, attempt in self.attempts if each == item]


EVERY_TIME: Retry = Retry(on=ConnectionError, budget=None)


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each delay is the longest that it can be."""
    monkeypatch.setattr(random, "uniform", lambda _, longest: longest)


@pytest.mark.any_loop
def test_an_item_that_fails_at_first_succeeds_in_the_end(play: Play) -> None:
    async def main() -> None:
        flaky = Flaky(lambda item: item % 3)
        retry = Retry(on=ConnectionError, base=0.001, budget=None)
        assert await amap(flaky, range(30), 4, retry=retry) == list(range(30))
        assert [flaky.of(item) for item in (0, 1, 2)] == [[1], [1, 2], [1, 2, 3]]

    play(main)


def test_attempts_counts_all_calls(play: Play) -> None:
    async def main() -> None:
        for attempts in (1, 2, 4):
            flaky = Flaky(lambda _: 99)
            with pytest.raises(ConnectionError):
                await amap(flaky, [0], retry=Retry(on=ConnectionError, attempts=attempts))
            assert flaky.of(0) == list(range(1, attempts + 1))

    play(main)


def test_only_what_on_names_is_tried_again(play: Play) -> None:
    async def main() -> None:
        flaky = Flaky(lambda _: 99)
        for retry in (Retry(on=OSError), Retry(on=(KeyError, ConnectionError)), Retry(on=lambda e: e.args == (0,))):
            with pytest.raises(ConnectionError):
                await amap(flaky, [0], retry=retry)
        assert len(flaky.attempts) == 12
        for retry in (Retry(on=KeyError), Retry(on=lambda e: e.args == (1,))):
            with pytest.raises(ConnectionError):
                await amap(flaky, [0], retry=retry)
        assert len(flaky.attempts) == 14

    play(main)


@pytest.mark.usefixtures("no_jitter")
def test_the_back_off_doubles_up_to_its_cap(play: Play) -> None:
    async def main() -> None:
        flaky = Flaky(lambda _: 6)
        retry = Retry(on=ConnectionError, attempts=7, base=1, cap=5)
        await amap(flaky, [0], retry=retry)
        assert [time for time, _, _ in flaky.attempts] == [0, 1, 3, 7, 12, 17, 22]

    play(main)


@pytest.mark.usefixtures("no_jitter")
def test_a_waiting_item_holds_no_slot(play: Play) -> None:
    """100 items, 10 slots, half of them failing twice: 0.2 s of back-off that held slots would take 2 s and more."""

    async def main() -> None:
        flaky = Flaky(lambda item: 2 * (item % 2), seconds=0.01)
        retry = Retry(on=ConnectionError, base=0.2, cap=0.2, budget=None)
        assert await amap(flaky, range(100), 10, retry=retry) == list(range(100))
        assert flaky.most == 10
        assert now() < 0.6

    play(main)


@pytest.mark.usefixtures("no_jitter")
def test_a_retry_that_is_due_goes_before_new_items_the_lowest_index_first(play: Play) -> None:
    async def main() -> None:
        flaky = Flaky(lambda item: item in {1, 2, 3}, seconds=1)
        await amap(flaky, range(8), 1, retry=Retry(on=ConnectionError, base=2, cap=2))
        # 1 fails at 2 and is due at 4, 2 fails at 3 and is due at 5; 3 fails at 4 and is due at 6.
        assert [(item, attempt) for _, item, attempt in flaky.attempts] == [
            *[(0, 1), (1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)],
            *[(4, 1), (5, 1), (6, 1), (7, 1)],
        ]

    play(main)


@pytest.mark.usefixtures("no_jitter")
def test_a_retry_that_is_due_goes_before_a_new_item_that_waits_for_a_limit(play: Play) -> None:
    async def main() -> None:
        flaky = Flaky(lambda item: item == 0)
        await amap(flaky, range(3), 5, limits=[Rate(1, per=10)], retry=Retry(on=ConnectionError, base=3))
        assert flaky.attempts == [(0, 0, 1), (10, 0, 2), (20, 1, 1), (30, 2, 1)]

    play(main)


@pytest.mark.usefixtures("no_jitter")
def test_a_retry_starts_at_the_moment_it_is_due_if_a_slot_is_free(play: Play) -> None:
    async def main() -> None:
        flaky = Flaky(lambda item: item == 0, seconds=4)
        await amap(flaky, range(3), 5, retry=Retry(on=ConnectionError, base=3))
        assert (7, 0, 2) in flaky.attempts

        async def endless() -> AsyncIterator[int]:
            yield 0
            await asyncio.sleep(1000)

        flaky = Flaky(lambda _: 1, seconds=4)
        began = now()
        async with aimap(flaky, endless(), 5, retry=Retry(on=ConnectionError, base=3)) as stream:
            assert await anext(stream) == 0
        assert now() == began + 11

    play(main)


def test_results_keep_their_places(play: Play) -> None:
    async def main() -> None:
        rng = random.Random(1)
        failures = [rng.randrange(4) for _ in range(200)]
        flaky = Flaky(failures.__getitem__, seconds=0.1)
        assert await amap(flaky, range(200), 7, retry=EVERY_TIME) == list(range(200))
        async with aimap(flaky, range(200), 7, buffer=3, retry=EVERY_TIME) as stream:
            assert [result async for result in stream] == list(range(200))

    play(main)


def test_an_item_that_is_given_up_fails_with_its_last_error(play: Play) -> None:
    async def main() -> None:
        async def work(_: int) -> None:
            raise ConnectionError(current().attempt)

        (error,) = await amap(work, [0], retry=Retry(on=ConnectionError, attempts=3), on_error="return")
        assert isinstance(error, ConnectionError)
        assert error.args == (3,)

    play(main)


def test_on_error_looks_only_at_what_was_given_up(play: Play) -> None:
    async def main() -> None:
        flaky = Flaky(lambda item: 99 if item == 5 else 1)
        results = await amap(flaky, range(8), retry=EVERY_TIME, on_error=Tolerate(1))
        assert [type(result) for result in results] == [int] * 5 + [ConnectionError] + [int] * 2
        assert await amap(flaky, range(8), retry=EVERY_TIME, on_error="skip") == [0, 1, 2, 3, 4, 6, 7]

    play(main)


def test_outcomes_tell_how_often_the_function_was_called(play: Play) -> None:
    async def main() -> None:
        flaky = Flaky(lambda item: item, seconds=2)
        async with aoutcomes(flaky, range(4), ordered=True, retry=Retry(on=ConnectionError, attempts=3)) as outcomes:
            seen = [outcome async for outcome in outcomes]
        assert [(outcome.ok, outcome.attempts) for outcome in seen] == [(True, 1), (True, 2), (True, 3), (False, 3)]
        assert all(outcome.elapsed == pytest.approx(2) for outcome in seen), "of the last attempt"
        assert all(outcome.started == flaky_start(flaky, outcome.index) for outcome in seen)

    def flaky_start(flaky: Flaky, item: int) -> float:
        return [time for time, each, _ in flaky.attempts if each == item][-1]

    play(main)


def test_a_timeout_can_be_tried_again_and_each_attempt_has_its_own(play: Play) -> None:
    async def main() -> None:
        async def work(_: int) -> int:
            await asyncio.sleep(9 if current().attempt < 3 else 1)
            return current().attempt

        assert await amap(work, [0], timeout=2, retry=Retry(on=TimeoutError, base=0.5)) == [3]
        with pytest.raises(AttemptTimeout):
            await amap(work, [0], timeout=2, retry=Retry(on=TimeoutError, attempts=2))

    play(main)


def test_every_attempt_passes_the_limits_again(play: Play) -> None:
    async def main() -> None:
        flaky = Flaky(lambda _: 2, seconds=0.1)
        retry = Retry(on=ConnectionError, base=0.001, budget=None)
        await amap(flaky, range(6), limits=[Rate(2, per=1), PerKey(lambda item: item % 2, 1)], retry=retry)
        times = [time for time, _, _ in flaky.attempts]
        assert len(times) == 18
        assert all(later - earlier >= 1 for earlier, later in zip(times, times[2:], strict=False))
        assert flaky.most <= 2

    play(main)


class TestBudget:
    def test_a_storm_is_stopped_at_ten_retries_and_a_fifth_of_the_successes(self, play: Play) -> None:
        async def main() -> None:
            flaky = Flaky(lambda _: 99)
            results = await amap(flaky, range(100), retry=Retry(on=ConnectionError, attempts=9), on_error="return")
            assert len(flaky.attempts) == 100 + 10
            last = results[-1]
            assert isinstance(last, ConnectionError)
            assert last.__notes__[0].endswith("10 retries, all that its budget allows (0.2 x 0 successes + 10)")

        play(main)

    def test_successes_earn_retries(self, play: Play) -> None:
        async def main() -> None:
            flaky = Flaky(lambda item: 99 * (item >= 100))
            await amap(flaky, range(200), 5, retry=Retry(on=ConnectionError, attempts=9), on_error="return")
            assert len(flaky.attempts) == 200 + 10 + 20

        play(main)

    def test_none_is_no_budget(self, play: Play) -> None:
        async def main() -> None:
            flaky = Flaky(lambda _: 99)
            await amap(flaky, range(50), retry=Retry(on=ConnectionError, budget=None), on_error="skip")
            assert len(flaky.attempts) == 200

        play(main)

    def test_each_run_has_its_own(self, play: Play) -> None:
        async def main() -> None:
            retry = Retry(on=ConnectionError, attempts=2)
            for _ in range(3):
                flaky = Flaky(lambda _: 1)
                await amap(flaky, range(10), retry=retry)
                assert len(flaky.attempts) == 20

        play(main)


def test_a_stream_pulls_no_more_than_its_window_while_items_wait(play: Play) -> None:
    """An outage must not pull the whole input: what waits for another attempt counts in the window."""

    async def main() -> None:
        pulled = 0

        def source() -> Iterator[int]:
            nonlocal pulled
            for item in range(10_000):
                pulled += 1
                yield item

        flaky = Flaky(lambda _: 99, seconds=0.1)
        retry = Retry(on=ConnectionError, attempts=99, base=5, cap=5, budget=None)
        async with aimap(flaky, source(), 3, buffer=4, retry=retry) as stream:
            with pytest.raises(asyncio.TimeoutError):
                async with asyncio.timeout(30):
                    await anext(stream)
            assert pulled == 7
            stats = stream.stats
            assert (stats.pulled, stats.retrying + stats.running) == (7, 7)
            stream.max_concurrent_tasks = 1
            with pytest.raises(asyncio.TimeoutError):
                async with asyncio.timeout(30):
                    await anext(stream)
            assert pulled == 7

    play(main)


def test_a_lowered_limit_does_not_strand_the_items_that_wait(play: Play) -> None:
    """The window is fuller than it may be now; the retry of its first item must go on all the same."""

    async def main() -> None:
        flaky = Flaky(lambda item: 3 * (item == 0), seconds=1)
        retry = Retry(on=ConnectionError, base=50)
        async with aimap(flaky, range(100), 20, buffer=30, retry=retry) as stream:
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(10)
            stream.max_concurrent_tasks = 1
            assert await waiting == 0
            assert [item async for item in stream] == list(range(1, 100))

    play(main)


def test_drain_finishes_the_items_that_wait(play: Play) -> None:
    async def main() -> None:
        flaky = Flaky(lambda _: 1, seconds=1)
        async with aimap(flaky, range(1000), 3, retry=Retry(on=ConnectionError, base=20)) as stream:
            first = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.5)
            stream.drain()
            results = [await first] + [item async for item in stream]
        assert results == [0, 1, 2]

    play(main)


@pytest.mark.parametrize("how", ["cancel", "close", "failure"])
def test_a_run_that_is_stopped_leaves_nothing_waiting(play: Play, how: str) -> None:
    """SimLoop fails the test if a task or a timer is left, or if the back-off of an hour is waited for."""

    async def main() -> None:
        async def work(item: int) -> int:
            if item == 9 and how == "failure":
                await asyncio.sleep(5)
                raise ValueError(item)
            raise ConnectionError(item)

        retry = Retry(on=ConnectionError, base=1e9, cap=1e9)
        random.seed(1)
        if how == "close":
            stream = aimap(work, range(10), retry=retry)
            waiting = asyncio.ensure_future(anext(stream, None))
            await asyncio.sleep(5)
            await stream.aclose()
            assert await waiting is None
        else:
            mapping = asyncio.ensure_future(amap(work, range(10), retry=retry))
            await asyncio.sleep(5)
            if how == "cancel":
                mapping.cancel()
            with pytest.raises(asyncio.CancelledError if how == "cancel" else ValueError):
                await mapping
        assert now() == 5

    play(main)


def test_nothing_is_tried_again_once_the_run_is_stopped(play: Play) -> None:
    async def main() -> None:
        attempts = 0

        async def work(item: int) -> None:
            nonlocal attempts
            attempts += 1
            try:
                await asyncio.sleep(1 if item == 0 else 9)
            except asyncio.CancelledError:
                raise ConnectionError(item) from None
            raise ValueError(item)

        with pytest.raises(ValueError, match="0"):
            await amap(work, range(3), retry=Retry(on=ConnectionError))
        assert attempts == 3
        stream = aimap(work, range(3), retry=Retry(on=ConnectionError))
        with pytest.raises(ValueError, match="0"):
            await anext(stream)
        assert (stream.stats.failed, stream.stats.retrying) == (3, 0)

    play(main)


def test_what_is_no_exception_is_never_tried_again(play: Play) -> None:
    async def main() -> None:
        attempts = 0

        async def work(_: int) -> None:
            nonlocal attempts
            attempts += 1
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            await amap(work, [0], retry=Retry(on=Exception))
        assert attempts == 1

    play(main)


def test_an_error_of_the_predicate_stops_the_run_as_a_callback_error(play: Play) -> None:
    async def main() -> None:
        def broken(error: Exception) -> bool:
            raise LookupError("broken")

        meter = Meter(lambda _: 9.0)

        async def work(item: int) -> int:
            if item == 1:
                raise ConnectionError
            return await meter(item)

        for on_error in ("raise", "return", "skip"):
            with pytest.raises(CallbackError, match="retry raised for item 1") as caught:
                await amap(work, range(3), retry=Retry(on=broken), on_error=on_error)
            assert isinstance(caught.value.__cause__, LookupError)
        assert now() == 0

    play(main)


def test_stats_tell_of_the_items_that_wait(play: Play) -> None:
    async def main() -> None:
        flaky = Flaky(lambda item: item < 3, seconds=1)
        async with aimap(flaky, range(5), 5, retry=Retry(on=ConnectionError, base=1e4, cap=1e4)) as stream:
            first = asyncio.ensure_future(anext(stream, None))
            await asyncio.sleep(2)
            stats = stream.stats
            assert (stats.pulled, stats.running, stats.retrying, stats.done, stats.failed) == (5, 0, 3, 2, 0)
            await asyncio.sleep(8)
            assert stream.stats.slot_seconds["backoff"] == pytest.approx(9 * 5)
            await first

    random.seed(3)
    play(main)


def test_a_policy_of_tenacity_is_asked_and_never_left_to_sleep(play: Play) -> None:
    async def main() -> None:
        policy = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(ConnectionError),
            stop=tenacity.stop_after_attempt(3),
            wait=tenacity.wait_exponential(multiplier=2),
        )
        flaky = Flaky(lambda item: item, seconds=1)
        results = await amap(flaky, range(4), 2, retry=policy, on_error="return")
        assert results[:3] == [0, 1, 2]
        assert isinstance(results[3], ConnectionError)
        assert [time for time, item, _ in flaky.attempts if item == 2] == [1, 4, 9]
        assert flaky.most == 2

    play(main)
