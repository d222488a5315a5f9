"""What a sitting is to do, and why it may end before its input does.

Invariant: a plan is complete before anything runs, and nothing changes it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from aiomap._retry import Retry
    from aiomap.inputs import Entry
    from aiomap.journal import Journal
    from aiomap.limits.adaptive import Adaptive
    from aiomap.limits.limit import Limit

__all__ = ["Plan", "Stop"]


class Stop(Enum):
    """Why a sitting ended before its input did."""

    INTERRUPTED = "stopped by Ctrl-C"
    TERMINATED = "stopped by SIGTERM"
    HUNG_UP = "stopped by SIGHUP"
    HALTED = "halted: too many items failed"
    OUT_OF_TIME = "out of time"


@final
@dataclass(frozen=True)
class Plan:
    """What a sitting is to do.

    function: called with an item; with what `setup` gives as well, if there is one.
    setup: gives an async context manager, entered once, whose value is the function's second argument.
    writes: whether the function writes files of ours, so that an `OSError` of it is no failure of the item.
    halt: whether a run of so many failed and so many ended items is hopeless.
    max_time: seconds after which nothing new is started; `None`: no bound.
    """

    function: Callable[..., Awaitable[Any]]
    entries: Iterable[Entry]
    max_concurrent_tasks: int | Adaptive
    setup: Callable[[], Any] | None = None
    timeout: float | None = None
    retry: Retry | None = None
    limits: list[Limit] = field(default_factory=list["Limit"])
    journal: Journal | None = None
    ordered: bool = False
    writes: bool = False
    halt: Callable[[int, int], bool] = lambda _, __: False
    max_time: float | None = None
