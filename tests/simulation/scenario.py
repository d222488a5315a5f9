"""What happens in one run of a map: the call's arguments, and how input, items and consumer behave.

Invariant: a scenario depends on its seed alone. All randomness is drawn here and none while it runs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, TypeAlias

__all__ = ["Consumer", "Ending", "Item", "Scenario", "WhenCancelled", "draw"]

Verb: TypeAlias = Literal["amap", "aimap", "aoutcomes"]
Source: TypeAlias = Literal["list", "iterator", "async iterator"]
Policy: TypeAlias = Literal["raise", "return", "skip"]


class Ending(StrEnum):
    """What an item does after its sleeps."""

    RETURNS = "returns"
    RAISES = "raises ValueError"
    RAISES_CANCELLED = "raises a CancelledError of its own"
    STOPS_ASYNC = "raises StopAsyncIteration"
    STOPS_AT_CALL = "raises StopIteration before it returned an awaitable"
    CANCELS_ITSELF_AND_SLEEPS = "cancels its own task, then sleeps"
    CANCELS_ITSELF_AND_RETURNS = "cancels its own task, then returns"
    SETS_VARIABLE = "sets a context variable"
    SETS_EQUAL_VALUE = "sets a context variable to an equal, but other, value"
    SKIPS = "returns SKIP"
    NOT_AWAITABLE = "returns something that cannot be awaited"
    INTERRUPTS = "raises KeyboardInterrupt"
    # In runs with policies only.
    FAILS = "raises ConnectionResetError"
    IS_REFUSED = "raises ConnectionRefusedError"
    IS_THROTTLED = "raises Throttled"
    ANSWERS_429 = "raises an error of an HTTP client with status 429"


class WhenCancelled(StrEnum):
    """What an item does when it is cancelled in one of its sleeps."""

    ENDS = "ends"
    CLEANS_UP = "sleeps in its cleanup, as it also does without a cancel"
    SWALLOWS = "swallows the cancel, sleeps, and goes on to its ending"
    RAISES = "raises LookupError"
    INTERRUPTS = "raises KeyboardInterrupt"
    # In runs with policies only.
    IGNORES = "swallows the cancel, sleeps for longer than any grace, and goes on to its ending"


class Consumer(StrEnum):
    """How the results of a stream are taken."""

    QUICK = "takes all at once"
    SLOW = "sleeps after each"
    BREAKS = "leaves early"
    GOES_ON = "catches a cancel and goes on"
    DRAINS = "calls drain() early"
    PAUSES = "pauses the stream early, and resumes it 2 seconds later"
    CHANGES_LIMIT = "sets another max_concurrent_tasks early"


@dataclass(frozen=True, slots=True)
class Item:
    """sleeps: seconds, one after the other; busy: seconds for which it then holds up the loop."""

    sleeps: tuple[int, ...]
    busy: float
    ending: Ending
    when_cancelled: WhenCancelled


@dataclass(frozen=True, slots=True)
class Scenario:
    """The arguments of the call, and how everything behaves.

    source_sleeps: seconds before each item of an async source; `None` if it never suspends.
    source_fails_at: it raises in the place of this item; `None` if it ends well.
    callback_fails_for: the item for which `callback`, if there is one, raises.
    acts_at: after how many results the consumer breaks, drains, pauses or sets `other_limit`.
    """

    verb: Verb
    ordered: bool
    limit: int
    buffer: int | None
    on_error: Policy
    isolate: bool
    callback: bool
    caller_has_variables: bool
    source: Source
    source_sleeps: int | None
    source_fails_at: int | None
    source_sets_variable: bool
    source_cleans_up: bool
    consumer: Consumer
    acts_at: int
    other_limit: int
    items: tuple[Item, ...]
    callback_fails_for: int | None

    def hands_over(self) -> int:
        """How many items the source has to give."""
        return len(self.items) if self.source_fails_at is None else self.source_fails_at


# Each as often as it stands here.
_VERBS: Final[tuple[Verb, ...]] = ("amap", "aimap", "aimap", "aoutcomes")
_SOURCES: Final[tuple[Source, ...]] = ("list", "iterator", "async iterator", "async iterator")
_POLICIES: Final[tuple[Policy, ...]] = ("raise", "return", "skip")
_ENDINGS: Final = dict.fromkeys(list(Ending)[:12], 4) | {Ending.SKIPS: 10, Ending.INTERRUPTS: 1}
_MANNERS: Final = dict(zip(list(WhenCancelled)[:5], (3, 4, 4, 2, 2), strict=True))


def draw(seed: int) -> Scenario:
    """The scenario of a seed.

    Each has a few kinds of ending only: with all of them at once, the first failure would end every run early.
    """
    dice = random.Random(seed)
    kinds = [Ending.RETURNS, *dice.choices(list(_ENDINGS), list(_ENDINGS.values()), k=dice.randint(1, 3))]
    manners = [WhenCancelled.ENDS, *dice.choices(list(_MANNERS), list(_MANNERS.values()), k=2)]
    items = tuple(_item(dice, kinds, manners) for _ in range(dice.randint(0, 9)))
    source = dice.choice(_SOURCES)
    verb = dice.choice(_VERBS)
    return Scenario(
        verb=verb,
        ordered=dice.random() < 0.6,
        limit=dice.randint(1, 4),
        buffer=dice.choice((None, 0, 0, 1, 1, 2)),
        on_error="return" if verb == "aoutcomes" else dice.choice(_POLICIES),
        isolate=dice.random() < 0.2,
        callback=dice.random() < 0.3,
        caller_has_variables=dice.random() < 0.5,
        source=source,
        source_sleeps=dice.choice((None, 0, 1, 2)),
        source_fails_at=dice.randint(0, len(items)) if source != "list" and dice.random() < 0.2 else None,
        source_sets_variable=dice.random() < 0.5,
        source_cleans_up=dice.random() < 0.5,
        consumer=dice.choice(tuple(Consumer)),
        acts_at=dice.randint(0, 4),
        other_limit=dice.randint(1, 4),
        items=items,
        callback_fails_for=dice.choice((None, None, 0, 2, 4)),
    )


def _item(dice: random.Random, kinds: list[Ending], manners: list[WhenCancelled]) -> Item:
    sleeps = tuple(dice.choice((0, 1, 1, 2)) for _ in range(dice.randint(0, 3)))
    return Item(sleeps, dice.choice((0.0, 0.0, 0.0, 0.02)), dice.choice(kinds), dice.choice(manners))
