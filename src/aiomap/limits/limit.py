"""What a limit is: the four questions that a run asks of each of its limits.

Invariant: a limit is a pure state machine. It never waits, reads no clock and makes no task; `now` is passed in. So it
can be tested with made-up times, and shared between maps by passing the same object to both.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias

__all__ = ["Ending", "Limit"]

Ending: TypeAlias = Literal["success", "throttled", "overloaded", "other"]
"""How an attempt ended, as far as a limit cares.

success: the function returned.
throttled: the remote said that it is too much (`Throttled`, HTTP 429 or 503), and nobody nearer to it closed a gate.
overloaded: a sign of it: a timeout, a refused connection.
other: nothing that says anything about load: another error, a cancel, a throttle that was another limit's business.
"""


class Limit(Protocol):
    """Says when the next attempt may start, and is told of starts and ends. Write your own by these four methods.

    All times are seconds of one monotonic clock. The methods are called in one thread, and must not raise. A run that
    has several limits starts an attempt when all of them allow it, and then tells all of them in one step.

    >>> class Weight:
    ...     '''At most so many bytes on their way at once.'''
    ...     def __init__(self, most: int) -> None:
    ...         self.free = most
    ...     def claim(self, item: bytes) -> int:
    ...         return len(item)
    ...     def next_start(self, claim: int, now: float) -> float:
    ...         return now if claim <= self.free else float("inf")
    ...     def started(self, claim: int, now: float) -> int:
    ...         self.free -= claim
    ...         return claim
    ...     def ended(self, ticket: int, now: float, ending: str, retry_after: float | None) -> None:
    ...         self.free += ticket
    """

    def claim(self, item: Any) -> Any:
        """What an attempt for the item asks of this limit: a weight, a key. Called once per item."""
        ...

    def next_start(self, claim: Any, now: float) -> float:
        """When an attempt may start: `now` or earlier if at once, inf if not before another one has ended.

        Asked as often as the run likes; asking changes nothing.
        """
        ...

    def started(self, claim: Any, now: float) -> Any:
        """An attempt starts at this moment. What this returns is given back to `ended`."""
        ...

    def ended(self, ticket: Any, now: float, ending: Ending, retry_after: float | None) -> None:
        """The attempt ended. retry_after: seconds that the remote asked for (with `"throttled"`), `None` if it did not.

        Called once for each `started`.
        """
        ...
