"""Second chances: which failures are tried again, when, and for how long.

Invariant: a policy is an immutable value and keeps nothing of what it is asked, so any number of items and runs may
share one. It never waits: it answers with a delay, and the engine does the waiting.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from operator import index as as_integer
from typing import Any, Final, NoReturn, Protocol, TypeAlias, cast, final

from aiomap._verdict import named, shortened
from aiomap.errors import Throttled
from aiomap.throttling import MAX_RETRY_AFTER, THROTTLE_TIMEOUT, http_throttle

__all__ = ["Retry", "RetryOn", "RetryPolicy", "Throttle", "is_async", "no_awaitable"]

RetryOn: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
Throttle: TypeAlias = Callable[[Exception], Throttled | None]

# 2.0 ** 1024 is an OverflowError. No delay is still growing by then: the cap is far below.
_MOST_DOUBLINGS: Final = 1023


class RetryPolicy(Protocol):
    """What the engine asks of a policy, ours or a foreign one."""

    @property
    def budget(self) -> float | None:
        """The retries of a run are at most this times its successes, plus 10; `None`: no bound."""
        ...

    @property
    def max_retry_after(self) -> float:
        """The longest pause, in seconds, that a remote's `Retry-After` is granted."""
        ...

    @property
    def throttle_timeout(self) -> float:
        """How long, in seconds, throttles may hold up an item in all, before it fails with its last error."""
        ...

    def throttled(self, error: Exception) -> Throttled | None:
        """The throttle that the error stands for. It is asked first; what is none is a failure that counts."""
        ...

    def next_delay(self, error: Exception, failures: int, elapsed: float, waited: float, item: Any, /) -> float | None:
        """Seconds until the next attempt, after a failure that is no throttle; `None`: no more.

        failures: the attempts for the item that counted, this one included.
        elapsed: seconds since the item's first start.
        waited: the sum of the delays that this method gave for the item before.
        """
        ...


@final
class Retry:
    """`retry=Retry(on=...)`: an attempt that fails is made again, later, if its error is one of those named.

    on: which errors: an exception type, a tuple of them, or a plain function that is given the error and returns
        whether to try again. It has no default: a retry of what can never succeed costs the remote and gains nothing.
    attempts: the most calls of the function for an item, the first one included; an integer of at least 1.
    base, cap: seconds, base above 0, cap at least 0 (0: no back-off). The delay after the k-th failure is drawn evenly
        from 0 to `base * 2**(k-1)`, or to `cap` if that is less: full jitter, because clients that failed together
        must not come back together (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    budget: the retries of one run are at most `budget` times its successes, plus 10, so that a remote that is down is
        not hit `attempts` times by every item; a failure beyond that is final. `None`: no such bound.
    max_retry_after: seconds, above 0. A remote that asks for a longer pause (`Retry-After`) gets this one.
    throttle_timeout: seconds, at least 0, `inf` for no bound. A throttled attempt uses up none of the `attempts`, so
        this bounds it: an item that throttles have held up for longer, in all, fails with its last error.
    throttle: a plain function that is given the error and returns a `Throttled` if it means that the remote wants a
        pause, else `None`. The default, `http_throttle`, knows status 429 and 503 of the usual HTTP clients.
        `None`: only a `Throttled` that your function raised is one (which is true in any case).

    A waiting item holds no slot, and every attempt passes all limits again. What is not an `Exception` (a cancel,
    Ctrl-C) is never tried again. An error of `on` or `throttle` itself ends the run.

    TypeError or ValueError: an argument is none of these.

    >>> import asyncio
    >>> from aiomap import Retry, amap
    >>> calls = 0
    >>> async def fetch(link: str) -> str:
    ...     global calls
    ...     calls += 1
    ...     if calls < 3:
    ...         raise ConnectionResetError
    ...     return f"page of {link}"
    >>> async def main() -> list[str]:
    ...     return await amap(fetch, ["a"], retry=Retry(on=ConnectionError, base=0.001))
    >>> asyncio.run(main())
    ['page of a']
    >>> Retry(on=(ConnectionError, TimeoutError), attempts=6)
    Retry(on=(ConnectionError, TimeoutError), attempts=6)
    """

    __slots__ = ("attempts", "base", "budget", "cap", "max_retry_after", "on", "throttle", "throttle_timeout")

    on: RetryOn
    attempts: int
    base: float
    cap: float
    budget: float | None
    max_retry_after: float
    throttle_timeout: float
    throttle: Throttle | None

    def __init__(
        self,
        on: RetryOn,
        attempts: int = 4,
        *,
        base: float = 0.5,
        cap: float = 60.0,
        budget: float | None = 0.2,
        max_retry_after: float = MAX_RETRY_AFTER,
        throttle_timeout: float = THROTTLE_TIMEOUT,
        throttle: Throttle | None = http_throttle,
    ) -> None:
        checked = {
            "on": _checked_on(on),
            "attempts": _checked_attempts(attempts),
            "base": _number("base", base, "a finite number of seconds above 0", lambda s: 0 < s < math.inf),
            "cap": _number("cap", cap, "a finite number of seconds of at least 0", lambda s: 0 <= s < math.inf),
            "budget": _checked_budget(budget),
            "max_retry_after": _number(
                "max_retry_after", max_retry_after, "a finite number of seconds above 0", lambda s: 0 < s < math.inf
            ),
            "throttle_timeout": _number(
                "throttle_timeout", throttle_timeout, "a number of seconds of at least 0, or inf", lambda s: s >= 0
            ),
            "throttle": _checked_throttle(throttle),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def retries(self, error: Exception) -> bool:
        """Whether `on` names this error."""
        on = self.on
        if isinstance(on, type | tuple):
            return isinstance(error, on)
        return bool(no_awaitable(on(error), f"on: {named(on)}"))

    def delay(self, failures: int) -> float:
        """Seconds of back-off after that many failures, drawn anew at each call."""
        from random import uniform  # here: most runs need none, and it takes longer to import than this package

        longest = min(self.cap, self.base * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
        return uniform(0.0, longest)  # noqa: S311  # nobody gains by guessing it

    def next_delay(self, error: Exception, failures: int, /, *_: object) -> float | None:
        """Seconds until the next attempt, or `None`: no more."""
        return self.delay(failures) if failures < self.attempts and self.retries(error) else None

    def throttled(self, error: Exception) -> Throttled | None:
        """The throttle that the error stands for, if it does."""
        if isinstance(error, Throttled):
            return error
        if self.throttle is None:
            return None
        what = f"throttle: {named(self.throttle)}"
        answer = cast("object", no_awaitable(self.throttle(error), what))
        if answer is None or isinstance(answer, Throttled):
            return answer
        raise TypeError(f"{what} must return a Throttled or None, got {shortened(answer)}: write Throttled(seconds)")

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Retry.__slots__}

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Retry) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._values().values()))

    def __repr__(self) -> str:
        values = self._values()
        parameters = inspect.signature(Retry).parameters.values()
        changed = [f"{p.name}={_shown(values[p.name])}" for p in parameters if values[p.name] != p.default]
        return f"Retry({', '.join(changed)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Retry, **self._values()), ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Retry cannot be changed ({name} = {shortened(value)}): make a new one, Retry(...)")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Retry cannot be changed (del {name}): make a new one, Retry(...)")


def is_async(function: object) -> bool:
    """Whether a call of it gives something to await, as far as can be told before."""
    called = getattr(function, "__call__", None)  # noqa: B004  # an object's own, which may be async
    return any(inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f) for f in (function, called))


def no_awaitable(answer: Any, what: str) -> Any:
    """The answer of a user's function, unless it is one that had to be awaited: a TypeError."""
    if not inspect.isawaitable(answer):
        return answer
    if inspect.iscoroutine(answer):
        answer.close()  # or Python warns that it was never awaited, on top of our error
    raise TypeError(
        f"{what} must answer at once, but it returned {shortened(answer)}: write it without async and await"
    )


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        names = [_shown(part) for part in cast("tuple[object, ...]", value)]
        return f"({', '.join(names)}{',' * (len(names) == 1)})"
    return named(value) if callable(value) else repr(value)


def _checked_on(on: Any) -> Any:
    rule = "on must be an exception type, a tuple of them, or a function of the error"
    fix = "write on=ConnectionError, on=(ConnectionError, TimeoutError) or on=lambda error: ..."
    if on is None:
        raise TypeError(f"{rule}, got None: say which errors are worth another attempt, {fix}")
    if isinstance(on, type):
        return _checked_type(on, rule)
    if isinstance(on, tuple):
        types = cast("tuple[object, ...]", on)
        if not types:
            raise ValueError(f"{rule}, got an empty tuple: nothing would be tried again, so leave out retry=")
        return tuple(_checked_type(kind, rule) for kind in types)
    if isinstance(on, list | set | frozenset):
        inner = ", ".join(map(_shown, cast("list[object]", on)))
        raise TypeError(f"{rule}, got a {type(cast('object', on)).__name__}: write a tuple, on=({inner},)")
    if isinstance(on, BaseException):
        kind = type(on).__name__
        raise TypeError(f"{rule}, got the exception {shortened(on)}: write its type, on={kind}")
    if not callable(on):
        raise TypeError(f"{rule}, got {shortened(on)} ({type(on).__name__}): {fix}")
    if is_async(on):
        raise TypeError(f"{rule}, but {named(on)} is async, and nobody would await it: write it with `def`")
    return on


def _checked_type(kind: object, rule: str) -> object:
    if not isinstance(kind, type):
        raise TypeError(f"{rule}, got {shortened(kind)} in the tuple: each of its parts must be an exception type")
    if issubclass(kind, Exception):
        return kind
    if issubclass(kind, BaseException):
        raise TypeError(
            f"{rule}, got {kind.__name__}: a cancel, Ctrl-C and what else is not an Exception is never tried again: "
            "write Exception"
        )
    raise TypeError(f"{rule}, got the class {kind.__name__}, which is no exception")


def _checked_attempts(attempts: Any) -> int:
    rule = "attempts must be an integer of at least 1 (it counts all calls for an item, the first one too)"
    if isinstance(attempts, bool):
        raise TypeError(f"{rule}, got {attempts}: a bool is no number here")
    try:
        number = as_integer(attempts)
    except TypeError:
        raise TypeError(f"{rule}, got {shortened(attempts)} ({type(attempts).__name__})") from None
    if number < 1:
        raise ValueError(f"{rule}, got {number}: write 1 for no second chance, 4 for three")
    return number


def _number(name: str, value: Any, rule: str, allows: Callable[[float], bool]) -> float:
    """The value as a float. NaN is never allowed: every comparison with it is false."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {rule}, got {shortened(value)} ({type(value).__name__})")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be {rule}, got an integer too large for a float") from None
    if not allows(number):
        raise ValueError(f"{name} must be {rule}, got {value}")
    return number


def _checked_budget(budget: Any) -> float | None:
    if budget is None:
        return None
    rule = "None (no bound) or a finite number of at least 0 (0.2: one retry in five successes)"
    return _number("budget", budget, rule, lambda share: 0 <= share < math.inf)


def _checked_throttle(throttle: Any) -> Any:
    rule = "throttle must be None or a function that is given the error and returns a Throttled or None"
    if throttle is None:
        return None
    if isinstance(throttle, type) or not callable(throttle):
        raise TypeError(f"{rule}, got {shortened(throttle)}: write throttle=lambda error: ..., or leave it out")
    if is_async(throttle):
        raise TypeError(f"{rule}, but {named(throttle)} is async, and nobody would await it: write it with `def`")
    return throttle
