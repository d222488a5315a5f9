"""What a run has come to: how many items ended how, and where the time of its slots went.

Invariant: what every item would have to count is not counted. It follows from the index of the items that run.
"""

from __future__ import annotations

from typing import Final

from aiomap._outcome import Stats
from aiomap._run import Run
from aiomap._slot_time import SlotTime
from aiomap._source import Source

__all__ = ["Tally"]


class Tally:
    """The counts of one run: items that failed, that were left out, and that were cut short."""

    __slots__ = ("cut", "failed", "skipped", "slot_time")

    def __init__(self) -> None:
        self.failed = self.skipped = self.cut = 0
        self.slot_time: Final = SlotTime()

    def stats(self, run: Run, source: Source, *, begun: int, recorded: int) -> Stats:
        """A snapshot, given the counts of items that run or have ended, and of those that an earlier run recorded."""
        running = len(run.workers) - run.unstarted
        return Stats(
            pulled=begun + source.waiting + source.retrying + recorded,
            running=running,
            waiting=source.waiting,
            retrying=source.retrying,
            done=begun - running - self.failed - self.skipped - self.cut,
            failed=self.failed,
            skipped=self.skipped,
            cancelled=self.cut,
            recorded=recorded,
            buffered=0 if run.outbox is None else run.outbox.held() - run.outbox.reserved,
            slot_seconds=self.slot_time.until(run.now()),
        )
