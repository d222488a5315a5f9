"""`HostGate`: requests to a host take turns, whoever is cancelled, and one host is nothing to another."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest

from aiomap import PerKey, Rate
from aiomap.fetch import FetchFailed, host_of
from aiomap.fetch.politeness import HostGate
from aiomap.testing import SimLoop
from tests.conftest import Play

GAP = 0.25


def gate(tasks: int | None = 2, rate: Rate | None = None) -> HostGate:
    return HostGate(PerKey(host_of, tasks, rate))


def is_empty(tested: HostGate) -> bool:
    """Whether nothing is kept of any host."""
    return not tested._lines and not tested._limit._keys


async def ask(
    tested: HostGate, host: str, seconds: float, started: list[float], error: Exception | None = None
) -> None:
    async with tested.request(host):
        started.append(asyncio.get_running_loop().time())
        await asyncio.sleep(seconds)
        if error is not None:
            raise error


def test_requests_to_a_host_start_in_order_so_many_at_once_and_so_far_apart(play: Play) -> None:
    async def main() -> None:
        tested = gate(2, Rate(1, GAP))
        order: list[int] = []
        running = 0

        async def one(number: int) -> float:
            nonlocal running
            async with tested.request("a"):
                order.append(number)
                running += 1
                assert running <= 2
                started = asyncio.get_running_loop().time()
                await asyncio.sleep(1)
                running -= 1
            return started

        tasks: list[asyncio.Task[float]] = []
        for number in range(6):
            tasks.append(asyncio.create_task(one(number)))
            await asyncio.sleep(0.01)
        started = await asyncio.gather(*tasks)
        assert order == list(range(6))
        assert started == pytest.approx([0, 0.25, 1, 1.25, 2, 2.25], abs=0.02)
        assert all(later - earlier >= GAP - 1e-9 for earlier, later in pairwise(started))

    play(main)


def test_one_host_is_nothing_to_another(play: Play) -> None:
    async def main() -> None:
        tested = gate(1, Rate(1, 60))
        started: list[float] = []
        await asyncio.gather(*(ask(tested, host, 5, started) for host in "abc"))
        assert started == [0, 0, 0]

    play(main)


def test_whoever_comes_late_waits_behind_those_who_wait(play: Play) -> None:
    async def main() -> None:
        tested = gate(1)
        order: list[str] = []

        async def one(name: str) -> None:
            async with tested.request("a"):
                order.append(name)
                await asyncio.sleep(1)
            if name == "first":
                await one("first once more")

        first = asyncio.create_task(one("first"))
        await asyncio.sleep(0.5)
        await asyncio.gather(first, one("second"))
        assert order == ["first", "second", "first once more"]

    play(main)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("asked_for", "least", "most"), [("7", 7, 7), ("9999", 120, 120), (None, 0.25, 0.35)])
def test_an_answer_that_asks_for_a_pause_gets_it_from_its_host_alone(
    play: Play, status: int, asked_for: str | None, least: float, most: float
) -> None:
    async def main() -> None:
        tested = gate(2)
        started: list[float] = []
        headers = {"retry-after": asked_for} if asked_for else {}
        with pytest.raises(FetchFailed):
            await ask(tested, "a", 0, started, FetchFailed("http_4xx", "too much", status, headers))
        await ask(tested, "b", 0, started)
        await asyncio.gather(ask(tested, "a", 0, started), ask(tested, "a", 0, started))
        assert started[:2] == [0, 0]
        assert all(least <= time <= most for time in started[2:])

    play(main)


def test_a_request_weighs_1_whatever_an_item_weighs(play: Play) -> None:
    async def main() -> None:
        tested = gate(None, Rate(2, 5, cost=lambda item: item["size"]))
        started: list[float] = []
        await asyncio.gather(*(ask(tested, "a", 0, started) for _ in range(3)))
        assert started == [0, 0, 5]

    play(main)


def test_another_failure_closes_nothing(play: Play) -> None:
    async def main() -> None:
        tested = gate(1)
        started: list[float] = []
        for error in (FetchFailed("http_4xx", "gone", 404, {"retry-after": "9"}), OSError()):
            with pytest.raises(type(error)):
                await ask(tested, "a", 0, started, error)
        assert started == [0, 0]
        assert is_empty(tested)

    play(main)


def test_hosts_that_are_idle_take_no_memory(play: Play) -> None:
    async def main() -> None:
        tested = gate(2, Rate(1, GAP))
        for number in range(1000):
            await ask(tested, f"host{number}", 0.001, [])
        assert len(tested._limit._keys) < 500  # twice those of the last quarter of a second
        await asyncio.sleep(1)
        for _ in range(300):
            await ask(tested, "a", 1, [])
        assert is_empty(tested)

    play(main)


@pytest.mark.parametrize("victim", range(4))
def test_a_cancel_at_any_step_leaves_nothing_behind_and_loses_nobody(victim: int) -> None:
    """Four who want one host, of which one is cancelled before each of the steps that the loop makes, in turn."""

    def play_with_cancel_before(step: int, seed: int) -> int:
        async def main() -> None:
            tested = gate(1, Rate(1, GAP))
            started: list[float] = []
            tasks = [asyncio.create_task(ask(tested, "a", 0.1, started)) for _ in range(4)]

            def cancel(now: int) -> None:
                if now == step:
                    tasks[victim].cancel()

            loop.before_step = cancel
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            loop.before_step = None
            assert [number for number, error in enumerate(ended) if error is not None] in ([], [victim])
            assert len(started) >= 3
            assert all(later - earlier >= GAP for earlier, later in pairwise(started))
            assert not tested._lines
            before = loop.time()
            await asyncio.wait_for(ask(tested, "a", 0, started), 10)
            assert started[-1] <= before + GAP

        loop = SimLoop(seed)
        loop.run(main)
        return loop.steps

    for seed in range(3):
        steps = play_with_cancel_before(0, seed)
        assert steps > 8
        for step in range(1, steps):
            play_with_cancel_before(step, seed)


def test_many_who_go_from_host_to_host_and_are_cancelled_at_random_all_end(play: Play) -> None:
    async def main() -> None:
        tested = gate(1, Rate(1, GAP))
        chance = random.Random(7)

        async def wander() -> None:
            for _ in range(5):
                await ask(tested, chance.choice("abc"), chance.random(), [])

        tasks = [asyncio.create_task(wander()) for _ in range(30)]
        for task in chance.sample(tasks, 15):
            asyncio.get_running_loop().call_later(chance.random() * 20, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not tested._lines
        assert not any(key.running for key in tested._limit._keys.values())

    play(main)
