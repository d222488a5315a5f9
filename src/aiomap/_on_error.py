"""What the failure of an item does to the run: the values of `on_error`, as verdicts for the engine.

Invariant: a failure always leaves a trace. It ends the run, stands in the results, or is counted in `stats.failed`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, final

from aiomap._call import Call
from aiomap._outcome import SKIP
from aiomap._verdict import Halt, shortened
from aiomap.errors import TooManyFailures

__all__ = ["OnError", "Tolerate", "check_on_error", "error_verdict"]

# A share of what is done means little before so many items are.
_FIRST = 20


@final
@dataclass(frozen=True, slots=True)
class Tolerate:
    """`on_error=Tolerate(n)`: like `"return"` up to `n` failures; one more ends the run with `TooManyFailures`.

    failures: a count (int, at least 0), or a share (float, above 0 and below 1): of the input if it has a length, else
        of the items done so far, judged from the 20th on.

    >>> import asyncio
    >>> from aiomap import Tolerate, amap
    >>> async def invert(number: int) -> float:
    ...     return 1 / number
    >>> asyncio.run(amap(invert, [0, 1, 2], on_error=Tolerate(1)))
    [ZeroDivisionError('division by zero'), 1.0, 0.5]
    >>> asyncio.run(amap(invert, [0, 0, 2], on_error=Tolerate(1)))
    Traceback (most recent call last):
        ...
    aiomap.errors.TooManyFailures: 2 of 2 items failed, more than on_error=Tolerate(1) allows; the run was stopped
    """

    failures: int | float

    def __post_init__(self) -> None:
        rule = "Tolerate takes a count (an int of at least 0) or a share (a float above 0 and below 1)"
        given: object = cast("object", self.failures)
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise TypeError(f"{rule}, got {shortened(given)} ({type(given).__name__})")
        if isinstance(self.failures, int) and self.failures < 0:
            raise ValueError(f"{rule}, got {self.failures}")
        if isinstance(self.failures, float) and not 0 < self.failures < 1:
            raise ValueError(f"{rule}, got {self.failures}: write Tolerate(0.1) for one in ten, Tolerate(10) for ten")

    def __repr__(self) -> str:
        return f"Tolerate({self.failures})"


OnError: TypeAlias = Literal["raise", "return", "skip"] | Tolerate


def check_on_error(on_error: object) -> None:
    """`on_error`."""
    if isinstance(on_error, Tolerate) or on_error in ("raise", "return", "skip"):
        return
    kind = ValueError if isinstance(on_error, str) else TypeError
    fix = ": write Tolerate(n) for a number of failures" if isinstance(on_error, int | float) else ""
    raise kind(f'on_error must be "raise", "return", "skip" or a Tolerate, got {shortened(on_error)}{fix}')


def error_verdict(on_error: OnError, total: int | None) -> Callable[[Call, Exception, Callable[[], int]], Any]:
    """The verdict on a failure, given the item, the exception, and a count of the items that have ended."""
    if isinstance(on_error, Tolerate):
        return _tolerating(on_error, total)
    return {"raise": _raise, "return": _return, "skip": _skip}[on_error]


def _raise(call: Call, error: Exception, _: Callable[[], int]) -> Any:
    try:
        error.add_note(f"aiomap: item {call.index}: {shortened(call.item)}")
    except Exception:
        # An exception may forbid new attributes. Then it goes without a note: it must not be replaced by another.
        return Halt(error)
    return Halt(error)


def _return(_: Call, error: Exception, __: Callable[[], int]) -> Any:
    return error


def _skip(_: Call, __: Exception, ___: Callable[[], int]) -> Any:
    return SKIP


def _tolerating(tolerate: Tolerate, total: int | None) -> Callable[[Call, Exception, Callable[[], int]], Any]:
    failed = 0

    def allowed(ended: Callable[[], int]) -> float:
        if isinstance(tolerate.failures, int):
            return tolerate.failures
        if total is not None:
            return tolerate.failures * total
        done = ended()
        return tolerate.failures * done if done >= _FIRST else done

    def verdict(_: Call, error: Exception, ended: Callable[[], int]) -> Any:
        nonlocal failed
        failed += 1
        if failed <= allowed(ended):
            return error
        hopeless = TooManyFailures(failed, ended(), repr(tolerate))
        hopeless.__cause__ = error
        return Halt(hopeless)

    return verdict
