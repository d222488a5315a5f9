"""An item on its way: taken from the input, and not ended for good.

Invariant: there is one record for each item of a run that has policies, and it goes with the item through all attempts.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Pending"]


class Pending:
    """What the policies know of an item."""

    __slots__ = (
        "calls",
        "claims",
        "failures",
        "first_start",
        "index",
        "item",
        "refusal",
        "started",
        "throttled_at",
        "throttled_for",
        "tickets",
        "waited",
    )

    claims: list[Any]  # what it asks of each limit
    tickets: list[Any]  # what each limit gave to its last attempt
    started: float  # when that started
    first_start: float

    def __init__(self, index: int, item: Any) -> None:
        self.index = index
        self.item = item
        self.calls = 0
        self.failures = 0  # those of its attempts that count: throttled ones do not
        self.refusal: Exception | None = None  # why it can never start
        self.throttled_at: float | None = None
        self.throttled_for = 0.0  # seconds
        self.waited = 0.0  # seconds of back-off
