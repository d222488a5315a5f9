"""Where the time of the slots went, in slot-seconds.

Invariant: the sum over all reasons is the integral of the number of slots over time. Nothing is booked per item: only
when the number of workers, or the reason for a free slot, changes.
"""

from __future__ import annotations

__all__ = ["SlotTime"]


class SlotTime:
    """A ledger with one account per reason."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = dict.fromkeys(
            ("function", "source", "limit", "gate", "backoff", "consumer", "idle"), 0.0
        )
        self._since = 0.0
        self._taken = self._free = 0
        self._reason = "idle"

    def book(self, now: float, taken: int, free: int, reason: str) -> None:
        """From `now` on, `taken` slots run an attempt and the `free` ones do not, for this reason."""
        passed, self._since = now - self._since, now
        self._seconds["function"] += passed * self._taken
        self._seconds[self._reason] += passed * self._free
        self._taken, self._free, self._reason = taken, free, reason

    def until(self, now: float) -> dict[str, float]:
        """The accounts, booked up to `now`."""
        self.book(now, self._taken, self._free, self._reason)
        return dict(self._seconds)
