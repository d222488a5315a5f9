"""Which run it is, and what was written down in it.

Invariant: two equal cases make the same run, step for step, on every Python and whatever the hash seed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, fields
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

from tests.simulation.policies import Plan
from tests.simulation.scenario import Scenario

__all__ = ["AtReturn", "Case", "Entered", "Event", "Interrupt", "Log", "NotAwaitable", "Quiet", "Record"]

What: TypeAlias = Literal[
    # The loop, and the caller of the map
    "quiet",
    "cancel",
    "shutdown",
    "cancel arrives",
    # The input
    "source asked",
    "pull",
    "source ends",
    "source fails",
    "source cancelled",
    # An item
    "enter",
    "cancelled",
    "cancels itself",
    "return",
    "raise",
    "callback",
    "limit breaks",
    # The map, and the consumer of a stream
    "call",
    "want",
    "result",
    "stats",
    "drain",
    "pause",
    "resume",
    "limit",
    "leave",
    "list",
    "error",
    "end",
    "at return",
    # What the judge could not see for himself
    "wrong",
]


class Interrupt(KeyboardInterrupt):
    """One that no keyboard made, so that a real Ctrl-C still ends the tests."""


class NotAwaitable(Exception):
    """Stands for the failure of an item whose function returned something that cannot be awaited."""


@dataclass(frozen=True, repr=False)
class Case:
    """What determines a run.

    cancels: before these steps of the loop, from 1, the caller of the map is cancelled.
    shutdown: before this step every task is cancelled, the caller too, as `asyncio.run` does at its end.
    collect: the garbage collector runs before every step.
    eager, debug: with `asyncio.eager_task_factory`; in asyncio's debug mode.
    policies: with the policies that belong to the scenario.
    """

    scenario: int
    schedule: int
    cancels: tuple[int, ...] = ()
    shutdown: int | None = None
    collect: bool = False
    eager: bool = False
    debug: bool = False
    policies: bool = False

    def __repr__(self) -> str:
        given = [(each.name, getattr(self, each.name), each.default) for each in fields(self)]
        return f"Case({', '.join(f'{name}={value!r}' for name, value, default in given if value != default)})"


class Event(NamedTuple):
    """at: virtual seconds; item: its index, -1 for none; of: the number of the map."""

    at: float
    what: What
    item: int
    detail: Any
    of: int = 0


class Entered(NamedTuple):
    """How an attempt begins in a run with policies: its slot, its number, and how many the `Adaptive` allows."""

    slot: int
    attempt: int
    capacity: int


class Quiet(NamedTuple):
    """How a run with policies was when time went on.

    since: the moment until which it had stood still. pulled: items taken from the input, as `stats` tell.
    capacity: when the `Adaptive` would let an attempt start.
    """

    since: float
    pulled: int
    capacity: float


class AtReturn(NamedTuple):
    """How things are in the very step in which the map gives control back for good."""

    alive: list[str]
    cancelling: int
    variable_kept: bool
    source_open: bool


@dataclass
class Log:
    """Where the notes are taken. of: the number of the map that they are about."""

    loop: asyncio.AbstractEventLoop
    events: list[Event] = field(default_factory=list)
    of: int = 0

    def note(self, what: What, item: int = -1, detail: Any = None) -> None:
        """Writes down one event."""
        self.events.append(Event(self.loop.time(), what, item, detail, self.of))

    async def sleep(self, seconds: float, noted_if_cancelled: What, item: int = -1) -> None:
        """Sleeps, and writes it down if that is cut short."""
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.note(noted_if_cancelled, item)
            raise


@dataclass(frozen=True)
class Record:
    """What there was to see of a run.

    library: the copy of aiomap that was used.
    plan: the policies, if it had any; unclean: what the limits still held at the end.
    crash: what the loop itself ended with, a `Deadlock` for one.
    leaked: the tasks alive at the end; unhandled: what reached the loop's exception handler.
    steps, trace: as `SimLoop` gives them.
    """

    case: Case
    scenario: Scenario
    library: ModuleType
    events: list[Event]
    crash: BaseException | None
    leaked: list[str]
    unhandled: list[str]
    steps: int
    trace: str
    plan: Plan | None = None
    unclean: tuple[str, ...] = ()
