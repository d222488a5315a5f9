"""Numbers, times and foreign text, as they stand on a screen.

Invariant: pure. Foreign text passes through `printable` and is cut to the width, so it can move no cursor.
"""

from __future__ import annotations

import time
import unicodedata
from typing import Final

from aiomap._foreign import printable, redacted

__all__ = [
    "DAY",
    "HOUR",
    "MINUTE",
    "cells",
    "clock_time",
    "counted",
    "cut",
    "duration",
    "figures",
    "latency",
    "per_time",
]

MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

_CONSIDERED: Final = 2000  # characters of a foreign text; there are some with millions


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "item"), counted(2000, "item")
    ('1 item', '2,000 items')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """A time that is long enough for people to wait for.

    >>> duration(9.7), duration(314), duration(7985), duration(200_000)
    ('9s', '5m 14s', '2h 13m', '2d 7h')
    """
    whole = int(seconds)
    if whole >= DAY:
        return f"{whole // DAY:,}d {whole % DAY // HOUR}h"
    if whole >= HOUR:
        return f"{whole // HOUR}h {whole % HOUR // MINUTE:02}m"
    return f"{whole // MINUTE}m {whole % MINUTE:02}s" if whole >= MINUTE else f"{whole}s"


def latency(seconds: float) -> str:
    """A time that one call takes.

    >>> latency(0.0042), latency(0.21), latency(1.94), latency(75)
    ('4.2 ms', '210 ms', '1.9 s', '1m 15s')
    """
    if seconds < 1:
        return f"{figures(seconds * 1000, 2)} ms"
    return f"{figures(seconds, 2)} s" if seconds < MINUTE else duration(seconds)


def figures(number: float, digits: int) -> str:
    """The number in so many digits, the others 0.

    >>> figures(123_456.0, 3)
    '123,000'
    """
    return f"{float(f'{number:.{digits}g}'):,.15g}"


def cut(text: str, width: int) -> str:
    """Foreign text made fit for a line: printable, without secrets, at most so many cells wide.

    >>> cut("one two three", 8), cut("日本語", 4)
    ('one two…', '日…')
    """
    text = printable(redacted(text[:_CONSIDERED]))  # in this order: what is left of a secret is one
    if cells(text) <= width:
        return text
    kept, room = 0, width - 1
    while kept < len(text) and (room := room - cells(text[kept])) >= 0:
        kept += 1
    return text[:kept] + "…" if width > 0 else ""


def cells(text: str) -> int:
    """How many cells the text takes at most. A mark that is put over a letter is counted too: not all terminals do."""
    if text.isascii():
        return len(text)
    return len(text) + sum(unicodedata.east_asian_width(character) in "WF" for character in text)


def per_time(rate: float) -> str:
    """A rate, given in items per second.

    >>> per_time(1234.5), per_time(0.5), per_time(0.001), per_time(0)
    ('1,230/s', '30/min', '3.6/h', '0/s')
    """
    if rate >= 1 or not rate:
        return f"{figures(rate, 3)}/s"
    return f"{figures(rate * MINUTE, 3)}/min" if rate * MINUTE >= 1 else f"{figures(rate * HOUR, 3)}/h"


def clock_time(then: float, now: float) -> str:
    """The time of day, with the day if that is not today; both in seconds since 1970."""
    ahead = then - now
    try:
        local = time.localtime(then)
    except (OverflowError, ValueError, OSError):  # beyond what the calendar has
        return "never"
    if ahead < 0.9 * DAY:  # later it could be taken for a time of today
        return time.strftime("%H:%M", local)
    return time.strftime("%a %H:%M" if ahead < 6 * DAY else "%Y-%m-%d", local)
