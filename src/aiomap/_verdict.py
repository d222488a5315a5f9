"""What becomes of an item's outcome.

Invariant: no exception of an item is lost, and none is mistaken for something else. A `CancelledError` that nobody
asked for is that item's failure; what is not an `Exception` (Ctrl-C, `SystemExit`) is no failure of an item at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiomap._call import Call
from aiomap.errors import CallbackError, ItemCancelled

__all__ = [
    "NOT_CALLED",
    "Halt",
    "Refused",
    "Verdicts",
    "as_failure",
    "ends_the_program",
    "judged",
    "named",
    "shortened",
]

NOT_CALLED: Final = object()
"""Stands for the awaitable of a call that raised before it returned one."""


# Plain classes: making a dataclass takes as long as importing a module.
class Halt:
    """The verdict that a failure ends the run, with this exception."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Refused(Exception):
    """Raised by a verdict on a success: the item has failed all the same."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure


class Verdicts:
    """What is to stand in an item's place in the results (SKIP: nothing).

    value: for an item that succeeded; `None` if that is the value itself, which then costs no call.
    error: for an item that failed, given a function that counts the items ended so far; a `Halt` ends the run instead.
    fail_fast: whether an exception of the source cancels what runs.
    """

    def __init__(
        self,
        *,
        value: Callable[[Call, Any], Any] | None,
        error: Callable[[Call, Exception, Callable[[], int]], Any],
        fail_fast: bool,
    ) -> None:
        self.value = value
        self.error = error
        self.fail_fast = fail_fast


if TYPE_CHECKING:

    class Run(Protocol):
        """What a verdict needs of the run that it is passed in."""

        now: Callable[[], float]
        began: float

        def place(self, index: int, value: Any) -> bool:
            """Puts a value in an item's place."""
            ...

        def fail(self, call: Call, failure: BaseException) -> None:
            """An item has failed for good, whatever it returned."""
            ...

        def stop(self, error: BaseException) -> None:
            """Ends it with this exception."""
            ...


def judged(
    verdict: Callable[[Call, Any], Any], call: Call, function: Callable[[Any], Awaitable[Any]], run: Run
) -> tuple[Callable[[Any], Awaitable[Any]], Callable[[int, Any], bool]]:
    """A worker's function and place for results, when a verdict is to look at every success; they fill in `call`."""
    now, began = run.now, run.began

    def noting(item: Any) -> Awaitable[Any]:
        call.item = item
        call.started = now() - began
        return function(item)

    def judging(index: int, value: Any) -> bool:
        call.elapsed = now() - began - call.started
        try:
            value = verdict(call, value)
        except Refused as refused:
            run.fail(call, refused.failure)
            return False
        except Exception as error:
            broken = CallbackError("callback", index)
            broken.__cause__ = error
            run.stop(broken)
        except BaseException as error:
            run.stop(error)
        return run.place(index, value)

    return noting, judging


def as_failure(function: object, index: int, error: BaseException, awaitable: object) -> BaseException:
    """The exception by which an item's failure is known; not an `Exception` if it ends the program.

    The engine's own frame is taken off the traceback: what is left is the user's code, and no cycle keeps it alive.
    """
    trace = error.__traceback__
    ours_alone = trace is None or trace.tb_next is None
    if trace is not None and trace.tb_next is not None:
        error.__traceback__ = trace.tb_next
    known: Exception
    if isinstance(error, asyncio.CancelledError):
        known = ItemCancelled(index)
    elif isinstance(error, StopIteration | StopAsyncIteration):
        known = RuntimeError(f"item {index} raised {type(error).__name__}")
    elif ours_alone and isinstance(error, TypeError) and awaitable is not NOT_CALLED and not isawaitable(awaitable):
        known = _not_awaitable(function, awaitable)
    else:
        return error
    known.__cause__ = error
    return known


def ends_the_program(error: BaseException | None) -> bool:
    """Whether it is a `KeyboardInterrupt`, a `SystemExit` or their like, which outrank all other errors."""
    return error is not None and not isinstance(error, Exception | asyncio.CancelledError)


def _not_awaitable(function: object, returned: object) -> TypeError:
    name = named(function)
    return TypeError(
        f"{name} returned {shortened(returned)} ({type(returned).__name__}), which cannot be awaited: "
        f"define it with `async def`, or pass in_thread({name}) if it blocks"
    )


def named(function: object) -> str:
    """A name to call a function by in a message."""
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else shortened(function)


def shortened(thing: object, most: int = 80) -> str:
    """The repr, cut to `most` characters, on one line, whatever the object's own `__repr__` does."""
    try:
        text = repr(thing)
    except Exception:
        return f"<{type(thing).__name__}, whose repr() fails>"
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: most + 1])
    return text if len(text) <= most else text[: most - 3] + "..."
