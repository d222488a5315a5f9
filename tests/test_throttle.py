"""Promise 20: a throttled remote closes a gate, and what was throttled is tried again when it opens."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable

import pytest

from aiomap import Adaptive, CallbackError, PerKey, Rate, Retry, Throttled, aimap, amap, aoutcomes, current
from aiomap.throttling import http_throttle

from .conftest import Play
from .meter import Meter


def now() -> float:
    return asyncio.get_running_loop().time()


class Remote:
    """Sends away the first `times(item)` attempts of each item, asking for a pause."""

    def __init__(
        self,
        times: Callable[[int], int],
        retry_after: float | None = 10.0,
        seconds: float = 1.0,
        error: Callable[[float | None], Exception] = Throttled,
    ) -> None:
        self._times, self._retry_after, self._seconds, self._error = times, retry_after, seconds, error
        self.attempts: list[tuple[float, int]] = []

    async def __call__(self, item: int) -> int:
        self.attempts.append((now(), item))
        attempt = current().attempt
        await asyncio.sleep(self._seconds)
        if attempt <= self._times(item):
            raise self._error(self._retry_after)
        return item

    def starts(self) -> list[float]:
        return [time for time, _ in self.attempts]


class HttpError(Exception):
    """What an HTTP client's error looks like."""

    def __init__(self, retry_after: float | None, status: int = 429) -> None:
        super().__init__(status)
        self.status = status
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)


def test_nothing_starts_before_the_pause_is_over(play: Play) -> None:
    """In a run without any policy: a `Throttled` is enough."""

    async def main() -> None:
        remote = Remote(lambda item: item == 0)
        assert await amap(remote, range(4), 1) == list(range(4))
        assert remote.attempts == [(0, 0), (11, 0), (12, 1), (13, 2), (14, 3)]

    play(main)


@pytest.mark.parametrize("verb", ["amap", "ordered", "unordered", "outcomes"])
def test_every_verb_tries_a_throttled_item_again(play: Play, verb: str) -> None:
    async def main() -> None:
        remote = Remote(lambda item: item % 3)
        if verb == "amap":
            results = await amap(remote, range(40), 4)
        elif verb == "outcomes":
            results = [outcome.value or 0 async for outcome in aoutcomes(remote, range(40), 4)]
        else:
            results = [result async for result in aimap(remote, range(40), 4, ordered=verb == "ordered", buffer=3)]
        assert results == list(range(40)) or (verb in {"unordered", "outcomes"} and sorted(results) == list(range(40)))

    play(main)


def test_it_uses_up_no_attempt(play: Play) -> None:
    async def main() -> None:
        remote = Remote(lambda _: 9)
        assert await amap(remote, [0], retry=Retry(on=ConnectionError, attempts=1)) == [0]
        assert len(remote.attempts) == 10

    play(main)


def test_it_is_no_part_of_the_budget(play: Play) -> None:
    async def main() -> None:
        remote = Remote(lambda _: 1)
        assert await amap(remote, range(30), 30, retry=Retry(on=ConnectionError, budget=0)) == list(range(30))

    play(main)


@pytest.mark.parametrize("status", [429, 503])
def test_an_http_error_is_one_if_there_is_a_retry(play: Play, status: int) -> None:
    async def main() -> None:
        remote = Remote(lambda _: 2, error=lambda seconds: HttpError(seconds, status))
        assert await amap(remote, [0], retry=Retry(on=ConnectionError)) == [0]
        assert remote.starts() == [0, 11, 22]

    play(main)


def test_without_a_retry_only_an_explicit_throttled_is_tried_again(play: Play) -> None:
    async def main() -> None:
        for limits in ([], [Rate(100)]):
            remote = Remote(lambda _: 2, error=HttpError)
            with pytest.raises(HttpError):
                await amap(remote, [0], limits=limits)
            assert len(remote.attempts) == 1

    play(main)


def test_with_a_limit_an_http_error_closes_its_gate_all_the_same(play: Play) -> None:
    async def main() -> None:
        remote = Remote(lambda item: item == 0, error=HttpError)
        results = await amap(remote, range(4), 1, limits=[Rate(100)], on_error="return")
        assert [type(result) for result in results] == [HttpError, int, int, int]
        assert remote.starts() == [0, 11, 12, 13]

    play(main)


def test_a_classifier_of_ones_own_is_asked_instead(play: Play) -> None:
    async def main() -> None:
        def throttle(error: Exception) -> Throttled | None:
            return Throttled(3) if isinstance(error, LookupError) else http_throttle(error)

        for error in (HttpError, lambda _: LookupError("busy")):
            remote = Remote(lambda _: 1, retry_after=3, error=error)
            began = now()
            assert await amap(remote, [0], retry=Retry(on=ConnectionError, throttle=throttle)) == [0]
            assert remote.starts() == [began, began + 4]
        with pytest.raises(HttpError):
            await amap(Remote(lambda _: 1, error=HttpError), [0], retry=Retry(on=ConnectionError, throttle=None))

    play(main)


def test_an_error_of_the_classifier_stops_the_run_as_a_callback_error(play: Play) -> None:
    async def main() -> None:
        def broken(_: Exception) -> Throttled | None:
            raise LookupError("broken")

        async def fail(_: int) -> None:
            raise ConnectionError

        with pytest.raises(CallbackError, match="throttle raised for item 0") as caught:
            await amap(fail, [0], retry=Retry(on=ConnectionError, throttle=broken), on_error="return")
        assert isinstance(caught.value.__cause__, LookupError)

    play(main)


def test_a_burst_of_throttles_is_one_and_the_longest_pause_counts(play: Play) -> None:
    async def main() -> None:
        async def work(item: int) -> int:
            starts.append(now())
            if current().attempt == 1:
                await asyncio.sleep(1 + item / 10)
                raise Throttled(20 - 2 * item)
            return item

        starts: list[float] = []
        assert await amap(work, range(5), 5) == list(range(5))
        assert starts == [0] * 5 + [21] * 5

    play(main)


def test_what_runs_goes_on_while_the_gate_is_closed(play: Play) -> None:
    async def main() -> None:
        ended: list[float] = []

        async def work(item: int) -> None:
            await asyncio.sleep(1)
            if item == 0 and current().attempt == 1:
                raise Throttled(100)
            await asyncio.sleep(4)
            ended.append(now())

        await amap(work, range(3), 3)
        assert ended == [5, 5, 106]

    play(main)


def test_a_pause_that_is_too_long_is_cut_to_max_retry_after(play: Play) -> None:
    async def main() -> None:
        for asked in (7200, "Wed, 21 Oct 2099 07:28:00 GMT", 120):
            began = now()
            remote = Remote(lambda _: 1, error=lambda _, asked=asked: Throttled(asked))  # type: ignore[misc]
            await amap(remote, [0])
            assert remote.starts() == [began, began + 121]
        remote = Remote(lambda _: 1, retry_after=7200)
        began = now()
        await amap(remote, [0], retry=Retry(on=OSError, max_retry_after=30))
        assert remote.starts() == [began, began + 31]

    play(main)


@pytest.mark.usefixtures("no_jitter")
@pytest.mark.parametrize("said", [None, 0, "-5", "soon", "nan", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_remote_that_does_not_say_how_long_is_given_longer_and_longer(play: Play, said: str | float | None) -> None:
    async def main() -> None:
        remote = Remote(lambda _: 5, seconds=1, error=lambda _: Throttled(said))
        await amap(remote, [0])
        assert remote.starts() == pytest.approx([0, 1.5, 3.25, 5.375, 8.0625, 11.59375])

    play(main)


def test_an_item_that_is_throttled_for_too_long_in_all_fails_with_its_last_error(play: Play) -> None:
    async def main() -> None:
        remote = Remote(lambda _: 10**9, retry_after=10, seconds=0)
        (error,) = await amap(remote, [0], on_error="return")
        assert isinstance(error, Throttled)
        assert remote.starts() == [10.0 * number for number in range(32)], "more than 300 s"
        remote = Remote(lambda _: 10**9, retry_after=10, seconds=0, error=HttpError)
        with pytest.raises(HttpError):
            await amap(remote, [0], retry=Retry(on=ConnectionError, throttle_timeout=25))
        assert len(remote.attempts) == 4

    play(main)


def test_the_throttled_items_go_first_when_the_gate_opens(play: Play) -> None:
    async def main() -> None:
        remote = Remote(lambda item: item in {2, 3}, seconds=1)
        await amap(remote, range(8), 2)
        assert [item for _, item in remote.attempts][:4] == [0, 1, 2, 3]
        assert sorted(item for _, item in remote.attempts[4:6]) == [2, 3]

    play(main)


def test_a_key_closes_its_own_gate_only(play: Play) -> None:
    async def main() -> None:
        async def work(item: tuple[str, int]) -> None:
            starts.append((now(), item))
            await asyncio.sleep(1)
            if item == ("a", 0) and current().attempt == 1:
                raise Throttled(10)

        starts: list[tuple[float, tuple[str, int]]] = []
        items = [(key, number) for number in range(3) for key in "ab"]
        await amap(work, items, 10, limits=[PerKey(lambda item: item[0], 1), Rate(1000)])
        assert [(time, item) for time, item in starts if item[0] == "b"] == [(n, ("b", n)) for n in range(3)]
        assert [(time, item) for time, item in starts if item[0] == "a"] == [
            (0, ("a", 0)),
            (11, ("a", 0)),
            (12, ("a", 1)),
            (13, ("a", 2)),
        ]

    play(main)


def test_an_item_without_a_key_closes_the_gate_of_the_run(play: Play) -> None:
    async def main() -> None:
        remote = Remote(lambda item: item == 0)
        await amap(remote, range(4), 1, limits=[PerKey(lambda _: None, 1)])
        assert remote.starts() == [0, 11, 12, 13, 14]

    play(main)


def test_maps_that_share_a_rate_share_its_gate(play: Play) -> None:
    async def main() -> None:
        shared = Rate(100)
        first, second = Remote(lambda item: item == 1), Remote(lambda _: 0, seconds=1.5)
        await asyncio.gather(amap(first, range(3), 1, limits=[shared]), amap(second, range(4), 1, limits=[shared]))
        assert first.starts() == [0, 1, 12, 13]
        assert second.starts() == [0, 1.5, 12, 13.5]
        late = Remote(lambda _: 0)
        with pytest.raises(Throttled):
            await amap(Remote(lambda _: 9), [0], limits=[shared], retry=Retry(on=OSError, throttle_timeout=0))
        began = now()
        await amap(late, range(1), limits=[shared])
        assert late.starts() == [began + 10], "a gate outlives the run that closed it"

    play(main)


def test_an_adaptive_number_closes_its_own_gate(play: Play) -> None:
    async def main() -> None:
        remote = Remote(lambda item: item == 0)
        adaptive = Adaptive(max=10)
        await amap(remote, range(8), adaptive)
        assert [time for time in remote.starts() if 1 < time < 11] == []
        assert adaptive.in_flight == 0

    play(main)


def test_slot_seconds_of_a_closed_gate_are_booked_to_it(play: Play) -> None:
    async def main() -> None:
        remote = Remote(lambda item: item == 1, retry_after=50)
        async with aimap(remote, range(2), 4) as stream:
            assert [item async for item in stream] == [0, 1]
            assert stream.stats.slot_seconds["gate"] == pytest.approx(4 * 50)

    play(main)


def test_the_switch_to_policies_in_the_middle_of_a_run_loses_and_doubles_nothing(play: Play) -> None:
    async def main() -> None:
        rng = random.Random(5)
        times = [rng.random() < 0.1 for _ in range(2000)]
        calls = [0] * 2000
        meter = Meter(lambda item: (item % 7) / 10)

        async def work(item: int) -> int:
            calls[item] += 1
            if item % 3:
                await meter(item)
            if times[item] and current().attempt == 1:
                raise Throttled(0.5)
            return item

        assert await amap(work, range(2000), 50) == list(range(2000))
        assert calls == [1 + again for again in times]
        assert meter.most <= 50

    play(main)


def test_a_remote_that_throttles_without_taking_any_time_does_not_hang_the_loop(play: Play) -> None:
    async def main() -> None:
        async def work(_: int) -> None:
            raise Throttled(0)

        with pytest.raises(Throttled):
            await amap(work, [0])
        assert 300 < now() < 400

    play(main)


@pytest.mark.parametrize("pause", [-1, math.nan, math.inf, True, [1]])
def test_a_pause_that_is_none_is_the_items_failure(play: Play, pause: object) -> None:
    async def main() -> None:
        async def work(_: int) -> None:
            raise Throttled(pause)  # type: ignore[arg-type]  # the test's point

        with pytest.raises((TypeError, ValueError), match="retry_after must be"):
            await amap(work, [0])

    play(main)
