"""What a remote says about its load, read from the errors that its answers became.

Invariant: nothing here raises, whatever the error is made of, and no HTTP library is imported: errors are known by
their shape alone.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final, cast

from aiomap.errors import Throttled, parse_retry_after

__all__ = ["Throttled", "http_throttle", "parse_retry_after"]

MAX_RETRY_AFTER: Final = 120.0
"""The longest pause, in seconds, that a `Retry-After` is granted where nobody set another."""
THROTTLE_TIMEOUT: Final = 300.0
"""How long, in seconds, throttles may hold up an item in all where nobody set another."""

_THROTTLES: Final = frozenset({429, 503})
_STATUS: Final = ("status", "status_code", "code")

# The clients' chains are of 3 or 4; a chain can also be a circle.
_MOST_LINKS = 32


def http_throttle(error: Exception) -> Throttled | None:
    """A `Throttled` if the error stands for an HTTP answer with status 429 or 503, else `None`.

    429 is Too Many Requests (RFC 6585, section 4), 503 is Service Unavailable (RFC 9110, section 15.6.4); either may
    come with a `Retry-After`. This is what `Retry(throttle=...)` is unless you give another; write yours around it:

    >>> from aiomap.throttling import Throttled, http_throttle
    >>> class Busy(Exception):
    ...     pass
    >>> def throttle(error: Exception) -> Throttled | None:
    ...     return Throttled(30) if isinstance(error, Busy) else http_throttle(error)
    >>> throttle(Busy())
    Throttled(30.0, '')
    >>> from urllib.error import HTTPError
    >>> http_throttle(HTTPError("http://localhost", 429, "Too Many Requests", {"retry-after": "7"}, None))
    Throttled(7.0, 'HTTP 429')
    >>> http_throttle(HTTPError("http://localhost", 404, "Not Found", {}, None)) is None
    True

    The status is looked for where aiohttp, httpx, requests, urllib and their like keep it: as `status` or `status_code`
    of the error or of its `response`, and as `code` where headers or a response stand beside it. The headers may be any
    mapping or list of pairs, in any case, of texts or bytes. A `Throttled` gives itself.

    Only the error itself is looked at, not its cause: a function that turns a 429 into another error (`QuotaUsedUp`)
    has the last word on what it means.
    """
    try:
        if isinstance(error, Throttled):
            return error
        response = attribute_of(error, "response")
        status = next(
            (s for s in (*statuses_of(error, response), *statuses_of(response, None)) if s in _THROTTLES), None
        )
        if status is None:
            return None
        return Throttled(_retry_after(error, response), f"HTTP {status}")
    except Exception:
        return None


def is_overload(error: Exception) -> bool:
    """Whether it is a sign that the remote is overloaded: a timeout, or a connection that was refused.

    The errors that it arose from count too, hidden by `from None` or not: httpx and requests turn a `TimeoutError` or
    a `ConnectionRefusedError` into errors of their own, and it happened in this attempt whatever became of it.
    """
    try:
        return any(_is_timeout_or_refusal(link) for link in _chain(error))
    except Exception:
        return False


def _is_timeout_or_refusal(error: BaseException) -> bool:
    if isinstance(error, TimeoutError | ConnectionRefusedError):
        return True
    return isinstance(error, OSError) and error.errno == errno.ECONNREFUSED


def _chain(error: BaseException) -> Iterable[BaseException]:
    link: BaseException | None = error
    for _ in range(_MOST_LINKS):
        if link is None:
            return
        yield link
        link = link.__context__ if link.__cause__ is None else link.__cause__


def attribute_of(thing: object, name: str) -> object:
    """Its attribute; `None` if it has none, or none that can be had."""
    try:
        return cast("object", getattr(thing, name, None))
    except Exception:
        return None  # a property may raise anything


def statuses_of(thing: object, response: object) -> Iterable[int]:
    """What may be an HTTP status in it: a `code` is one only where headers or a response stand beside it."""
    for name in _STATUS:
        status = attribute_of(thing, name)
        if isinstance(status, int) and (name != "code" or response is not None or attribute_of(thing, "headers")):
            yield int(status)


def _retry_after(*answers: object) -> float | None:
    for answer in answers:
        try:
            for name, value in _pairs(attribute_of(answer, "headers")):
                if _text(name).lower() == "retry-after":
                    seconds = parse_retry_after(_text(value))
                    if seconds is not None:
                        return seconds
        except Exception:  # noqa: S112  # headers of a shape that we do not know say nothing
            continue
    return None


def _pairs(headers: object) -> Iterable[tuple[object, object]]:
    items = getattr(headers, "items", None)
    if callable(items):
        headers = items()
    elif not isinstance(headers, list | tuple):
        return ()  # an iterator would be used up for its owner
    return cast("Iterable[tuple[object, object]]", headers)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""
