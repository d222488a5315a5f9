"""Where the time of the slots went, in slot-seconds.

Invariant: the sum over all reasons is the integral of the number of slots over time. Nothing is booked per item: only
when the number of workers or the reason for a free slot changes.
"""

from __future__ import annotations

__all__ = ["SlotTime"]


class SlotTime:
    """A ledger with one account per reason."""

    __slots__ = ("_seconds", "_since")

    def __init__(self) -> None:
        self._since = 0.0
        self._seconds = dict.fromkeys(("function", "source", "limit", "gate", "backoff", "consumer", "idle"), 0.0)

    def open(self, now: float) -> None:
        """Time counts from `now` on."""
        self._since = now

    def book(self, now: float, taken: int, slots: int, reason: str) -> None:
        """Since the last call, `taken` of the slots ran an attempt, and the rest were free for this reason."""
        passed, self._since = now - self._since, now
        if passed > 0:
            self._seconds["function"] += passed * taken
            self._seconds[reason] += passed * max(0, slots - taken)

    def seconds(self) -> dict[str, float]:
        """A copy of the accounts."""
        return dict(self._seconds)
