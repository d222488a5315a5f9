"""What a run has come to: how many items ended how, and where the time of its slots went.

Invariant: what every item would have to count is not counted. It follows from the index of the items that run.
"""

from __future__ import annotations

from typing import Final

from aiomap._outcome import Stats
from aiomap._slot_time import SlotTime

__all__ = ["Tally"]


class Tally:
    """The counts of one run: items that failed, that were left out, and that were cut short."""

    __slots__ = ("cut", "failed", "skipped", "slot_time")

    def __init__(self) -> None:
        self.failed = self.skipped = self.cut = 0
        self.slot_time: Final = SlotTime()

    def stats(self, *, begun: int, running: int, waiting: int, retrying: int, buffered: int, now: float) -> Stats:
        """A snapshot, given the items that run or have ended (`begun`) and those that are somewhere else."""
        return Stats(
            pulled=begun + waiting + retrying,
            running=running,
            waiting=waiting,
            retrying=retrying,
            done=begun - running - self.failed - self.skipped - self.cut,
            failed=self.failed,
            skipped=self.skipped,
            cancelled=self.cut,
            buffered=buffered,
            slot_seconds=self.slot_time.until(now),
        )
