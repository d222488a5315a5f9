"""What becomes of an item's outcome.

Invariant: no exception of an item is lost, and none is mistaken for something else. A `CancelledError` that nobody
asked for is that item's failure; what is not an `Exception` (Ctrl-C, `SystemExit`) is no failure of an item at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, Final

from aiomap._call import Call
from aiomap.errors import ItemCancelled

__all__ = ["NOT_CALLED", "Halt", "Verdicts", "as_failure", "named", "shortened"]

NOT_CALLED: Final = object()
"""Stands for the awaitable of a call that raised before it returned one."""


@dataclass(frozen=True, slots=True)
class Halt:
    """The verdict that a failure ends the run, with this exception."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is to stand in an item's place in the results (SKIP: nothing).

    value: for an item that succeeded; `None` if that is the value itself, which then costs no call.
    error: for an item that failed, the `ended`-th of all items to end; a `Halt` ends the run instead.
    fail_fast: whether an exception of the source cancels what runs.
    """

    value: Callable[[Call, Any], Any] | None
    error: Callable[[Call, Exception, int], Any]
    fail_fast: bool


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
