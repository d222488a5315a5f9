"""Promise 23: the adaptive limit finds what a remote takes, in simulation. Bands over seeds, never traces."""

from __future__ import annotations

from statistics import mean, median

import pytest

from aiomap import Adaptive
from tests.adaptive.scenarios import SCENARIOS, Scenario, fairness, measured
from tests.adaptive.servers import Queue, Slots, lognormal
from tests.adaptive.simulation import Client, play, seeded

pytestmark = pytest.mark.once


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_it_reaches_its_band(scenario: Scenario) -> None:
    runs = [measured(scenario, seed) for seed in scenario.seeds]
    assert mean(run.goodput for run in runs) >= 0.97 * scenario.goodput
    assert mean(run.rejects for run in runs) <= 1.5 * scenario.rejects + 0.01
    for client in (client for run in runs for client in run.clients):
        assert client.too_early == 0
        assert client.most_in_flight <= client.limit.max
        assert client.limit.min <= min(client.limits) <= max(client.limits) <= client.limit.max


def _scenario(number: str) -> Scenario:
    return next(scenario for scenario in SCENARIOS if scenario.name.startswith(number + ":"))


def test_four_clients_share_fairly() -> None:
    scenario = _scenario("S7")
    for seed in scenario.seeds:
        # One that always had half of what the other three have would give 0.9.
        assert fairness([len(client.successes) for client in measured(scenario, seed).clients]) > 0.9


@pytest.mark.parametrize("outage", [2, 10, 30])
def test_after_an_outage_it_is_soon_back(outage: int) -> None:
    """The cool-downs grow by half: the last takes about half as long as all before it. Then it climbs, 5 s at most."""
    until = 20 + outage + 0.6 * outage + 5
    for seed in range(5):
        with seeded(seed) as random:
            server = Slots([(0, 40), (20, 0), (20 + outage, 40)], lognormal(random, 0.2, 0.5))
            client = Client(Adaptive())
            play(server, [client], until + 2)
        assert sum(until < time for time in client.successes) >= 0.9 * 2 * 40 / 0.2


def test_a_queue_is_not_seen_but_with_a_latency_tolerance_it_stays_short() -> None:
    """200 a second: 1000 at once wait 5 s each. The tolerance is heard of a round trip late, so 0.4 s are not kept."""
    waiting = {}
    for tolerance in (None, 2.0):
        with seeded(1) as random:
            client = Client(Adaptive(max=1000, latency_tolerance=tolerance))
            play(Queue(40, lognormal(random, 0.2, 0.5)), [client], 60)
        waiting[tolerance] = median(client.durations)
        assert len(client.successes) > 0.95 * 60 * 200
    assert waiting[None] > 4
    assert waiting[2.0] < 1.25
