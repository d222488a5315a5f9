"""Apply an async function to many inputs, a few at a time, without overwhelming anyone, and lose nothing.

pages = await amap(fetch, links, max_concurrent_tasks=10)      # a list, in input order
"""

from __future__ import annotations

import typing

from aiomap._blocking import in_process, in_thread
from aiomap._call import Current, current
from aiomap._map import aimap, amap, aoutcomes, run
from aiomap._on_error import OnError, Tolerate
from aiomap._outcome import SKIP, Outcome, Stats
from aiomap._stream import Stream
from aiomap.errors import (
    AiomapError,
    AttemptTimeout,
    CallbackError,
    CostAboveRate,
    ItemCancelled,
    MissingExtra,
    Throttled,
    TooManyFailures,
)

if typing.TYPE_CHECKING:
    from aiomap._retry import Retry
    from aiomap.limits.adaptive import Adaptive
    from aiomap.limits.limit import Limit
    from aiomap.limits.per_key import PerKey
    from aiomap.limits.rate import Rate

__all__ = [
    "SKIP",
    "Adaptive",
    "AiomapError",
    "AttemptTimeout",
    "CallbackError",
    "CostAboveRate",
    "Current",
    "ItemCancelled",
    "Limit",
    "MissingExtra",
    "OnError",
    "Outcome",
    "PerKey",
    "Rate",
    "Retry",
    "Stats",
    "Stream",
    "Throttled",
    "Tolerate",
    "TooManyFailures",
    "aimap",
    "amap",
    "aoutcomes",
    "current",
    "in_process",
    "in_thread",
    "run",
]

_POLICIES: typing.Final = {
    "Adaptive": "aiomap.limits.adaptive",
    "Limit": "aiomap.limits.limit",
    "PerKey": "aiomap.limits.per_key",
    "Rate": "aiomap.limits.rate",
    "Retry": "aiomap._retry",
}


def __getattr__(name: str) -> typing.Any:
    """Imports a policy on its first use (PEP 562): until then it costs nothing."""
    if name not in _POLICIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    policy = globals()[name] = getattr(import_module(_POLICIES[name]), name)
    return policy


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
