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
    JournalChanged,
    JournalDamaged,
    JournalError,
    JournalLocked,
    MissingExtra,
    RecordedFailure,
    Throttled,
    TooManyFailures,
    UnrecordableResult,
)

if typing.TYPE_CHECKING:
    from aiomap._retry import Retry
    from aiomap.journal import Journal
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
    "Journal",
    "JournalChanged",
    "JournalDamaged",
    "JournalError",
    "JournalLocked",
    "Limit",
    "MissingExtra",
    "OnError",
    "Outcome",
    "PerKey",
    "Rate",
    "RecordedFailure",
    "Retry",
    "Stats",
    "Stream",
    "Throttled",
    "Tolerate",
    "TooManyFailures",
    "UnrecordableResult",
    "aimap",
    "amap",
    "aoutcomes",
    "current",
    "in_process",
    "in_thread",
    "run",
]

_LATER: typing.Final = {
    "Adaptive": "aiomap.limits.adaptive",
    "Journal": "aiomap.journal",
    "Limit": "aiomap.limits.limit",
    "PerKey": "aiomap.limits.per_key",
    "Rate": "aiomap.limits.rate",
    "Retry": "aiomap._retry",
}


def __getattr__(name: str) -> typing.Any:
    """Imports what most runs do not need on its first use (PEP 562): until then it costs nothing."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    thing = globals()[name] = getattr(import_module(_LATER[name]), name)
    return thing


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
