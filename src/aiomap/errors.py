"""Every exception that is aiomap's own.

Invariant: an exception of the user's function or source is never wrapped in one of these. They stand for what
only a map can know: an item cancelled itself, a callback broke, a run became hopeless, an extra is missing.
`Throttled` alone is the user's to raise: it tells the map what only the function can know.
Bad arguments are plain `TypeError` and `ValueError`.
"""

from __future__ import annotations

import math
import time

__all__ = [
    "AiomapError",
    "AttemptTimeout",
    "CallbackError",
    "CostAboveRate",
    "ItemCancelled",
    "JournalChanged",
    "JournalDamaged",
    "JournalError",
    "JournalLocked",
    "MissingExtra",
    "RecordedFailure",
    "Throttled",
    "TooManyFailures",
    "UnrecordableResult",
]

# A date takes at most 33 characters. Beyond this it is no time, and not worth the reading.
_LONGEST = 100


class AiomapError(Exception):
    """The parent of every exception below, for `except AiomapError`."""


class ItemCancelled(AiomapError):
    """An item raised `CancelledError` although nobody cancelled the map: its failure, with the original as the cause.

    index: the item's position in the input, from 0.
    """

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index

    def __str__(self) -> str:
        return f"item {self.index} was cancelled from the inside (it raised CancelledError, or cancelled its own task)"


class CallbackError(AiomapError):
    """A function that the map itself called for you (`callback`) raised. The run stopped; the original is the cause.

    name: the parameter that the function was given as.
    """

    def __init__(self, name: str, index: int) -> None:
        super().__init__(name, index)
        self.name = name
        self.index = index

    def __str__(self) -> str:
        return f"{self.name} raised for item {self.index}, so the run was stopped"


class AttemptTimeout(AiomapError, TimeoutError):
    """An attempt took longer than `timeout` and was cancelled.

    seconds: the timeout that it had.
    """

    def __init__(self, index: int, seconds: float) -> None:
        super().__init__(index, seconds)
        self.index = index
        self.seconds = seconds

    def __str__(self) -> str:
        return f"item {self.index} took longer than its timeout of {self.seconds:g} seconds"


class CostAboveRate(AiomapError, ValueError):
    """An item weighs more than its `Rate` lets start in a whole window: its failure, without an attempt.

    cost: what the item weighs; rate: the limit, in words.
    """

    def __init__(self, cost: float, rate: str) -> None:
        super().__init__(cost, rate)
        self.cost = cost
        self.rate = rate

    def __str__(self) -> str:
        return f"an item of cost {self.cost:g} can never start under {self.rate}: split the item, or raise n"


class Throttled(AiomapError):
    """Raise it in your function to say that the remote wants a pause. When it is over, the item is tried again.

    It closes one gate for all that goes to that remote, and uses up none of the item's attempts. With
    `retry=Retry(...)` errors of aiohttp, httpx and requests for status 429 or 503 do the same by themselves.

    retry_after: how long, in seconds (a finite number, at least 0), or the text of a `Retry-After` header in either of
        its forms, or `None` if the remote did not say. A text that cannot be read means `None`: it came from outside.
    message: what the remote said, for the reader of the error.

    The attribute `retry_after` is the pause in seconds, or `None`.

    >>> from aiomap.errors import Throttled
    >>> async def fetch(link: str) -> str:
    ...     status, headers, body = await get(link)
    ...     if status == 420:
    ...         raise Throttled(headers.get("retry-after"))
    ...     return body
    >>> Throttled("120").retry_after
    120.0
    >>> Throttled(-1)
    Traceback (most recent call last):
        ...
    ValueError: retry_after must be a finite number of seconds of at least 0, or None if the remote did not say, got -1
    """

    retry_after: float | None = None  # also for a subclass whose __init__ does not come here

    def __init__(self, retry_after: float | str | None = None, message: str = "") -> None:
        if isinstance(retry_after, str):
            seconds = parse_retry_after(retry_after)
            if seconds is None and not message:
                message = f"Retry-After could not be read: {retry_after[:_LONGEST]!r}"
        else:
            seconds = _pause(retry_after)
        # In seconds, not as given: a date would be another pause for the process that unpickles it later.
        super().__init__(seconds, message)
        self.retry_after = seconds
        self.message = message

    def __str__(self) -> str:
        wish = "the remote asked for a pause"
        if self.retry_after is not None:
            wish += f" of {self.retry_after:g} seconds"
        return f"{wish} ({self.message})" if self.message else wish


def _pause(given: object) -> float | None:
    if given is None:
        return None
    rule = "retry_after must be a finite number of seconds of at least 0, or None if the remote did not say"
    if isinstance(given, bool) or not isinstance(given, int | float):
        # Without its value: this module stands below the one that knows how to show foreign ones.
        raise TypeError(f"{rule}, or the text of a Retry-After header, got a {type(given).__name__}")
    try:
        seconds = float(given)
    except OverflowError:
        raise ValueError(f"{rule}, got an integer too large for a float") from None
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{rule}, got {given}")
    return seconds


# Public in `throttling`. It stands here because `Throttled` reads by it, and nothing of ours is below this module.
def parse_retry_after(text: str | None, now: float | None = None) -> float | None:
    """The seconds that a `Retry-After` header asks for: its number, or the time until its date.

    Both forms of RFC 9110, section 10.2.3: delay-seconds (with a fraction too, as some servers send it) and HTTP-date,
    the latter also as the obsolete formats of section 5.6.7 have it.

    text: the header's value, or `None` if there was none.
    now: the time that a date is compared with, in seconds since 1970; `None` for this machine's clock.

    Returns a finite number of at least 0 (for a date in the past, 0.0), or `None` for what cannot be read (a negative
    number, another format). It never raises, and it does not clamp: a server may well say 10 years.

    >>> from aiomap.throttling import parse_retry_after
    >>> parse_retry_after("120")
    120.0
    >>> parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now=784111770.0)
    7.0
    >>> parse_retry_after("-1") is parse_retry_after("soon") is parse_retry_after(None) is None
    True
    """
    if not isinstance(text, str) or len(text) > _LONGEST:
        return None
    text = text.strip()
    digits = text.replace(".", "", 1)
    if digits.isascii() and digits.isdigit():
        return float(text)
    when = _unix_time(text)
    if when is None:
        return None
    return max(0.0, when - (time.time() if now is None else now))


def _unix_time(date: str) -> float | None:
    from datetime import UTC
    from email.utils import parsedate_to_datetime  # here, because it takes longer to import than this package

    try:
        moment = parsedate_to_datetime(date)
        # Only asctime's format has no zone. It means UTC as the others do.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except Exception:
        return None


class UnrecordableResult(AiomapError, TypeError):
    """The journal could not give this result back as it was. It is the item's failure, with the way out in the message.

    index: the item's position in the input, from 0; reason: what is wrong with the result.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(index, reason)
        self.index = index
        self.reason = reason

    def __str__(self) -> str:
        return f"the result of item {self.index} cannot be recorded: {self.reason}"


class RecordedFailure(AiomapError):
    """Stands for the exception of an item that failed in an earlier run, where the journal keeps failures.

    kind: the class of the failure, as `aiomap.failures.failure_class` gave it: `"timeout"`, `"http_5xx"`, or the type's
        name. type_name: the exception's type, as `module.Name`. message: its text, shortened.
    """

    def __init__(self, kind: str, type_name: str, message: str) -> None:
        super().__init__(kind, type_name, message)
        self.kind = kind
        self.type_name = type_name
        self.message = message

    def __str__(self) -> str:
        return f"failed in an earlier run: {self.type_name}: {self.message}"


class JournalError(AiomapError):
    """A journal cannot be used: it is not one, a newer aiomap made it, or the disk does not take or give the data.

    path: the journal's file; reason: what is wrong, and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"journal {self.path}: {self.reason}"


class JournalLocked(JournalError):
    """Another run has the journal open; the message names it."""


class JournalChanged(JournalError):
    """The journal holds the results of another function, or of another version of it; the message has the ways out."""


class JournalDamaged(JournalError):
    """What the journal holds is not what was written. Nothing of it was used."""


class TooManyFailures(AiomapError):
    """More items failed than `Tolerate` allows; the cause is the failure that was one too many.

    failed: how many items had failed by then; done: how many had ended, well or not.
    """

    def __init__(self, failed: int, done: int, allowed: str) -> None:
        super().__init__(failed, done, allowed)
        self.failed = failed
        self.done = done
        self.allowed = allowed

    def __str__(self) -> str:
        return (
            f"{self.failed} of {self.done} items failed, more than on_error={self.allowed} allows; the run was stopped"
        )


class MissingExtra(AiomapError, ImportError):
    """A feature needs a package that is not installed; the message has the command that installs it."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(feature, package, extra)
        self.feature = feature
        self.package = package
        self.extra = extra

    def __str__(self) -> str:
        return f'{self.feature} needs {self.package}, which is not installed: run  pip install "aiomap[{self.extra}]"'
