"""aiomap, called as its users call it.

Invariant: the same shapes as the adapters in `peers`, imported as late as they are, and not one option that
the plain user would not set. Policies are those of a careful user, and never bind.
"""

from __future__ import annotations

from typing import Any

from handwritten import Function, StreamOf

# Its log is full after 1,000 starts, as that of a real one soon is; and no map starts 10,000,000 items a second.
NEVER_BINDS = (1_000, 0.0001)


async def in_a_list(function: Function, data: list[int], limit: int) -> list[int]:
    """Map into a list."""
    from aiomap import amap

    return await amap(function, data, limit)


async def isolated_in_a_list(function: Function, data: list[int], limit: int) -> list[int]:
    """Map into a list with a new task for every item."""
    from aiomap import amap

    return await amap(function, data, limit, isolate=True)


def ordered(function: Function, data: list[int], limit: int) -> StreamOf:
    """Stream the results in input order."""
    from aiomap import aimap

    return aimap(function, data, limit)


def unordered(function: Function, data: list[int], limit: int) -> StreamOf:
    """Stream the results as completed."""
    from aiomap import aimap

    return aimap(function, data, limit, ordered=False)


async def at_a_rate(function: Function, data: list[int], limit: int, rate: int) -> list[int]:
    """Map into a list, with at most so many starts in any second."""
    from aiomap import Rate, amap

    return await amap(function, data, limit, limits=[Rate(rate)])


async def with_timeout(function: Function, data: list[int], limit: int) -> list[int]:
    """Map into a list, with a minute for each item."""
    return await _under(function, data, limit, timeout=60)


async def with_retry(function: Function, data: list[int], limit: int) -> list[int]:
    """Map into a list, with second chances."""
    from aiomap import Retry

    return await _under(function, data, limit, retry=Retry(on=ConnectionError))


async def with_rate(function: Function, data: list[int], limit: int) -> list[int]:
    """Map into a list, with a rate."""
    from aiomap import Rate

    return await _under(function, data, limit, limits=[Rate(*NEVER_BINDS)])


async def with_all_three(function: Function, data: list[int], limit: int) -> list[int]:
    """Map into a list, with all of them."""
    from aiomap import Rate, Retry

    policies = {"timeout": 60, "retry": Retry(on=ConnectionError), "limits": [Rate(*NEVER_BINDS)]}
    return await _under(function, data, limit, **policies)


async def _under(function: Function, data: list[int], limit: int, **policies: Any) -> list[int]:
    from aiomap import amap

    return await amap(function, data, limit, **policies)
