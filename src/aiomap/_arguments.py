"""What is wrong with an argument: every check that a call makes before anything starts.

Invariant: a message names the parameter, the rule, the value, and what to write instead. TypeError for the wrong kind
of thing, ValueError for the wrong one of the right kind.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import AsyncIterable, Callable, Iterable
from operator import index as as_integer
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

from aiomap._verdict import named, shortened

if TYPE_CHECKING:
    from aiomap._retry import RetryPolicy
    from aiomap.journal import Journal
    from aiomap.limits.adaptive import Adaptive
    from aiomap.limits.limit import Limit

__all__ = [
    "check_blocking",
    "check_buffer",
    "check_callback",
    "check_data",
    "check_function",
    "check_journal",
    "check_limit",
    "check_limits",
    "check_queue_size",
    "check_retry",
    "check_switch",
    "check_timeout",
    "check_workers",
    "is_adaptive",
]


def check_function(function: object, data: object) -> None:
    """The function to map."""
    if inspect.iscoroutine(function):
        name = named(function)
        function.close()  # or Python warns that it was never awaited, on top of our error
        raise TypeError(
            f"coroutine must be the async function itself, but {name}(...) was called already: "
            f"write amap({name}, data) instead of amap({name}(...), data)"
        )
    if not callable(function):
        if callable(data):
            raise TypeError(
                f"coroutine must be an async function, got {shortened(function)}: the arguments are swapped, "
                f"write amap({named(data)}, data) with the function first"
            )
        if inspect.isawaitable(function) or inspect.isasyncgen(function):
            raise TypeError(f"coroutine must be the async function itself, got {shortened(function)}: leave out the ()")
        raise TypeError(f"coroutine must be an async function, got {shortened(function)} ({type(function).__name__})")
    if inspect.isasyncgenfunction(inspect.unwrap(function)):
        name = named(function)
        raise TypeError(
            f"coroutine must be an async function that returns one value, but {name} is an async generator function "
            f"(it has `yield`): collect its values and return them, as in `return [x async for x in {name}(item)]`"
        )


def check_data(data: object) -> None:
    """The input."""
    if isinstance(data, str | bytes | bytearray):
        raise TypeError(
            f"data must be an iterable of items, got the {type(data).__name__} {shortened(data)}, whose characters "
            "would be the items: write [data] for one item, or list(data) if that is what you want"
        )
    if inspect.iscoroutine(data):
        name = named(data)
        data.close()
        raise TypeError(f"data must be an iterable, got the coroutine {name}(...): write `await {name}(...)`")
    if inspect.isawaitable(data):
        raise TypeError(f"data must be an iterable, got the awaitable {shortened(data)}: await it first")
    if inspect.isasyncgenfunction(data) or inspect.isgeneratorfunction(data):
        raise TypeError(f"data must be an iterable, got the generator function {named(data)}: call it, {named(data)}()")
    if isinstance(data, type):
        raise TypeError(f"data must be an iterable, got the class {named(data)}: pass an instance of it")
    if isinstance(data, Iterable | AsyncIterable) or hasattr(type(data), "__getitem__"):
        return
    raise TypeError(f"data must be an iterable or an async iterable, got {shortened(data)} ({type(data).__name__})")


def _integer(name: str, value: object, rule: str) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be {rule}, got {value!r}: a bool is no number here")
    try:
        return as_integer(value)  # type: ignore[arg-type]  # the question is whether it is one
    except TypeError:
        fix = f": write {int(value)}" if isinstance(value, float) and value.is_integer() and value >= 1 else ""
        raise TypeError(f"{name} must be {rule}, got {shortened(value)} ({type(value).__name__}){fix}") from None


def check_limit(limit: Any) -> int:
    """`max_concurrent_tasks`."""
    rule = "an integer of at least 1"
    number = _integer("max_concurrent_tasks", limit, rule)
    if number < 1:
        raise ValueError(f"max_concurrent_tasks must be {rule}, got {number}: 1 runs one item at a time")
    return number


def check_queue_size(size: Any) -> int:
    """`max_queue_size`."""
    return _integer("max_queue_size", size, "an integer (0 or less: take no more items ahead than needed)")


def check_buffer(buffer: Any) -> int | None:
    """`buffer`."""
    if buffer is None:
        return None
    rule = "None (choose for me) or an integer of at least 0"
    number = _integer("buffer", buffer, rule)
    if number < 0:
        raise ValueError(
            f"buffer must be {rule}, got {number}: 0 keeps no finished result waiting beyond the running ones"
        )
    return number


def check_timeout(timeout: Any) -> float | None:
    """`timeout`."""
    if timeout is None:
        return None
    rule = "timeout must be None (no bound) or a number of seconds above 0"
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"{rule}, got {shortened(timeout)} ({type(timeout).__name__})")
    if not 0 < timeout < math.inf:
        raise ValueError(f"{rule}, got {timeout}: leave it out for no bound")
    return float(timeout)


def check_retry(retry: Any, function: Callable[..., Any]) -> RetryPolicy | None:
    """`retry`, for that function."""
    if retry is None:
        return None
    from aiomap._retry import Retry
    from aiomap._tenacity import TenacityPolicy, is_tenacity

    if isinstance(retry, Retry):
        return retry
    if is_tenacity(retry):
        return TenacityPolicy(retry, function)
    rule = "retry must be None, a Retry, or a policy of tenacity"
    if isinstance(retry, int):
        raise TypeError(f"{rule}, got {retry!r}: write Retry(on=ConnectionError, attempts={max(1, retry + 1)})")
    given, kind = shortened(retry), type(cast("object", retry)).__name__
    fix = ": write Retry(on=...) with the errors that are worth another attempt" if kind in {"type", "tuple"} else ""
    raise TypeError(f"{rule}, got {given} ({kind}){fix}")


def check_limits(limits: Any) -> tuple[Limit, ...]:
    """`limits`."""
    rule = "limits must be a list of limits (Rate, PerKey, or your own)"
    if _is_limit(limits):
        raise TypeError(f"{rule}, got {shortened(limits)}: write limits=[{shortened(limits)}]")
    if isinstance(limits, str | bytes) or not isinstance(limits, Iterable):
        raise TypeError(f"{rule}, got {shortened(limits)} ({type(limits).__name__})")
    checked = tuple(cast("Iterable[Any]", limits))  # type: ignore[redundant-cast]  # not to pyright
    for number, limit in enumerate(checked):
        if not _is_limit(limit):
            if isinstance(limit, type):
                raise TypeError(f"{rule}, got the class {limit.__name__}: make one of it")
            missing = [name for name in _QUESTIONS if not callable(getattr(limit, name, None))]
            fix = ": a number of starts a second is Rate(n)" if type(limit) in {int, float} else ""
            raise TypeError(f"{rule}, got {shortened(limit)}, which has no {missing[0]}(){fix}")
        if any(limit is other for other in checked[:number]):
            raise ValueError(f"limits must be different objects, got {shortened(limit)} twice: leave one out")
    return checked


def check_journal(journal: Any, function: Callable[..., Any]) -> Journal | None:
    """`journal`, for that function."""
    if journal is None:
        return None
    from aiomap.journal import Journal
    from aiomap.journal.fingerprint import has_source

    if isinstance(journal, str | PathLike):
        journal = Journal(cast("str | PathLike[str]", journal))
    if not isinstance(journal, Journal):
        rule = "journal must be None, the path of a file, or a Journal"
        fix = ": write journal='run.db'" if isinstance(journal, bool) else ""
        raise TypeError(f"{rule}, got {shortened(journal)} ({type(journal).__name__}){fix}")
    if journal.version is None and not has_source(function):
        raise ValueError(
            f"the source of {named(function)} cannot be found, so a journal cannot tell whether it has changed: write "
            f"Journal({fspath(journal.path)!r}, version=1), and another version when the function changes"
        )
    return journal


def is_adaptive(limit: object) -> TypeGuard[Adaptive]:
    """Whether it is an `Adaptive`. Where nobody has made one, its module is not even imported."""
    module = sys.modules.get("aiomap.limits.adaptive")
    return module is not None and isinstance(limit, module.Adaptive)


_QUESTIONS: Final = ("claim", "next_start", "started", "ended")


def _is_limit(limit: object) -> bool:
    return not isinstance(limit, type) and all(callable(getattr(limit, name, None)) for name in _QUESTIONS)


def check_callback(callback: object) -> None:
    """`callback`."""
    if callback is None:
        return
    if not callable(callback):
        raise TypeError(f"callback must be None or a function of (index, item), got {shortened(callback)}")
    if inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__):
        raise TypeError(
            f"callback must be a plain function of (index, item), but {named(callback)} is an async one, and nobody "
            "would await it: do that work at the end of your mapped function"
        )


def check_blocking(function: object) -> None:
    """The function for `in_thread` and `in_process`."""
    if not callable(function):
        raise TypeError(f"what is to run apart must be a function, got {shortened(function)}")
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{named(function)} is async already: pass it as it is, amap({named(function)}, data)")


def check_workers(workers: Any) -> int | None:
    """`max_workers`."""
    if workers is None:
        return None
    rule = "None (one per core) or an integer of at least 1"
    number = _integer("max_workers", workers, rule)
    if number < 1:
        raise ValueError(f"max_workers must be {rule}, got {number}")
    return number


def check_switch(name: str, value: object) -> None:
    """A parameter that is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shortened(value)} ({type(value).__name__})")
