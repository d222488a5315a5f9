"""What a client meets, each with the band that an adaptive limit must reach there.

goodput: successes over what the server could have completed. rejects: refused attempts per success. Each is the aim
that was set before these servers were modelled; a measured mean may be 3 % less and half as many more (and one in a
hundred), which is more than other seeds move it. Where the durations, the burst or the length of the run decide
whether the aim can be met at all, it is said so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import NamedTuple

from aiomap import Adaptive
from tests.adaptive.servers import Banning, Bucket, Queue, Server, Slots, Window, drifting, lognormal
from tests.adaptive.simulation import Client, play, seeded

__all__ = ["SCENARIOS", "Measured", "Scenario", "fairness", "measured"]


class Scenario(NamedTuple):
    """So many clients, each with a limit of its own, ask the server for so many seconds."""

    name: str
    server: Callable[[Random], Server]
    goodput: float
    rejects: float
    seconds: float = 120
    clients: int = 1
    limit: Callable[[], Adaptive] = Adaptive
    seeds: Iterable[int] = range(3)


class Measured(NamedTuple):
    goodput: float
    rejects: float
    clients: list[Client]


def measured(scenario: Scenario, seed: int) -> Measured:
    """One run of the scenario, by the pure state machine alone."""
    with seeded(seed) as random:
        server = scenario.server(random)
        clients = [Client(scenario.limit()) for _ in range(scenario.clients)]
        play(server, clients, scenario.seconds)
    successes = sum(len(client.successes) for client in clients)
    refusals = sum(len(client.refusals) for client in clients)
    return Measured(successes / server.ideal(scenario.seconds), refusals / max(1, successes), clients)


def fairness(shares: list[int]) -> float:
    """Jain's index: 1 if all shares are equal, 1 over their number if one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


SCENARIOS = [
    # The plain case. 2 % is what lies between the limit just below the cliff and the 10 % that each probe costs; the
    # first climb from 4 to 40 takes another half.
    Scenario("S1: 40 at once", lambda r: Slots(40, lognormal(r, 0.2, 0.5)), 0.976, 0.002),
    # Whatever looks at latency takes the long tail for a queue and backs off. It is no easier than S1: by the mean of
    # the durations that were drawn, .973.
    Scenario("S1h: 40 at once, heavy tail", lambda r: Slots(40, lognormal(r, 0.2, 2)), 0.995, 0.002),
    Scenario(
        "S1h with a latency tolerance",  # it may not cost anything where there is no queue
        lambda r: Slots(40, lognormal(r, 0.2, 2)),
        0.995,
        0.002,
        limit=lambda: Adaptive(latency_tolerance=2),
    ),
    # A rate looks like a cliff at rate x duration = 20 at once. The burst is one second's worth: a smaller one would
    # overflow while the client obeys a Retry-After, which has whole seconds (with a burst of 20, goodput is .68), and
    # only a `Rate` can make up for that.
    Scenario(
        "S2: 100 a second, Retry-After",
        lambda r: Bucket(100, 100, lognormal(r, 0.2, 0.5), says_when=True),
        0.985,
        0.009,
    ),
    # One attempt at a time is five times too much here, so only the gate can help: without it, 4 rejects per success.
    Scenario(
        "S2c: 20 a second, 10 ms each, Retry-After",
        lambda r: Bucket(20, 20, lognormal(r, 0.01, 0.5), says_when=True, way=0.01),
        0.973,
        0.106,
        seeds=range(8),
    ),
    # And here only the cool-down can, which needs three refusals to set in. A rate limit is the right tool; this shows
    # that the wrong one does no great harm.
    Scenario(
        "S2d: the same without Retry-After",
        lambda r: Bucket(20, 20, lognormal(r, 0.01, 0.5), says_when=False, way=0.01),
        0.999,
        0.596,
        seeds=range(8),
    ),
    # Ten windows. All of a window's attempts are soon used up, then there is nothing but the gate until the next one.
    Scenario(
        "S3: 600 a minute, Retry-After",
        lambda r: Window(600, 60, lognormal(r, 0.5, 0.5), says_when=True),
        1.0,
        0.009,
        seconds=600,
    ),
    # About ten cool-downs fill what remains of the minute, and the last one must not last into the next for long.
    Scenario(
        "S3b: the same without Retry-After",
        lambda r: Window(600, 60, lognormal(r, 0.5, 0.5), says_when=False),
        1.0,
        0.039,
        seconds=600,
    ),
    # Down by one collapse, up by steps of an eighth: the way from 10 to 80 takes some 25 round trips (so in 120 s
    # altogether it is .925).
    Scenario(
        "S5: 40, then 10, then 80 at once",
        lambda r: Slots([(0, 40), (100, 10), (200, 80)], lognormal(r, 0.2, 0.5)),
        0.958,
        0.002,
        seconds=300,
    ),
    # Two hours, for the first climb takes six round trips: two minutes. In the first hour alone it is .94.
    Scenario(
        "S6: 300 at once, 20 s each",
        lambda r: Slots(300, lognormal(r, 20, 0.5)),
        0.978,
        0.0,
        seconds=7200,
        limit=lambda: Adaptive(max=1000),
    ),
    # Each probe of one client is a refusal for any of them, so there are more.
    Scenario("S7: four clients, 64 at once", lambda r: Slots(64, lognormal(r, 0.2, 0.5)), 0.990, 0.011, clients=4),
    # Each probe is refused: this is what the wait of up to eight rounds is for, else it is one in three.
    Scenario("S8: one at once", lambda r: Slots(1, lognormal(r, 0.2, 0.5)), 0.996, 0.064),
    # Whoever tries again within the ban is locked out for ever (goodput 0). A cycle is about twelve good rounds and
    # five seconds of ban, so goodput is a matter of how long a round takes: .35 at 0.2 s, .50 at these 0.4 s.
    Scenario(
        "S10: 40 at once, else a ban of 5 s",
        lambda r: Banning(40, lognormal(r, 0.4, 0.5), 5),
        0.471,
        0.018,
        seconds=200,
    ),
    # To who knows the time only, ten times slower is ten times less capacity; it is the same 40 at once.
    Scenario(
        "S11: 40 at once, ten times slower in the end",
        lambda r: Slots(40, drifting(lognormal(r, 0.1, 0.5), 10, 300)),
        0.990,
        0.003,
        seconds=300,
    ),
    # Of 90 s the last cool-down takes 8 on average, which is what is missing (the outage is no part of the ideal).
    # Chance says where in it the outage ends, hence more seeds.
    Scenario(
        "S12: 30 s of outage",
        lambda r: Slots([(0, 40), (40, 0), (70, 40)], lognormal(r, 0.2, 0.5)),
        0.881,
        0.004,
        seeds=range(8),
    ),
    # Whatever the number is: more than .9 (and its 3 %) with less than a tenth of rejects.
    *(
        Scenario(
            f"{capacity} at once",
            lambda r, capacity=capacity: Slots(capacity, lognormal(r, 0.2, 0.5)),  # type: ignore[misc]
            0.94,
            0.06,
            seconds=60,
            limit=lambda: Adaptive(max=200),
        )
        for capacity in (1, 3, 10, 40, 150)
    ),
    # Documents what it cannot do: it sees no queue. (What it does to the waiting is tested by name.)
    Scenario(
        "S4: a queue",
        lambda r: Queue(40, lognormal(r, 0.2, 0.5)),
        1.0,
        0.0,
        limit=lambda: Adaptive(max=1000),
        seconds=60,
    ),
]
