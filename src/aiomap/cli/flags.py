"""Flags: from what was typed to a value, or to a sentence that says what to type.

Invariant: a value that leaves here is one that the library takes. The policies themselves are made, and imported, only
once a command runs.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from aiomap._retry import Retry
    from aiomap.limits.adaptive import Adaptive
    from aiomap.limits.limit import Limit
    from aiomap.limits.rate import Rate

__all__ = [
    "Concurrency",
    "concurrency_of",
    "limits_of",
    "parse_bound",
    "parse_classes",
    "parse_concurrency",
    "parse_count",
    "parse_duration",
    "parse_failed",
    "parse_folder",
    "parse_halt",
    "parse_header",
    "parse_number",
    "parse_rate",
    "parse_retries",
    "parse_shard",
    "parse_size",
    "retry_of",
]

Concurrency: TypeAlias = int | Literal["auto"]

_NONE: Final = "none"
_LONG: Final = 10  # digits
_SIZES: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_PERCENT: Final = 100
# A share of what has ended means little before so many items have.
_FEW: Final = 20
_RATE: Final = re.compile(r"(\d{1,15})(?:/(\d{1,9}(?:\.\d{1,9})?)?([smh]))?", re.ASCII)

# A name in HTTP, RFC 9110, 5.6.2.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# Classes of failures, by the name that is typed.
_CLASSES: Final = {
    "timeout": ["timeout"],
    "conn": ["dns", "connect"],
    "dns": ["dns"],
    "connect": ["connect"],
    "tls": ["tls"],
    "4xx": ["http_4xx"],
    "http_4xx": ["http_4xx"],
    "5xx": ["http_5xx"],
    "http_5xx": ["http_5xx"],
    "http_429": ["http_429"],
    **{
        name: [name]
        for name in (
            "too_large",
            "too_many_redirects",
            "refused_address",
            "robots",
            "bad_input",
            "bad_content",
            "other",
        )
    },
}


def parse_concurrency(_: click.Context, __: click.Parameter, value: str) -> Concurrency:
    """`-j N|auto`."""
    if value == "auto":
        return "auto"
    return _count(value, "-j 10, or -j auto")


def parse_bound(_: click.Context, parameter: click.Parameter, value: str) -> int | None:
    """A number of things at once, or none."""
    flag = parameter.opts[-1]
    return None if value == _NONE else _count(value, f"{flag} 2, or {flag} none")


def _count(value: str, example: str) -> int:
    try:
        count = int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a whole number; write how many at once, as in {example}") from None
    if count < 1:
        raise click.BadParameter(f"{count} at once would do nothing; the least is 1, one after the other")
    return count


def parse_size(_: click.Context, parameter: click.Parameter, value: str) -> int:
    """A number of bytes."""
    number, unit = (value[:-1], value[-1].upper()) if value[-1:].upper() in _SIZES else (value, "")
    if not (number.isascii() and number.isdigit() and int(number)):
        raise click.BadParameter(
            f"{value!r} is no size; write bytes, or K, M or G of them, as in {parameter.opts[-1]} 16M"
        )
    return int(number) * _SIZES[unit]


def parse_rate(_: click.Context, parameter: click.Parameter, value: str) -> Rate | None:
    """So many in a time, or none."""
    if value == _NONE:
        return None
    flag = parameter.opts[-1]
    found = _RATE.fullmatch(value)
    if found is None:
        raise click.BadParameter(
            f"{value!r} is no rate; write a whole number in a time, as in {flag} 4/s, {flag} 100/m, {flag} 1000/h "
            f"or {flag} 1/0.5s, or {flag} none"
        )
    number, times, unit = int(found[1]), float(found[2] or 1), found[3] or "s"
    if not number or not times:
        raise click.BadParameter(f"{value} would never let anything start; for few, make the time longer: {flag} 1/10s")
    from aiomap.limits.rate import Rate

    return Rate(number, times * _SECONDS[unit])


def parse_retries(_: click.Context, __: click.Parameter, value: str) -> int:
    """How many attempts there are beside the first."""
    if not (value.isascii() and value.isdigit() and len(value) < _LONG):
        raise click.BadParameter(
            f"{value!r} is no number of further attempts; write it as in --retries 4, or --retries 0 for none"
        )
    return int(value)


def parse_count(_: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """How many there are to be."""
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < _LONG and int(value)):
        raise click.BadParameter(f"{value!r} is no number of items; write it as in {parameter.opts[-1]} 100")
    return int(value)


def parse_number(_: click.Context, parameter: click.Parameter, value: str) -> int:
    """A number of at least 0."""
    if not (value.isascii() and value.isdigit() and len(value) < _LONG):
        raise click.BadParameter(f"{value!r} is no number; write it as in {parameter.opts[-1]} 5")
    return int(value)


def parse_classes(_: click.Context, __: click.Parameter, value: str) -> frozenset[str]:
    """Classes of failures, for any function: the name of an exception's type is one too."""
    names = [name.strip() for name in value.split(",")]
    for name in names:
        is_type = name.isidentifier() and name[0].isupper()
        if name not in _CLASSES and not is_type:
            raise click.BadParameter(
                f"{name!r} is no class of failures; write some of timeout, conn, dns, connect, tls, http_429, 4xx, 5xx "
                "and names of exceptions, with commas in between"
            )
    return frozenset(kind for name in names for kind in _CLASSES.get(name, [name]))


def parse_shard(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """One part of so many, from 1."""
    if value is None:
        return None
    part, slash, parts = value.partition("/")
    if not (slash and all(number.isascii() and number.isdigit() and len(number) < _LONG for number in (part, parts))):
        raise click.BadParameter(f"{value!r} is no shard; write which of how many, as in --shard 1/4")
    if not int(parts):
        raise click.BadParameter(f"{value} is no shard: there are none of 0 parts; write it as in --shard 1/4")
    if not 1 <= int(part) <= int(parts):
        raise click.BadParameter(
            f"{value} is no shard; of {parts} parts the first is 1/{parts}, the last {parts}/{parts}"
        )
    return int(part), int(parts)


def parse_duration(_: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A time: 90s, 15m, 6h."""
    if value is None:
        return None
    number, unit = (value[:-1], value[-1]) if value[-1:] in _SECONDS else (value, "s")
    try:
        seconds = float(number) * _SECONDS[unit]
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise click.BadParameter(f"{value!r} is no time; write it as in {parameter.opts[-1]} 90s, 15m or 6h")
    return seconds


def parse_halt(_: click.Context, __: click.Parameter, value: str | None) -> Callable[[int, int], bool]:
    """Whether so many failures, of so many items that have ended, are too many."""
    if value is None:
        return lambda _failed, _ended: False
    number = value.removesuffix("%")
    try:
        bound = float(number) if number != value else int(number)
    except ValueError:
        bound = -1
    if number != value and 0 < bound < _PERCENT:
        return lambda failed, ended: ended >= _FEW and failed * _PERCENT > bound * ended
    if number == value and bound >= 0:
        return lambda failed, _ended: failed > bound
    raise click.BadParameter(f"{value!r} is no bound; write how many items may fail, as in --halt 500 or --halt 10%")


def parse_failed(_: click.Context, __: click.Parameter, value: str | None) -> frozenset[str] | None:
    """The classes of failures that are run again; empty for all."""
    if value is None:
        return None
    if value == "all":
        return frozenset()
    names = [name.strip() for name in value.split(",")]
    for name in names:
        # click takes the next word for them, whatever it is: it may have been meant as an INPUT.
        if name not in _CLASSES and (not name.isidentifier() or Path(name).exists()):
            raise click.BadParameter(
                f"{name!r} is no class of failures; write them as in --retry-failed timeout,ValueError, "
                "or --retry-failed all before another word"
            )
    return frozenset(kind for name in names for kind in _CLASSES.get(name, [name]))


def concurrency_of(flag: Concurrency) -> int | Adaptive:
    """What the library takes as `max_concurrent_tasks`."""
    if flag != "auto":
        return flag
    from aiomap.limits.adaptive import Adaptive

    return Adaptive()


def limits_of(
    rate: Rate | None, key: Callable[[Any], Hashable] | None, tasks: int | None, key_rate: Rate | None
) -> list[Limit]:
    """What the library takes as `limits`. With neither of its bounds, a key still keeps a throttle to itself."""
    limits: list[Limit] = [] if rate is None else [rate]
    if key is not None:
        from aiomap.limits.per_key import PerKey

        limits.append(PerKey(key, tasks, key_rate))
    return limits


def retry_of(retries: int, classes: frozenset[str]) -> Retry | None:
    """What the library takes as `retry`; `None` for no second attempt, whatever the remote asks for.

    classes: as `aiomap.failures` knows them.
    """
    if not retries:
        return None
    from aiomap._retry import Retry
    from aiomap.failures import failure_class

    return Retry(lambda error: failure_class(error) in classes, attempts=retries + 1)


def parse_header(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Headers, each as `Name: value`."""
    headers: list[tuple[str, str]] = []
    for value in values:
        name, colon, content = value.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or not content.strip().isprintable():
            # Not repeated: there may be a token in it.
            raise click.BadParameter("that is no header; write its name, a colon and its value: -H 'Accept: text/html'")
        headers.append((name, content.strip()))
    return tuple(headers)


def parse_folder(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A folder that is there, or can be made."""
    if value is None:
        return None
    path = Path(value)
    if not value or (path.exists() and not path.is_dir()):
        raise click.BadParameter(f"{value!r} is no folder; write it as in {parameter.opts[-1]} pages")
    return value
