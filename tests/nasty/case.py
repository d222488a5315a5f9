"""What a case is, and the pieces that its play is put together from.

Invariant: a case says all that is expected of it: how it ends, what is told, and what the server must have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiomap.fetch import FetchFailed, Page
from tests.loopback import answer
from tests.nasty.log import Asked
from tests.nasty.server import Exchange, Play, Sites

__all__ = [
    "GOOD",
    "MOST_BODY",
    "MOST_SENT",
    "Case",
    "Ended",
    "always",
    "cuts",
    "drips",
    "link",
    "redirects",
    "resets",
    "says",
    "stalls",
    "steps",
]

MOST_BODY = 100_000
"""Bytes that a body may have."""
MOST_SENT = 16 << 20
"""Bytes that a server may have sent before it sees that nobody reads: the buffers of the system on both sides."""
GOOD = b"a good page"


@dataclass(frozen=True)
class Ended:
    """How a case ended, and its requests as the server saw them."""

    page: Page | None
    failed: FetchFailed | None
    asked: list[Asked]

    @property
    def paths(self) -> list[str]:
        """What was asked for, without the name of the case."""
        return [asked.path.partition("/")[2].partition("/")[2] for asked in self.asked]


def link(sites: Sites, host: str, name: str) -> object:
    """The link to the beginning of a case."""
    return sites.url(host, f"/{name}/")


def always(item: object) -> Callable[[Sites, str, str], object]:
    """An item that has nothing to do with the sites."""

    def same(*_: object) -> object:
        return item

    return same


@dataclass(frozen=True)
class Case:
    """One nasty thing.

    number: in the list of nasty things; a letter tells variants apart.
    name: the first part of its path.
    play: what the server does.
    ends: the class of the failure, or the body of the page.
    tells: a regular expression that the message of the failure matches somewhere.
    asked: how many requests the server must have seen; `None`: any number.
    item: what is fetched, given the sites, the host and the name of the case.
    check: whatever else must be true.
    hangs: it would never end by itself.
    """

    number: str
    name: str
    play: Play
    ends: str | bytes
    tells: str = ""
    asked: int | None = 1
    item: Callable[[Sites, str, str], object] = link
    check: Callable[[Ended], None] | None = None
    hangs: bool = False


def says(said: bytes) -> Play:
    """Sends it and keeps the connection, as a good server does."""
    return lambda exchange: exchange.say(said)


def cuts(said: bytes = b"") -> Play:
    """Sends it and closes the connection."""
    return lambda exchange: exchange.cut(said)


def resets(said: bytes = b"") -> Play:
    """Sends it and breaks the connection off."""
    return lambda exchange: exchange.reset(said)


def stalls(said: bytes = b"") -> Play:
    """Sends it and nothing more."""

    async def play(exchange: Exchange) -> None:
        await exchange.begin(said)
        await exchange.stall()

    return play


def drips(first: bytes, then: bytes, every: float) -> Play:
    """Sends the first at once, and then a byte now and then, for ever."""

    async def play(exchange: Exchange) -> None:
        await exchange.begin(first)
        await exchange.forever(then, every)

    return play


def steps(plays: Mapping[str, Play]) -> Play:
    """Plays what stands for the rest of the path; a good page where nothing does."""

    async def play(exchange: Exchange) -> None:
        await plays.get(exchange.step, says(answer(GOOD)))(exchange)

    return play


def redirects(to: str, status: str = "302 Found", body: bytes = b"") -> Play:
    """Sends there; `{port}` in it is the sites' port."""

    async def play(exchange: Exchange) -> None:
        location = to.replace("{port}", str(exchange.sites.port))
        await exchange.say(answer(body, f"Location: {location}", status=status))

    return play
