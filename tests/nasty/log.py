"""What a server saw of its clients, and whether that was good manners.

Invariant: every time is read at the server, off one monotonic clock. A request ends here just before the last byte of
its answer is written, which its client cannot know yet: no check takes a polite client for a rude one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Asked", "Log"]


@dataclass(eq=False)
class Asked:
    """One request: who was asked for what, and how it went."""

    host: str  # by the name that it was asked under
    path: str
    method: str
    headers: dict[str, str]
    body: bytes
    connection: int
    at: float
    ended: float = math.inf
    status: int | None = None
    sent: int = 0
    # Nothing may be asked of the host before this: its Retry-After.
    opens: float = -math.inf

    @property
    def case(self) -> str:
        """The case that it belongs to: the first part of its path."""
        return self.path.split("/")[1].partition("?")[0]


@dataclass
class Log:
    """All requests, in the order in which they came, and the connections.

    connected: the address that each connection was made to.
    open: connections that are open now.
    late: the longest, in seconds, that the event loop of the sites was late by.
    """

    asked: list[Asked] = field(default_factory=list[Asked])
    connected: list[str] = field(default_factory=list[str])
    open: int = 0
    late: float = 0.0

    @property
    def on_its_way(self) -> float:
        """Seconds between the start of a request and when it was seen here, at most.

        What is seen is as late as the event loop is at worst, in each of the four turns that it may take for a
        connection to be made and a head to be sent, to arrive and to be read.
        """
        return 0.01 + 4 * self.late

    def of(self, case: str) -> list[Asked]:
        """The requests of a case."""
        return [asked for asked in self.asked if asked.case == case]

    def hosts(self) -> dict[str, list[Asked]]:
        """The requests of each host, without those for robots.txt, which are not counted by any limit."""
        by_host: defaultdict[str, list[Asked]] = defaultdict(list)
        for asked in self.asked:
            if asked.path != "/robots.txt":
                by_host[asked.host].append(asked)
        return by_host

    def most_at_once(self) -> dict[str, int]:
        """How many requests of each host ran at once, at most."""
        return {host: max(map(_running(asked), asked)) for host, asked in self.hosts().items()}

    def smallest_gap(self) -> dict[str, float]:
        """The seconds between two requests of a host that came soonest after each other; inf if it has had one."""
        return {
            host: min((b.at - a.at for a, b in pairwise(asked)), default=math.inf)
            for host, asked in self.hosts().items()
        }

    def too_early(self) -> list[Asked]:
        """The requests that came while their host had asked for a pause, and were not on their way when it did."""
        return [
            late
            for asked in self.hosts().values()
            for number, first in enumerate(asked)
            for late in asked[number + 1 :]
            if first.ended + self.on_its_way < late.at < first.opens
        ]

    def repeats(self) -> list[Asked]:
        """The requests for what had been answered with success before."""
        return [
            late
            for asked in self.hosts().values()
            for number, late in enumerate(asked)
            if any(first.path == late.path and _succeeded(first, late) for first in asked[:number])
        ]


def _running(of_host: list[Asked]) -> Callable[[Asked], int]:
    """Tells how many of the host's requests ran when one of them came."""
    return lambda now: sum(asked.at <= now.at < asked.ended for asked in of_host)


def _succeeded(first: Asked, late: Asked) -> bool:
    return first.status is not None and first.status < 300 and first.ended < late.at
