"""A blocking function made async: in a thread, or in another process.

Invariant: the awaitable ends when the call has really ended. A cancel waits for it (nothing can stop a running thread),
so that a slot is never given away while its call still runs; a second cancel stops waiting.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextvars import copy_context
from functools import partial, update_wrapper
from typing import Final, ParamSpec, TypeVar, cast

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
    executor = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="aiomap")

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        inside = cast("Callable[[], R]", partial(_call, function, *args, **kwargs))
        return await _ended(executor, partial(copy_context().run, inside))

    return update_wrapper(call, function)


def in_process(function: Callable[P, R], max_workers: int | None = None) -> Callable[P, Awaitable[R]]:
    """An async function that calls a CPU-bound one in another process: `amap(in_process(parse), pages)`.

    max_workers: how many processes, at least 1; `None` means one per core. Further calls wait for a free one.

    The function, its arguments and what it returns must be picklable: a function defined in an importable module. A
    process that dies fails the calls it had with `BrokenProcessPool`; the next call starts new ones.
    """
    pool: list[ProcessPoolExecutor] = []

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not pool:
            # Not fork: with threads about, a forked child can inherit a lock that nobody will ever release.
            pool.append(ProcessPoolExecutor(max_workers, mp_context=multiprocessing.get_context(_START)))
        executor = pool[0]
        try:
            return await _ended(executor, cast("Callable[[], R]", partial(_call, function, *args, **kwargs)))
        except BrokenProcessPool:
            if pool and pool[0] is executor:
                pool.clear()
            raise

    return update_wrapper(call, function)


_START: Final = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def _call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        # A future refuses to hold one: the call would never end.
        raise RuntimeError(f"{function} raised StopIteration") from error


async def _ended(executor: Executor, call: Callable[[], R]) -> R:
    future = asyncio.get_running_loop().run_in_executor(executor, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.done() and not future.cancel():
            await asyncio.wait([future])
        raise
