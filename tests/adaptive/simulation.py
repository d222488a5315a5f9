"""Clients with no end of items against a modelled server, on a heap of events: no event loop, no map.

Invariant: a client starts an attempt at every moment at which its limit allows one. It looks when one of its attempts
has ended, and at the time that the limit named; and an attempt is the limit's business at its start and at its end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Any

from aiomap.limits.limit import Ending, Limit
from tests.adaptive.servers import Accepted, Server

__all__ = ["Client", "play", "seeded"]


class Client:
    """What one client has seen: when attempts started, when they succeeded and took how long, when they were refused."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.starts: list[float] = []
        self.successes: list[float] = []
        self.durations: list[float] = []
        self.refusals: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0

    @property
    def rejects(self) -> float:
        """Per success."""
        return len(self.refusals) / max(1, len(self.successes))


def play(server: Server, clients: Sequence[Client], until: float) -> None:
    """From 0 to that time."""
    events: list[tuple[float, int, Client, Any]] = []
    numbers = count()
    rings = dict.fromkeys(clients, math.inf)

    def start(client: Client, now: float) -> None:
        while (when := client.limit.next_start(None, now)) <= now:
            ticket = client.limit.started(None, now)
            client.starts.append(now)
            client.in_flight += 1
            client.most_in_flight = max(client.most_in_flight, client.in_flight)
            answer = server.request(now)
            seconds = answer.duration if isinstance(answer, Accepted) else answer.after
            heappush(events, (now + seconds, next(numbers), client, (ticket, now, answer)))
        if now < when < math.inf and not now < rings[client] <= when:
            rings[client] = when
            heappush(events, (when, next(numbers), client, None))

    for client in clients:
        start(client, 0.0)
    while events and events[0][0] <= until:
        now, _, client, attempt = heappop(events)
        if attempt is None:
            rings[client] = math.inf
        else:
            ticket, started, answer = attempt
            client.in_flight -= 1
            if isinstance(answer, Accepted):
                server.done(now)
                client.successes.append(now)
                client.durations.append(now - started)
                client.limit.ended(ticket, now, "success", None)
            else:
                client.refusals.append(now)
                ending: Ending = answer.ending
                client.limit.ended(ticket, now, ending, answer.retry_after)
        start(client, now)


@contextmanager
def seeded(seed: int) -> Iterator[random.Random]:
    """Random numbers for a server; those that a limit draws by itself come from the same seed."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield random.Random(seed)
    finally:
        random.setstate(state)
