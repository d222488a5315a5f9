"""The verbs: check the arguments, assemble a run, run it.

Invariant: every mistake that can be seen in the arguments is raised by the call itself, before anything is awaited,
pulled or started.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Sized
from concurrent.futures import Future
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from aiomap._arguments import (
    check_buffer,
    check_callback,
    check_data,
    check_function,
    check_journal,
    check_limit,
    check_limits,
    check_queue_size,
    check_retry,
    check_switch,
    check_timeout,
    is_adaptive,
)
from aiomap._call import Call
from aiomap._engine import Engine
from aiomap._on_error import OnError, Tolerate, check_on_error, error_verdict
from aiomap._outbox import Durable, Ordered, Outbox
from aiomap._outcome import SKIP, Observer, Outcome
from aiomap._policies import Policies
from aiomap._stream import Stream
from aiomap._verdict import Verdicts
from aiomap.progress import progress_bar

if TYPE_CHECKING:
    from os import PathLike
    from typing import TypeAlias

    from aiomap._policies import TenacityPolicyLike
    from aiomap._recorder import Recorder
    from aiomap._retry import Retry
    from aiomap.journal import Journal
    from aiomap.limits.adaptive import Adaptive
    from aiomap.limits.limit import Limit

    JournalLike: TypeAlias = Journal | str | PathLike[str]

__all__ = ["aimap", "amap", "aoutcomes", "run"]

T = TypeVar("T")
R = TypeVar("R")

# Seconds between two looks of a blocked thread at whether it was cancelled.
_LOOK: Final = 0.1


@overload
def amap(
    coroutine: Callable[[T], Awaitable[R]],
    data: Iterable[T] | AsyncIterable[T],
    max_concurrent_tasks: int | Adaptive = 10,
    max_queue_size: int = -1,
    callback: Callable[[int, T], object] | None = None,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    timeout: float | None = None,
    retry: Retry | TenacityPolicyLike | None = None,
    limits: Iterable[Limit] = (),
    journal: JournalLike | None = None,
    progress: bool = False,
    isolate: bool = False,
) -> Coroutine[Any, Any, list[R]]: ...
@overload
def amap(
    coroutine: Callable[[T], Awaitable[R]],
    data: Iterable[T] | AsyncIterable[T],
    max_concurrent_tasks: int | Adaptive = 10,
    max_queue_size: int = -1,
    callback: Callable[[int, T], object] | None = None,
    *,
    on_error: Literal["return"] | Tolerate,
    timeout: float | None = None,
    retry: Retry | TenacityPolicyLike | None = None,
    limits: Iterable[Limit] = (),
    journal: JournalLike | None = None,
    progress: bool = False,
    isolate: bool = False,
) -> Coroutine[Any, Any, list[R | Exception]]: ...
def amap(
    coroutine: Callable[[T], Awaitable[R]],
    data: Iterable[T] | AsyncIterable[T],
    max_concurrent_tasks: int | Adaptive = 10,
    max_queue_size: int = -1,
    callback: Callable[[int, T], object] | None = None,
    *,
    on_error: OnError = "raise",
    timeout: float | None = None,
    retry: Retry | TenacityPolicyLike | None = None,
    limits: Iterable[Limit] = (),
    journal: JournalLike | None = None,
    progress: bool = False,
    isolate: bool = False,
) -> Coroutine[Any, Any, list[Any]]:
    """Applies an async function to every item, a few at a time, and gives the results as a list, in input order.

    coroutine: the async function, called with one item.
    data: an iterable or async iterable of items, pulled on demand; an endless one never returns. An async iterable that
        has `aclose` (a generator, a `Stream`) is closed before the call returns.
    max_concurrent_tasks: how many items run at once, at least 1; or an `Adaptive`, which finds the number by itself.
    max_queue_size: how many items may be taken from `data` ahead of a free worker; 0 or less means no more than needed.
        aiomap takes at most one ahead, but with a `PerKey`, where others wait behind a busy key:
        `max(1000, 16 * max_concurrent_tasks)`, or this if it is less.
    callback: a plain function, called as `callback(index, item)` when an item has succeeded.
    on_error: `"raise"`: the first failure cancels what runs, waits for it to end, and is raised, the very same object.
        `"return"`: the exception stands in the item's place. `"skip"`: failed items are left out of the list.
        `Tolerate(n)`: like `"return"`, but more than `n` failures end the run with `TooManyFailures`.
    progress: a tqdm bar on stderr (a line every 30 seconds if that is no terminal); needs `aiomap[progress]`.
    timeout: seconds that one attempt may take, from its start (waiting for anything before it never counts); then it is
        cancelled and fails with `AttemptTimeout`, a `TimeoutError`. `None`: no bound.
    retry: a `Retry`, which says what failures are tried again, when and how often; or a policy object of tenacity.
        `None`: only an item that raised `Throttled` is.
    limits: `Rate`, `PerKey` and limits of your own. An attempt starts when all allow it; an item that waits for one
        holds no slot. A limit that is given to several maps is shared by them.
    journal: the path of a file that records what was completed, or a `Journal` with options. Call again with the same
        journal, after a crash or with a longer input, and only what is missing runs; the result is that of an
        undisturbed run. `callback` is not called for what an earlier run has recorded.
    isolate: gives each item a task of its own, for functions that keep something in their task. Context variables
        never leak from item to item, with or without it.

    Raises what an item or the input raised (see `on_error`), `CallbackError` if a function that you passed in for a
    purpose of its own did (`callback`, the key of a `PerKey`, the predicate of a `Retry`), `TypeError` and
    `ValueError` for bad arguments at the call. Cancelling the caller cancels every running item once and waits for it.
    Costs about 0.2 us an item on top of the function; memory for the results and the running items.

    >>> import asyncio
    >>> async def fetch(link: str) -> str:
    ...     await asyncio.sleep(0.001)
    ...     return f"page of {link}"
    >>> asyncio.run(amap(fetch, ["a", "b"], max_concurrent_tasks=2))
    ['page of a', 'page of b']
    """
    _check(coroutine, data, progress, isolate)
    ahead = check_queue_size(max_queue_size)
    check_callback(callback)
    check_on_error(on_error)
    slots, policies = _policies(coroutine, max_concurrent_tasks, timeout, retry, limits, ahead)
    verdicts = Verdicts(
        value=None if callback is None else _calling(callback),
        error=error_verdict(on_error, _length(data)),
        fail_fast=on_error == "raise",
    )
    recorder, verdicts = _recorded(coroutine, check_journal(journal, coroutine), verdicts, recalled=None)
    engine = Engine(
        coroutine,
        data,
        slots,
        verdicts,
        copy_context(),
        isolate=isolate,
        observer=_observer(progress, data),
        policies=policies,
        recorder=recorder,
    )
    return _collect(engine)


@overload
def aimap(
    coroutine: Callable[[T], Awaitable[R]],
    data: Iterable[T] | AsyncIterable[T],
    max_concurrent_tasks: int | Adaptive = 10,
    *,
    ordered: bool = True,
    buffer: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    timeout: float | None = None,
    retry: Retry | TenacityPolicyLike | None = None,
    limits: Iterable[Limit] = (),
    journal: JournalLike | None = None,
    progress: bool = False,
    isolate: bool = False,
) -> Stream[R]: ...
@overload
def aimap(
    coroutine: Callable[[T], Awaitable[R]],
    data: Iterable[T] | AsyncIterable[T],
    max_concurrent_tasks: int | Adaptive = 10,
    *,
    ordered: bool = True,
    buffer: int | None = None,
    on_error: Literal["return"] | Tolerate,
    timeout: float | None = None,
    retry: Retry | TenacityPolicyLike | None = None,
    limits: Iterable[Limit] = (),
    journal: JournalLike | None = None,
    progress: bool = False,
    isolate: bool = False,
) -> Stream[R | Exception]: ...
def aimap(
    coroutine: Callable[[T], Awaitable[R]],
    data: Iterable[T] | AsyncIterable[T],
    max_concurrent_tasks: int | Adaptive = 10,
    *,
    ordered: bool = True,
    buffer: int | None = None,
    on_error: OnError = "raise",
    timeout: float | None = None,
    retry: Retry | TenacityPolicyLike | None = None,
    limits: Iterable[Limit] = (),
    journal: JournalLike | None = None,
    progress: bool = False,
    isolate: bool = False,
) -> Stream[Any]:
    """Like `amap`, for inputs too long for a list: a `Stream` of the results, in constant memory.

    ordered: in the order of the input (no result beyond a failed item is ever given out), or as they are completed.
    buffer: how many results may wait beyond the running items: at most `buffer + max_concurrent_tasks` are started
        and not yet delivered; then a slow consumer stops new starts. `None`: `max(1000, 16 * max_concurrent_tasks)`,
        because behind a narrow window one slow item leaves most slots idle.
    The rest as for `amap`. With `"raise"`, the results before the failure are given out first.

    >>> import asyncio
    >>> async def square(number: int) -> int:
    ...     return number * number
    >>> async def main() -> None:
    ...     async with aimap(square, range(3)) as squares:
    ...         async for number in squares:
    ...             print(number)
    >>> asyncio.run(main())
    0
    1
    4
    """
    _check(coroutine, data, progress, isolate)
    check_on_error(on_error)
    verdicts = Verdicts(value=None, error=error_verdict(on_error, _length(data)), fail_fast=on_error == "raise")
    plan = _policies(coroutine, max_concurrent_tasks, timeout, retry, limits)
    adaptive = max_concurrent_tasks if is_adaptive(max_concurrent_tasks) else None
    kept = check_journal(journal, coroutine)
    recorder, verdicts = _recorded(coroutine, kept, verdicts, recalled=None)
    outbox = _outbox(ordered, kept)
    return _stream(coroutine, data, plan, adaptive, verdicts, recorder, outbox, buffer, progress, isolate)


def aoutcomes(
    coroutine: Callable[[T], Awaitable[R]],
    data: Iterable[T] | AsyncIterable[T],
    max_concurrent_tasks: int | Adaptive = 10,
    *,
    ordered: bool = False,
    buffer: int | None = None,
    timeout: float | None = None,
    retry: Retry | TenacityPolicyLike | None = None,
    limits: Iterable[Limit] = (),
    journal: JournalLike | None = None,
    progress: bool = False,
    isolate: bool = False,
) -> Stream[Outcome[T, R]]:
    """Like `aimap`, but every item, failed or not, comes as an `Outcome` that says which it was and how it went.

    A failure never ends the run. An item whose function returned SKIP is left out. Parameters as for `aimap`.

    >>> import asyncio
    >>> async def invert(number: int) -> float:
    ...     return 1 / number
    >>> async def main() -> None:
    ...     async with aoutcomes(invert, [4, 0], ordered=True) as outcomes:
    ...         async for outcome in outcomes:
    ...             print(outcome.item, outcome.value, outcome.error)
    >>> asyncio.run(main())
    4 0.25 None
    0 None division by zero
    """
    _check(coroutine, data, progress, isolate)
    verdicts = Verdicts(value=_succeeded, error=_failed, fail_fast=False)
    plan = _policies(coroutine, max_concurrent_tasks, timeout, retry, limits)
    adaptive = max_concurrent_tasks if is_adaptive(max_concurrent_tasks) else None
    kept = check_journal(journal, coroutine)
    recorder, verdicts = _recorded(coroutine, kept, verdicts, recalled=_succeeded)
    outbox = _outbox(ordered, kept)
    return _stream(coroutine, data, plan, adaptive, verdicts, recorder, outbox, buffer, progress, isolate)


@overload
def run(
    coroutine: Callable[[T], Awaitable[R]],
    data: Iterable[T] | AsyncIterable[T],
    max_concurrent_tasks: int | Adaptive = 10,
    max_queue_size: int = -1,
    callback: Callable[[int, T], object] | None = None,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    timeout: float | None = None,
    retry: Retry | TenacityPolicyLike | None = None,
    limits: Iterable[Limit] = (),
    journal: JournalLike | None = None,
    progress: bool = False,
    isolate: bool = False,
) -> list[R]: ...
@overload
def run(
    coroutine: Callable[[T], Awaitable[R]],
    data: Iterable[T] | AsyncIterable[T],
    max_concurrent_tasks: int | Adaptive = 10,
    max_queue_size: int = -1,
    callback: Callable[[int, T], object] | None = None,
    *,
    on_error: Literal["return"] | Tolerate,
    timeout: float | None = None,
    retry: Retry | TenacityPolicyLike | None = None,
    limits: Iterable[Limit] = (),
    journal: JournalLike | None = None,
    progress: bool = False,
    isolate: bool = False,
) -> list[R | Exception]: ...
def run(
    coroutine: Callable[[T], Awaitable[R]],
    data: Iterable[T] | AsyncIterable[T],
    max_concurrent_tasks: int | Adaptive = 10,
    max_queue_size: int = -1,
    callback: Callable[[int, T], object] | None = None,
    *,
    on_error: OnError = "raise",
    timeout: float | None = None,
    retry: Retry | TenacityPolicyLike | None = None,
    limits: Iterable[Limit] = (),
    journal: JournalLike | None = None,
    progress: bool = False,
    isolate: bool = False,
) -> list[Any]:
    """`amap` for code without an event loop, and for notebooks: gives the list itself. Parameters as for `amap`.

    Where a loop runs in the calling thread already (a notebook), the map runs in a loop and thread of its own, and the
    calling thread waits: objects that belong to the running loop, an open HTTP session for one, cannot be used in it.

    >>> async def double(number: int) -> int:
    ...     return 2 * number
    >>> run(double, [1, 2, 3])
    [2, 4, 6]
    """
    collected = amap(
        coroutine,
        data,
        max_concurrent_tasks,
        max_queue_size,
        callback,
        on_error=on_error,
        timeout=timeout,
        retry=retry,
        limits=limits,
        journal=journal,
        progress=progress,
        isolate=isolate,
    )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(collected)
    return _run_in_a_thread(collected)


def _check(function: object, data: object, progress: object, isolate: object) -> None:
    check_function(function, data)
    check_data(data)
    check_switch("progress", progress)
    check_switch("isolate", isolate)


def _policies(
    function: Callable[..., Any],
    max_concurrent_tasks: int | Adaptive,
    timeout: float | None,
    retry: Retry | TenacityPolicyLike | None,
    limits: Iterable[Limit],
    ahead: int = 0,
) -> tuple[int, Policies | None]:
    """The number of slots, and the policies if there are any."""
    checked = check_timeout(timeout), check_retry(retry, function), check_limits(limits)
    if is_adaptive(max_concurrent_tasks):
        slots = max_concurrent_tasks.max
        checked = *checked[:2], check_limits((max_concurrent_tasks, *checked[2]))
    else:
        slots = check_limit(max_concurrent_tasks)
    plain = checked == (None, None, ())
    return slots, None if plain else Policies(*checked, lookahead=ahead if ahead > 0 else _window(slots))


def _window(limit: int) -> int:
    """How many items may be ahead of the first unfinished one: behind less, one slow item leaves most slots idle."""
    return max(1000, 16 * limit)


def _length(data: object) -> int | None:
    return len(data) if isinstance(data, Sized) else None


def _observer(progress: bool, data: object) -> Observer | None:
    return progress_bar(_length(data)) if progress else None


def _calling(callback: Callable[[int, Any], object]) -> Callable[[Call, Any], Any]:
    def succeeded(call: Call, value: Any) -> Any:
        callback(call.index, call.item)
        return value

    return succeeded


def _succeeded(call: Call, value: Any) -> Any:
    if value is SKIP:
        return SKIP
    outcome: Outcome[Any, Any] = Outcome(call.index, call.item, value, None, call.attempt, call.started, call.elapsed)
    return outcome


def _failed(call: Call, error: Exception, _: Callable[[], int]) -> Any:
    outcome: Outcome[Any, Any] = Outcome(call.index, call.item, None, error, call.attempt, call.started, call.elapsed)
    return outcome


def _recorded(
    function: Callable[..., Any],
    journal: Journal | None,
    verdicts: Verdicts,
    *,
    recalled: Callable[[Call, Any], Any] | None,
) -> tuple[Recorder | None, Verdicts]:
    """What records the outcomes, and the verdicts that go through it."""
    if journal is None:
        return None, verdicts
    from aiomap._recorder import Recorder

    recorder = Recorder(journal, function, value=verdicts.value, recalled=recalled, error=verdicts.error)
    return recorder, Verdicts(value=recorder.succeeded, error=recorder.failed, fail_fast=verdicts.fail_fast)


def _outbox(ordered: bool, journal: Journal | None) -> Outbox:
    check_switch("ordered", ordered)
    outbox = Ordered() if ordered else Outbox()
    return outbox if journal is None or not journal.durable else Durable(outbox)


def _stream(
    function: Callable[[Any], Awaitable[Any]],
    data: Iterable[Any] | AsyncIterable[Any],
    plan: tuple[int, Policies | None],
    adaptive: Adaptive | None,
    verdicts: Verdicts,
    recorder: Recorder | None,
    outbox: Outbox,
    buffer: int | None,
    progress: bool,
    isolate: bool,
) -> Stream[Any]:
    window = check_buffer(buffer)
    slots, policies = plan
    engine = Engine(
        function,
        data,
        slots,
        verdicts,
        copy_context(),
        isolate=isolate,
        observer=_observer(progress, data),
        outbox=outbox,
        buffer=_window if window is None else (lambda _: window),
        policies=policies,
        recorder=recorder,
    )
    outbox.made_room = engine.fill
    return Stream(engine, outbox, adaptive)


async def _collect(engine: Engine) -> list[Any]:
    engine.start()
    await engine.finish()
    if engine.error is not None:
        try:
            raise engine.error
        finally:
            # The error's traceback holds this frame: without this they would keep each other, and the results, alive.
            del engine
    return [value for value in engine.results if value is not SKIP] if engine.holes else engine.results


# What Python's warning about a forgotten `await`, and the name of a task, show.
_collect.__name__ = _collect.__qualname__ = "amap"


def _run_in_a_thread(collected: Coroutine[Any, Any, list[Any]]) -> list[Any]:
    """Runs a coroutine in a new loop in a new thread, and waits for it. Ctrl-C in between cancels it first."""
    ended: Future[list[Any]] = Future()
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()

    async def main() -> list[Any]:
        begun.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await collected

    def target() -> None:
        try:
            ended.set_result(asyncio.run(main()))
        except BaseException as error:
            ended.set_exception(error)

    def cancel() -> None:
        loop, task = begun.result()
        if task is not None and not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)

    waiting = asyncio.current_task()
    cancels = 0 if waiting is None else waiting.cancelling()
    thread = threading.Thread(target=copy_context().run, args=(target,), name="aiomap.run")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_LOOK)
            # `asyncio.run` turns Ctrl-C into a cancel of this task, which will not get its turn before we return.
            if waiting is not None and waiting.cancelling() > cancels:
                cancels = waiting.cancelling()
                cancel()
    except BaseException:
        cancel()
        thread.join()
        raise
    return ended.result()
