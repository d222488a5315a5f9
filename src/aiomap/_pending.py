"""An item on its way: taken from the input, and not ended for good.

Invariant: there is one record for each item of a run that has policies, and it goes with the item through all attempts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Pending"]


class Pending:
    """What the policies know of an item."""

    # Most items are started once and succeed. Defaults in the class make their records quick to make.
    calls: int = 0
    failures: int = 0  # those of its attempts that count: throttled ones do not
    refusal: Exception | None = None  # why it can never start
    throttled_at: float | None = None
    throttled_for: float = 0.0  # seconds
    waited: float = 0.0  # seconds of back-off
    claims: Sequence[Any] = ()  # what it asks of each limit
    tickets: Sequence[Any] = ()  # what each limit gave to its last attempt
    started: float  # when that started
    first_start: float

    def __init__(self, index: int, item: Any) -> None:
        self.index = index
        self.item = item
