"""69-83: hosts that ask for pauses, well and badly, that say no, that break, and that want to be asked politely.

Each is asked for several links in one map together with all others. The links of a host end all alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from itertools import pairwise

from tests.loopback import answer
from tests.nasty.case import GOOD, redirects, resets, says
from tests.nasty.log import Asked
from tests.nasty.server import Exchange, Play

__all__ = ["CROWDED", "GAP", "HOSTS", "PAUSE", "Host"]

GAP = 0.08
"""Seconds between two requests of a host."""
PAUSE = 1
"""Seconds of the pauses that the hosts ask for."""
CROWDED = "crowded"
"""The host that the links of others lead to."""

_TOO_MANY = "429 Too Many Requests"
_BANNED_AFTER = 7
_GOOD = says(answer(GOOD))


@dataclass(frozen=True)
class Host:
    """One host.

    number: in the list of nasty things; a letter tells variants apart.
    name: of the host, and the first part of the paths of its links.
    play: what it does.
    ends: the class of the failures, or the body of the pages.
    links: how many of its links are fetched.
    each: how often each of them must have been asked for; `None`: any number of times.
    check: whatever else must be true of its requests.
    """

    number: str
    name: str
    play: Play
    ends: str | bytes
    links: int = 4
    each: int | None = None
    check: Callable[[list[Asked]], None] | None = None


def _first(times: int, play: Play, then: Play = _GOOD) -> Play:
    """Plays this for the first requests of the host, and then something else."""

    async def so_often(exchange: Exchange) -> None:
        earlier = len(exchange.sites.log.of(exchange.asked.case)) - 1
        await (play if earlier < times else then)(exchange)

    return so_often


def _throttles(*headers: str, status: str = _TOO_MANY) -> Play:
    return _first(1, says(answer(b"", *headers, status=status)))


async def _names_a_date(exchange: Exchange) -> None:
    # A date has whole seconds: this is between one and two of them away.
    date = formatdate(time.time() + PAUSE + 1, usegmt=True)
    await exchange.say(answer(b"", f"Retry-After: {date}", status=_TOO_MANY))


async def _bans_whom_is_too_fast(exchange: Exchange) -> None:
    """Counts strictly: five in five gaps, and two more because of what they may be delayed by on their way."""
    now = exchange.asked.at
    lately = [asked for asked in exchange.sites.log.of(exchange.asked.case) if asked.at > now - 5 * GAP]
    await (_GOOD if len(lately) <= _BANNED_AFTER else says(answer(status="403 Forbidden")))(exchange)


async def _one_link_in_five(exchange: Exchange) -> None:
    """Throttles the first request for every fifth link."""
    throttled = exchange.step == "0" and not exchange.number
    await (says(answer(status=_TOO_MANY)) if throttled else _GOOD)(exchange)


def _nothing_in_the_pause(asked: list[Asked]) -> None:
    """But for what was on its way, all came after the pause that the first answer asked for."""
    opens = asked[0].opens
    assert opens > asked[0].ended
    assert len([late for late in asked[1:] if late.at < opens]) <= 1
    assert asked[-1].at >= opens


def _paused(asked: list[Asked]) -> None:
    """Nobody said how long, or nobody could understand it: it is left alone for a while all the same."""
    assert max(late.at - early.at for early, late in pairwise(asked)) > 2 * GAP


_for_ever = says(answer(b"", f"Retry-After: {PAUSE}", status=_TOO_MANY))

HOSTS = [
    Host("69", "429-without-header", _throttles(), GOOD, check=_paused),
    Host("70", "pauses", _throttles(f"Retry-After: {PAUSE}"), GOOD, check=_nothing_in_the_pause),
    Host("71", "pauses-until-a-date", _first(1, _names_a_date), GOOD, check=_nothing_in_the_pause),
    Host("72", "date-in-the-past", _throttles("Retry-After: Sun, 06 Nov 1994 08:49:37 GMT"), GOOD, check=_paused),
    Host("73", "fraction", _throttles("Retry-After: 0.5"), GOOD, check=_paused),
    Host("73a", "negative", _throttles("Retry-After: -1"), GOOD, check=_paused),
    Host("73b", "empty", _throttles("Retry-After: "), GOOD, check=_paused),
    Host("73c", "words", _throttles("Retry-After: soon"), GOOD, check=_paused),
    Host("73d", "digits-without-end", _throttles("Retry-After: " + "9" * 60_000), GOOD, check=_paused),
    Host("73e", "no-such-date", _throttles("Retry-After: Sun, 99 Nov 1994 99:49:37 GMT"), GOOD, check=_paused),
    Host("75", "503-pauses", _throttles(f"Retry-After: {PAUSE}", status="503 No"), GOOD, check=_nothing_in_the_pause),
    Host("76", "its-own-headers", _throttles("retry-after-ms: 300", "x-ratelimit-reset: 1"), GOOD, check=_paused),
    Host("77", "bans-whom-is-too-fast", _bans_whom_is_too_fast, GOOD, links=15, each=1),
    Host("78", "throttles-one-in-five", _one_link_in_five, GOOD, links=5),
    Host("78a", "throttles-for-ever", _for_ever, "http_4xx", links=1),
    Host("79", "throttles-twice", _first(2, says(answer(status="503 No"))), GOOD, links=2),
    Host("81", "says-no", says(answer(status="403 Forbidden")), "http_4xx", each=1),
    Host("82", "wants-to-know-who-we-are", says(answer(status="401 Unauthorized")), "http_4xx", each=1),
    Host("82a", "is-broken", says(answer(status="500 Oh")), "http_5xx", links=2, each=4),
    Host("82b", "was-broken-twice", _first(2, says(answer(status="502 Oh"))), GOOD, links=2),
    Host("47c", "resets-once", _first(1, resets()), GOOD, links=2),
    Host("83", "calm", _GOOD, GOOD, links=6, each=1),
    Host("16c", "leads-elsewhere", redirects(f"http://{CROWDED}.test:{{port}}/{CROWDED}/a"), GOOD, links=1, each=1),
    Host("86", "most-of-the-list", _GOOD, GOOD, links=20, each=1),
]
