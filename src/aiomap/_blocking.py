"""A blocking function made async: in a thread, or in another process.

Invariant: the awaitable ends when the call has really ended. A cancel waits for it (nothing can stop a running thread),
so that a slot is never given away while its call still runs; a second cancel stops waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import BrokenExecutor
from contextvars import copy_context
from functools import update_wrapper
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from aiomap._arguments import check_blocking, check_workers

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

__all__ = ["in_process", "in_thread"]

P = ParamSpec("P")
R = TypeVar("R")

# Threads are made when they are needed, so this only bounds them; the map's limit comes long before.
_MOST_THREADS: Final = 10_000


def in_thread(function: Callable[P, R]) -> Callable[P, Awaitable[R]]:
    """An async function that calls a blocking one in a thread: `amap(in_thread(read), paths)`.

    It has threads of its own, as many as calls run at once (`asyncio.to_thread` would queue them behind a few). The
    context variables of the caller are seen in the thread. A cancel takes effect when the call has ended.

    >>> import asyncio
    >>> from aiomap import amap, in_thread
    >>> asyncio.run(amap(in_thread(str.upper), ["a", "b"]))
    ['A', 'B']
    """
    from concurrent.futures import ThreadPoolExecutor  # on first use, as below

    check_blocking(function)
    executor = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="aiomap")

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        entered = False
        context = copy_context()

        def enter() -> R:
            nonlocal entered
            entered = True
            return context.run(_call, function, args, kwargs)

        future = asyncio.get_running_loop().run_in_executor(executor, enter)
        return await _ended(future, lambda: not entered and future.cancel())

    return update_wrapper(call, function)


def in_process(function: Callable[P, R], max_workers: int | None = None) -> Callable[P, Awaitable[R]]:
    """An async function that calls a CPU-bound one in another process: `amap(in_process(parse), pages)`.

    max_workers: how many processes, at least 1; `None` means one per core. Further calls wait for a free one.

    The function, its arguments and what it returns must be picklable: a function defined in an importable module. A
    process that dies fails the calls it had with `BrokenProcessPool`; the next call starts new ones.
    """
    check_blocking(function)
    workers = check_workers(max_workers)
    pool: list[ProcessPoolExecutor] = []

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not pool:
            pool.append(_new_pool(workers))
        executor = pool[0]
        try:
            submitted = executor.submit(_call, function, args, kwargs)
            return await _ended(asyncio.wrap_future(submitted), submitted.cancel)
        except BrokenExecutor:
            if pool and pool[0] is executor:
                pool.clear()
            raise

    return update_wrapper(call, function)


def _new_pool(max_workers: int | None) -> ProcessPoolExecutor:
    # Imported here: they would cost `import aiomap` more than all the rest of it.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # Not fork: with threads about, a forked child can inherit a lock that nobody will ever release.
    ways = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in ways else "spawn")
    return ProcessPoolExecutor(max_workers, mp_context=context)


def _call(function: Callable[..., R], args: tuple[object, ...], kwargs: dict[str, object]) -> R:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        # A future refuses to hold one: the call would never end.
        raise RuntimeError(f"{function} raised StopIteration") from error


async def _ended(future: asyncio.Future[R], withdraw: Callable[[], bool]) -> R:
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.done() and not withdraw():
            await asyncio.wait([future])
        raise
