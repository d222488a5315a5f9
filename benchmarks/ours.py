"""aiomap, called as its users call it.

Invariant: the same shapes as the adapters in `peers`, imported as late as they are, and not one option that
the plain user would not set.
"""

from __future__ import annotations

from handwritten import Function, StreamOf


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
