"""Results that an earlier run has recorded, on their way into their places.

Invariant: until a result is there its place is kept: in a list it stands empty, in a stream it counts as started and
not yet delivered. They are read by the journal's thread, in groups, and delivered in the order in which they were asked
for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from aiomap._call import Call
from aiomap._pending import Pending
from aiomap._run import Run
from aiomap._verdict import Halt
from aiomap.errors import JournalDamaged
from aiomap.journal.file import JournalFile
from aiomap.journal.record import outcome_of
from aiomap.journal.rows import DONE, FAILED, Row
from aiomap.journal.serializers import Serializer
from aiomap.journal.writer import Writer

__all__ = ["MOST_RECALLS", "Recall", "Recalls"]

MOST_RECALLS: Final = 1024
"""Items whose results may be on their way at a time."""

# How many of them make a group.
_GROUP: Final = 512


class Recall(NamedTuple):
    """An item, and the row that has its result."""

    position: int
    item: Any
    name: tuple[bytes, int]  # key and occurrence, as the row has them
    row: int


class Recalls:
    """Those of one run.

    epoch: when the run began, in seconds since 1970.
    value: what stands in the place of a success; `None` if that is the value itself. error: the same for a failure.
    """

    def __init__(
        self,
        run: Run,
        writer: Writer,
        file: JournalFile,
        values: Serializer,
        *,
        epoch: float,
        value: Callable[[Call, Any], Any] | None,
        error: Callable[[Call, Exception, Callable[[], int]], Any],
    ) -> None:
        self.asked = 0
        self.waiting = 0  # of those, the ones that are not there yet: at most MOST_RECALLS
        self.moved = 0  # items that stand at another place in the input than they did then
        self._run, self._writer, self._file, self._values = run, writer, file, values
        self._epoch, self._value, self._error = epoch, value, error
        self._group: list[Recall] = []
        self._sending = False  # `send` will be called in the next turn of the loop

    def ask(self, recall: Recall) -> None:
        """Has the item's result read, and put into its place."""
        self.asked += 1
        self.waiting += 1
        run = self._run
        if run.outbox is None:
            run.results.append(None)
        else:
            run.outbox.reserve(1)
        self._group.append(recall)
        if len(self._group) == _GROUP:
            self.send()
        elif not self._sending:
            self._sending = True
            run.loop.call_soon(self.send)

    def send(self) -> None:
        """Has the group that there is read now."""
        self._sending = False
        if not self._group:
            return
        group, self._group = self._group, []
        file, values, ids = self._file, self._values, [recall.row for recall in group]

        def read() -> list[tuple[Row, Any]]:
            rows = file.recall(ids)
            return [(row, outcome_of(file.path, values, row)) for row in rows]

        self._writer.do(read).add_done_callback(lambda read: self._arrived(group, read))

    def _arrived(self, group: list[Recall], read: asyncio.Future[list[tuple[Row, Any]]]) -> None:
        run = self._run
        self.waiting -= len(group)
        if run.outbox is not None:
            run.outbox.reserve(-len(group))
        error = read.exception()
        if error is not None:
            run.stop(error)
            return
        for recall, (row, value) in zip(group, read.result(), strict=True):
            if row[:2] != recall.name:
                run.stop(JournalDamaged(self._file.path, f"row {recall.row} is not the one that was recorded there"))
                return
            self.moved += row[3] != recall.position
            self._deliver(recall, row, value)
        run.fill()

    def _deliver(self, recall: Recall, row: Row, value: Any) -> None:
        if row[2] == FAILED:
            value = self._error(self._call(recall, row), value, lambda: self.asked)
            if isinstance(value, Halt):
                self._run.stop(value.error)
                return
        elif row[2] == DONE and self._value is not None:
            value = self._value(self._call(recall, row), value)
        self._run.place(recall.position, value)

    def _call(self, recall: Recall, row: Row) -> Call:
        """As if its worker were here."""
        call = Call(-1)
        call.index, call.item = recall.position, recall.item
        call.pending = Pending(recall.position, recall.item)
        call.pending.calls = row[4]
        # Always before this run began, even if the clock was set back since.
        call.elapsed = row[6] / 1e6
        call.started = -max(self._epoch - row[5] / 1e6, call.elapsed, 1e-6)
        return call
