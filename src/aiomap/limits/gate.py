"""The gate that a throttle closes: for a while nothing starts, then everything may again.

Invariant: a burst of throttles is one closing, however many attempts report it. The gate opens no earlier than the
latest moment that the remote asked for.
"""

from __future__ import annotations

import math
from typing import Any, Final, final

from aiomap.limits.limit import Ending

__all__ = ["Gate", "cool_down"]

# Seconds, when the remote does not say how long: the first closing, the growth with each one that follows without a
# success in between, the most, and how far chance may move it.
_FIRST: Final = 0.5
_GROWTH: Final = 1.5
_MOST: Final = 30.0
_JITTER: Final = 0.2


@final
class Gate:
    """A limit that does nothing until an attempt was throttled.

    >>> gate = Gate()
    >>> ticket = gate.started(None, now=1.0)
    >>> gate.ended(ticket, 2.0, "throttled", retry_after=10)
    >>> gate.next_start(None, now=2.0)
    12.0
    """

    __slots__ = ("opens", "strikes")

    def __init__(self) -> None:
        self.opens = -math.inf
        self.strikes = 0

    def claim(self, item: Any) -> None:
        """Nothing: all items are alike."""

    def next_start(self, claim: Any, now: float) -> float:  # noqa: ARG002
        """When it opens."""
        return self.opens

    def closed_until(self, claim: Any) -> float:  # noqa: ARG002
        """When it opens, as `next_start`: it knows no other reason to hold anything back."""
        return self.opens

    def started(self, claim: Any, now: float) -> float:  # noqa: ARG002
        """The ticket is the time of the start."""
        return now

    def ended(self, ticket: float, now: float, ending: Ending, retry_after: float | None) -> None:
        """Closes it at a throttle, for `retry_after` seconds, or longer each time if the remote does not say."""
        # What started before it closed says nothing new, unless it says how long.
        fresh = ticket >= self.opens
        if ending == "throttled":
            self.strikes += fresh
            wait = retry_after or (cool_down(self.strikes) if fresh else 0.0)
            # A latecomer must not move it: what has started since it opened would be late too, and so on for ever.
            if wait:
                self.opens = max(self.opens, now + wait)
        elif ending == "success" and fresh:
            self.strikes = 0

    def is_idle(self, now: float) -> bool:
        """Whether a new gate would do as well."""
        return self.opens <= now and not self.strikes


def cool_down(strikes: int) -> float:
    """Seconds to leave a remote alone that does not say for how long, at the so-manieth time without a success."""
    # A policy costs nothing until it is used, and importing `random` takes longer than most modules here.
    from random import uniform

    grown = _FIRST * _GROWTH ** min(strikes - 1, 99)
    return min(_MOST, grown) * uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  (no secret is made of it)
