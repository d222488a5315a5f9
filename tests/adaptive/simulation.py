"""Clients with no end of items against a modelled server, on a heap of events: no event loop, no map.

Invariant: a client starts an attempt at every moment at which its limit allows one. It looks when one of its attempts
has ended, and at the time that the limit named.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Any

from aiomap import Adaptive
from tests.adaptive.servers import Accepted, Rejected, Server

__all__ = ["Client", "play", "seeded"]


class Client:
    """An adaptive limit, and what its client has seen."""

    def __init__(self, limit: Adaptive) -> None:
        self.limit = limit
        self.starts: list[float] = []
        self.successes: list[float] = []  # when they ended
        self.durations: list[float] = []  # theirs
        self.refusals: list[float] = []  # when they were heard
        self.limits: list[int] = []  # at each start
        self.most_in_flight = 0
        self.closed_until = -math.inf
        self.too_early = 0  # starts before a Retry-After was over

    def start(self, now: float) -> Any:
        """The limit's ticket."""
        ticket = self.limit.started(None, now)
        self.starts.append(now)
        self.limits.append(self.limit.limit)
        self.most_in_flight = max(self.most_in_flight, self.limit.in_flight)
        self.too_early += now < self.closed_until
        return ticket

    def end(self, ticket: Any, now: float, answer: Accepted | Rejected) -> None:
        """Tells the limit."""
        if isinstance(answer, Accepted):
            self.successes.append(now)
            self.durations.append(answer.duration)
            self.limit.ended(ticket, now, "success", None)
        else:
            self.refusals.append(now)
            self.closed_until = max(self.closed_until, now + (answer.retry_after or 0))
            self.limit.ended(ticket, now, answer.ending, answer.retry_after)


def play(server: Server, clients: Sequence[Client], until: float) -> None:
    """From 0 to that time."""
    events: list[tuple[float, int, Client, tuple[Any, Accepted | Rejected] | None]] = []
    numbers = count()  # events of the same time in their order
    rings = dict.fromkeys(clients, math.inf)  # the earliest time at which a client looks anyway

    def look(client: Client, now: float) -> None:
        while (when := client.limit.next_start(None, now)) <= now:
            ticket = client.start(now)
            answer = server.request(now)
            seconds = answer.duration if isinstance(answer, Accepted) else answer.after
            heappush(events, (now + seconds, next(numbers), client, (ticket, answer)))
        if when < rings[client]:
            rings[client] = when
            heappush(events, (when, next(numbers), client, None))

    for client in clients:
        look(client, 0.0)
    while events and events[0][0] <= until:
        now, _, client, attempt = heappop(events)
        if attempt is None:
            rings[client] = math.inf
        else:
            ticket, answer = attempt
            if isinstance(answer, Accepted):
                server.done(now)
            client.end(ticket, now, answer)
        look(client, now)


@contextmanager
def seeded(seed: int) -> Iterator[random.Random]:
    """Random numbers for a server; those that a limit draws for itself come from the same seed."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield random.Random(seed)
    finally:
        random.setstate(state)
