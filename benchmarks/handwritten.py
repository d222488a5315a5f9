"""What people write without a library: the loop, the workers, the recipes.

Invariant: every list function here returns the results in input order; every stream function is an async
context manager over an async iterable, like the adapters in `peers` and `ours`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeAlias

Function: TypeAlias = Callable[[int], Coroutine[Any, Any, int]]
StreamOf: TypeAlias = contextlib.AbstractAsyncContextManager[AsyncIterable[Any]]


async def bare_loop(function: Function, data: list[int], limit: int) -> list[int]:
    """Await one call after the other: the least that any map can cost."""
    return [await function(item) for item in data]


async def worker_floor(function: Function, data: list[int], limit: int) -> list[int | None]:
    """Let `limit` workers pull from one shared iterator: the least that a concurrent map can cost."""
    results: list[int | None] = [None] * len(data)
    source = enumerate(data)

    async def work() -> None:
        for index, item in source:
            results[index] = await function(item)

    for worker in [asyncio.create_task(work()) for _ in range(limit)]:
        await worker
    return results


async def plain_queue(function: Function, data: list[int], limit: int) -> list[int]:
    """Fill a queue, let `limit` workers empty it. No peer: one item that fails leaves it hanging."""
    queue: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    results: dict[int, int] = {}

    async def work() -> None:
        while True:
            index, item = await queue.get()
            results[index] = await function(item)
            queue.task_done()

    workers = [asyncio.create_task(work()) for _ in range(limit)]
    for numbered in enumerate(data):
        await queue.put(numbered)
    await queue.join()
    for worker in workers:
        worker.cancel()
    return [results[index] for index in range(len(results))]


async def published_recipe(
    coroutine: Callable[[Any], Awaitable[Any]],
    data: Iterable[Any],
    max_concurrent_tasks: int = 10,
    max_queue_size: int = -1,
    callback: Callable[[int, Any], None] | None = None,
) -> list[Any]:
    """Run the published `amap` recipe, in our words.

    Its workers look into a queue with a timeout of 1 s, so that they notice the end and a failure is raised;
    a priority queue puts the results into order.
    """
    waiting: asyncio.Queue[tuple[int, Any]] = asyncio.Queue(max_queue_size)
    finished: asyncio.PriorityQueue[tuple[int, Any]] = asyncio.PriorityQueue()
    all_are_queued = asyncio.Event()

    async def work() -> None:
        while not (all_are_queued.is_set() and waiting.empty()):
            try:
                index, item = await asyncio.wait_for(waiting.get(), 1)
            except TimeoutError:
                continue
            finished.put_nowait((index, await coroutine(item)))
            waiting.task_done()
            if callback is not None:
                callback(index, item)

    workers = [asyncio.create_task(work()) for _ in range(max_concurrent_tasks)]
    for numbered in enumerate(data):
        await waiting.put(numbered)
    all_are_queued.set()
    await asyncio.gather(*workers)
    return [finished.get_nowait()[1] for _ in range(finished.qsize())]


async def semaphore_gather(function: Function, data: list[int], limit: int) -> list[int]:
    """Make one task per item at once, and let a semaphore hold them back."""
    semaphore = asyncio.Semaphore(limit)

    async def bounded(item: int) -> int:
        async with semaphore:
            return await function(item)

    return await asyncio.gather(*[bounded(item) for item in data])


def wait_window(function: Function, data: list[int], limit: int) -> StreamOf:
    """Keep a window of `limit` tasks full with `asyncio.wait(FIRST_COMPLETED)`; results as completed."""
    return contextlib.aclosing(_as_completed(function, data, limit))


async def _as_completed(function: Function, data: list[int], limit: int) -> AsyncGenerator[int, None]:
    running: set[asyncio.Future[int]] = set()
    for item in data:
        running.add(asyncio.ensure_future(function(item)))
        if len(running) >= limit:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                yield call.result()
    for result in asyncio.as_completed(running):
        yield await result
