"""Who takes part, with which adapter, and over how many items.

Invariant: a timed run of anybody lasts about 0.1 s, so the slow ones get fewer items; figures are per item.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeAlias

import handwritten
import ours
import peers
from handwritten import Function, StreamOf

ListMap: TypeAlias = Callable[[Function, list[int], int], Awaitable[list[Any]]]
StreamMap: TypeAlias = Callable[[Function, list[int], int], StreamOf]

AIOMAP = "aiomap"
ISOLATED = "aiomap, isolate=True"
BARE_LOOP = "bare loop"
FLOOR = "n workers, one iterator"
PLAIN_QUEUE = "n workers, one queue"
ALL_POLICIES = "timeout + retry + Rate"


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to map a function over data.

    `items` is the length of a timed run, `package` the distribution that it comes from (None: written by
    hand). `bounded` says whether it can hold the concurrency down. `guarded` is a list made under policies.
    """

    name: str
    items: int
    package: str | None = None
    in_a_list: ListMap | None = None
    ordered: StreamMap | None = None
    unordered: StreamMap | None = None
    bounded: bool = True
    guarded: ListMap | None = None

    @property
    def module(self) -> str | None:
        """What one imports of the package."""
        return self.package and self.package.replace("-", "_")


BY_HAND = (
    Contender(BARE_LOOP, 200_000, in_a_list=handwritten.bare_loop),
    Contender(FLOOR, 200_000, in_a_list=handwritten.worker_floor),
    Contender(PLAIN_QUEUE, 100_000, in_a_list=handwritten.plain_queue),
)

OURS = (
    Contender(AIOMAP, 200_000, "aiomap", ours.in_a_list, ours.ordered, ours.unordered),
    Contender(ISOLATED, 20_000, in_a_list=ours.isolated_in_a_list),
)

POLICIES = (
    Contender("timeout", 100_000, guarded=ours.with_timeout),
    Contender("retry", 100_000, guarded=ours.with_retry),
    Contender("Rate", 100_000, guarded=ours.with_rate),
    Contender(ALL_POLICIES, 100_000, guarded=ours.with_all_three),
)

PEERS = (
    Contender("published recipe", 20_000, in_a_list=handwritten.published_recipe),
    Contender("semaphore + gather", 20_000, in_a_list=handwritten.semaphore_gather),
    Contender("asyncio.wait window", 20_000, unordered=handwritten.wait_window),
    Contender("tasklane", 20_000, "tasklane", peers.tasklane_list, None, peers.tasklane_unordered),
    Contender(
        "streamable",
        20_000,
        "streamable",
        peers.streamable_list,
        peers.streamable_ordered,
        peers.streamable_unordered,
    ),
    Contender(
        "pyarallel",
        10_000,
        "pyarallel",
        peers.pyarallel_list,
        peers.pyarallel_ordered,
        peers.pyarallel_unordered,
    ),
    Contender("tqdm.asyncio gather", 10_000, "tqdm", peers.tqdm_list, bounded=False),
    Contender("aiometer", 2_000, "aiometer", peers.aiometer_list, None, peers.aiometer_unordered),
    Contender("anyio.amap", 2_000, "anyio", peers.anyio_list, bounded=False),
    Contender(
        "aiostream",
        1_000,
        "aiostream",
        peers.aiostream_list,
        peers.aiostream_ordered,
        peers.aiostream_unordered,
    ),
    Contender(
        "async-batch-llm",
        300,
        "async-batch-llm",
        peers.async_batch_llm_list,
        None,
        peers.async_batch_llm_unordered,
    ),
)

NOT_MAPS = ("aiohttp", "aiolimiter", "joblib", "msgspec", "throttler")

CONTENDERS = {contender.name: contender for contender in (*OURS, *POLICIES, *BY_HAND, *PEERS)}


def versions() -> dict[str, str]:
    """Say which version of every package takes part."""
    packages = {contender.package for contender in CONTENDERS.values() if contender.package}
    return {package: _version(package) for package in sorted({*NOT_MAPS, *packages})}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
