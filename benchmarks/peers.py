"""One small adapter for each way in which a peer can do the job.

Invariant: an adapter calls its peer in the fastest honest way that its documentation and source offer, with
the same function, data and limit as everybody else (`anyio.amap` and tqdm's gather have no limit). A peer is
imported inside its adapters, because each measurement runs in an interpreter of its own: it must not pay for
the import of the others, nor fail when one of them is not installed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
from typing import Any

import handwritten
from handwritten import Function, StreamOf


async def aiometer_list(function: Function, data: list[int], limit: int) -> list[int]:
    """`run_all` is the only one that keeps input order; it takes functions without arguments."""
    import aiometer

    return await aiometer.run_all([functools.partial(function, item) for item in data], max_at_once=limit)


def aiometer_unordered(function: Function, data: list[int], limit: int) -> StreamOf:
    """`amap` is an async context manager over results as completed."""
    import aiometer

    return aiometer.amap(function, data, max_at_once=limit)


async def tasklane_list(function: Function, data: list[int], limit: int) -> list[int]:
    """`amap` keeps input order."""
    import tasklane

    return await tasklane.amap(function, data, limit=limit)


def tasklane_unordered(function: Function, data: list[int], limit: int) -> StreamOf:
    """`stream` yields as completed."""
    import tasklane

    return _closing(tasklane.stream(function, data, limit=limit))


async def pyarallel_list(function: Function, data: list[int], limit: int) -> list[int]:
    """A window as wide as the limit is faster than the default (twice as wide) when the function suspends."""
    from pyarallel import async_parallel_map

    result = await async_parallel_map(function, data, concurrency=limit, window_size=limit)
    return result.values()


def pyarallel_ordered(function: Function, data: list[int], limit: int) -> StreamOf:
    """The stream yields a receipt for every item; the default window is the faster one here."""
    from pyarallel import async_parallel_iter

    return _closing(async_parallel_iter(function, data, concurrency=limit, ordered=True))


def pyarallel_unordered(function: Function, data: list[int], limit: int) -> StreamOf:
    """The same as completed."""
    from pyarallel import async_parallel_iter

    return _closing(async_parallel_iter(function, data, concurrency=limit))


async def streamable_list(function: Function, data: list[int], limit: int) -> list[int]:
    """Streams are the only shape it has: collect one."""
    from streamable import stream

    return [result async for result in stream(data).map(function, concurrency=limit)]


def streamable_ordered(function: Function, data: list[int], limit: int) -> StreamOf:
    """Input order is the default. The stream has nothing to close."""
    from streamable import stream

    return contextlib.nullcontext(stream(data).map(function, concurrency=limit))


def streamable_unordered(function: Function, data: list[int], limit: int) -> StreamOf:
    """The same as completed."""
    from streamable import stream

    return contextlib.nullcontext(stream(data).map(function, concurrency=limit, as_completed=True))


async def aiostream_list(function: Any, data: list[int], limit: int) -> list[Any]:
    """Awaiting `stream.list` collects. Its types ask for functions of any number of items, hence `Any`."""
    from aiostream import stream

    return await stream.list(stream.map(stream.iterate(data), function, task_limit=limit))


def aiostream_ordered(function: Any, data: list[int], limit: int) -> StreamOf:
    """Input order is the default."""
    from aiostream import stream

    return stream.map(stream.iterate(data), function, task_limit=limit).stream()


def aiostream_unordered(function: Any, data: list[int], limit: int) -> StreamOf:
    """The same as completed."""
    from aiostream import stream

    return stream.map(stream.iterate(data), function, ordered=False, task_limit=limit).stream()


async def tqdm_list(function: Function, data: list[int], limit: int) -> list[int]:
    """Its gather with the bar switched off, because this compares maps and not bars. It has no limit."""
    from tqdm.asyncio import tqdm

    return await tqdm.gather(*[function(item) for item in data], disable=True)


async def anyio_list(function: Function, data: list[int], limit: int) -> list[int]:
    """`anyio.amap` of anyio >= 4.16. It has no limit."""
    from anyio import amap

    return await amap(function, data)


async def async_batch_llm_list(function: Function, data: list[int], limit: int) -> list[Any]:
    """Items must be strings, and results come as records that have to be put into order."""
    import async_batch_llm as batch

    result = await batch.process_prompts(_strategy(function), map(str, data), concurrency=limit, preserve_order=True)
    return [record.output for record in result.results]


def async_batch_llm_unordered(function: Function, data: list[int], limit: int) -> StreamOf:
    """`process_stream` yields records as completed."""
    import async_batch_llm as batch

    return _closing(batch.process_stream(_strategy(function), map(str, data), concurrency=limit))


async def aiometer_at_a_rate(function: Function, data: list[int], limit: int, rate: int) -> None:
    """`max_per_second` spreads the starts evenly."""
    import aiometer

    await aiometer.run_on_each(function, data, max_at_once=limit, max_per_second=rate)


async def tasklane_at_a_rate(function: Function, data: list[int], limit: int, rate: int) -> None:
    """`rate_limit` is per second."""
    import tasklane

    await tasklane.amap(function, data, limit=limit, rate_limit=rate)


async def pyarallel_at_a_rate(function: Function, data: list[int], limit: int, rate: int, burst: int = 1) -> None:
    """A burst of 1, evenly spread starts, is the default."""
    from pyarallel import RateLimit, async_parallel_map

    limiter = RateLimit(rate, burst=burst)
    await async_parallel_map(function, data, concurrency=limit, window_size=limit, rate_limit=limiter)


async def pyarallel_at_a_rate_in_bursts(function: Function, data: list[int], limit: int, rate: int) -> None:
    """As many at once as are asked for a second."""
    await pyarallel_at_a_rate(function, data, limit, rate, burst=rate)


async def streamable_at_a_rate(function: Function, data: list[int], limit: int, rate: int) -> None:
    """The throttle stands before the map: behind it, it would hold back results and not starts."""
    from streamable import stream

    throttled = stream(data).throttle(rate, per=dt.timedelta(seconds=1))
    async for _ in throttled.map(function, concurrency=limit, as_completed=True):
        pass


async def aiolimiter_at_a_rate(function: Function, data: list[int], limit: int, rate: int) -> None:
    """A limiter and no map: hand-written workers enter it before each call."""
    from aiolimiter import AsyncLimiter

    await handwritten.worker_floor(_behind(AsyncLimiter(rate, 1), function), data, limit)


async def throttler_at_a_rate(function: Function, data: list[int], limit: int, rate: int) -> None:
    """The same with its `Throttler`."""
    from throttler import Throttler

    await handwritten.worker_floor(_behind(Throttler(rate, period=1.0), function), data, limit)


def _behind(limiter: contextlib.AbstractAsyncContextManager[Any], function: Function) -> Function:
    async def limited(item: int) -> int:
        async with limiter:
            return await function(item)

    return limited


def _closing(stream: Any) -> StreamOf:
    # Any, because all of these are generators that their packages declare as mere iterators.
    return contextlib.aclosing(stream)


def _strategy(function: Function) -> Any:
    import async_batch_llm as batch

    async def invoke(prompt: str, *, attempt: int, timeout: float, state: object) -> batch.CallOutcome[int]:
        return batch.CallOutcome(await function(int(prompt)))

    return batch.CallableStrategy(invoke)
