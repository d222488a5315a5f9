"""Promise 23 once more, through the real map on virtual time: each attempt is asked for, told of, and tried again."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress

import pytest

from aiomap import Adaptive, Retry, Throttled, aimap
from aiomap.testing import simulate
from tests.adaptive.scenarios import SCENARIOS, Scenario
from tests.adaptive.servers import Accepted, Server
from tests.adaptive.simulation import seeded

pytestmark = pytest.mark.once


class Tally:
    """What the clients of one server come to."""

    def __init__(self) -> None:
        self.successes = self.refusals = 0


async def _client(server: Server, limit: Adaptive, tally: Tally, seconds: float) -> None:
    loop = asyncio.get_running_loop()

    async def call(_: int) -> None:
        answer = server.request(loop.time())
        if isinstance(answer, Accepted):
            try:
                await asyncio.sleep(answer.duration)
            finally:
                server.done(loop.time())
            tally.successes += 1
            return
        await asyncio.sleep(answer.after)
        tally.refusals += 1
        raise ConnectionRefusedError if answer.ending == "overloaded" else Throttled(answer.retry_after)

    retry = Retry(on=ConnectionError, attempts=10**6, budget=None, base=0.01, cap=0.01, throttle_timeout=1e9)
    stream = aimap(call, itertools.count(), limit, ordered=False, retry=retry)
    async with stream:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for _ in stream:
                    pass
    assert limit.in_flight == 0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_it_reaches_its_band_through_the_real_map(scenario: Scenario) -> None:
    tally = Tally()
    with seeded(0) as random:
        server = scenario.server(random)
        limits = [scenario.limit() for _ in range(scenario.clients)]

        async def main() -> None:
            await asyncio.gather(*(_client(server, limit, tally, scenario.seconds) for limit in limits))

        simulate(main, seed=None)
    assert tally.successes / server.ideal(scenario.seconds) >= 0.97 * scenario.goodput
    assert tally.refusals / max(1, tally.successes) <= 1.5 * scenario.rejects + 0.01
