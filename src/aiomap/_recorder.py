"""A run with a journal: it records what its items come to, and leaves out those that an earlier run has recorded.

Invariant: of each item that is pulled, either the worker's attempt is recorded before anything else can run, or it is
recalled and never handed to a worker. To the workers, or to the policies, this is the input.

What is recalled is read by the journal's thread, in groups. Until it is there its place is reserved: in a stream it
counts as started and not yet delivered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, TypeAlias, cast

from aiomap._call import Call
from aiomap._foreign import redacted
from aiomap._outbox import Durable
from aiomap._outcome import SKIP
from aiomap._pending import Pending
from aiomap._run import Run
from aiomap._source import Source
from aiomap._verdict import Halt
from aiomap.errors import CallbackError, ItemCancelled, JournalDamaged, UnrecordableResult
from aiomap.journal import Journal
from aiomap.journal.file import JournalFile
from aiomap.journal.fingerprint import fingerprint
from aiomap.journal.keys import key_of, label_of
from aiomap.journal.opening import open_for
from aiomap.journal.record import failure_of, value_of
from aiomap.journal.rows import DONE, FAILED, SKIPPED, Row
from aiomap.journal.serializers import Unencodable, serializer
from aiomap.journal.writer import Writer

__all__ = ["Recorder"]

_log: Final = logging.getLogger("aiomap.journal")

# Items that may wait to be recalled at a time, and how many make a group.
_MOST: Final = 1024
_GROUP: Final = 512
# Characters of a failure's message that are kept.
_MESSAGE: Final = 2000


_Name: TypeAlias = tuple[bytes, int, str | None]  # key, occurrence and label, as a row has them


class _KeyBroke(Exception):
    """The user's function raised: the cause."""


class _Recall(NamedTuple):
    """An item, and the row that has its result."""

    position: int
    item: Any
    key: bytes
    row: int


class Recorder:
    """One run's use of a journal.

    function: the mapped one.
    value: what stands in the place of a success, as in `Verdicts`; `None` if that is the value itself.
    recalled: the same, for a success of an earlier run.
    error: what stands in the place of a failure.
    """

    retrying: int = 0

    def __init__(
        self,
        journal: Journal,
        function: Callable[..., Any],
        *,
        value: Callable[[Call, Any], Any] | None,
        recalled: Callable[[Call, Any], Any] | None,
        error: Callable[[Call, Exception, Callable[[], int]], Any],
    ) -> None:
        self.begun = 0  # items handed out
        self.recorded = 0  # items that an earlier run has recorded
        self.shut = False
        self.why = "source"
        self.items: Iterator[tuple[int, Any]] = self
        self._journal = journal
        self._identity = {
            **fingerprint(function),
            "version": journal.version,
            "serializer": journal.serializer,
        }
        self._path = os.fspath(journal.path)
        self._value, self._recalled_value, self._error = value, recalled, error
        self._values = serializer(journal.serializer)
        # For each key: the row of the first item with it (above 0), or how many more of it were pulled (0 or below).
        self._known: dict[bytes, int] = {}
        # How many more items may be on their way. In a run with policies it is theirs that counts.
        self.room: Callable[[], int] = self._room
        self._names: dict[int, _Name] = {}  # of items that were pulled and have not ended
        self._ahead: list[tuple[int, Any]] = []  # at most one
        self._group: list[_Recall] = []
        self._recalls = 0  # items whose recorded result is not there yet
        self._sending: asyncio.Handle | None = None
        self._opened = self._held_back = self._closing = self._closed = self._cut_short = False
        self._earlier = self._moved = 0

    def attach(self, run: Run, source: Source) -> Source:
        """Stands before the source of that run, which has just begun; the journal is opened meanwhile."""
        self._run, self._source = run, source
        self._epoch = time.time() - (run.now() - run.began)
        self._durable = run.outbox if isinstance(run.outbox, Durable) else None
        self._file = file = JournalFile(self._path)
        self._writer = Writer(run.loop, file, self._committed, self._failed_to_write)
        journal, identity = self._journal, self._identity
        opened = self._writer.do(lambda: open_for(file, journal, identity, lambda: run.stopped))
        opened.add_done_callback(self._open)
        return self

    def _open(self, opened: asyncio.Future[dict[bytes, int]]) -> None:
        error = opened.exception()
        if error is not None:
            self._run.stop(error)
            return
        self._known = opened.result()
        self._earlier = len(self._known)
        self._opened = True
        self._run.fill()

    # The source.

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come, but for what waits."""
        return self._source.ended and not self._recalls

    @property
    def waiting(self) -> int:
        """Items taken from the input and not handed to a worker yet."""
        return self._source.waiting + len(self._ahead)

    def stop(self) -> None:
        """Takes nothing more from the input."""
        self._cut_short = self._cut_short or not self._source.ended
        self._source.stop()

    def close(self) -> None:
        """The same, and has the input closed."""
        self._cut_short = self._cut_short or not self._source.ended
        self._source.close()

    def available(self, most: int) -> int:
        """How many of the next `most` items may be there, or a few more; 0 only if none is."""
        try:
            if not self.more():
                return 0
            return min(most, 1 + self._source.available(max(0, most - 1)))
        except BaseException as error:
            self._run.source_failed(error)
            return 0 if self._run.stopped else self.available(most)

    def more(self) -> bool:
        """Whether there is an item to run."""
        self._held_back = self._opened and self._writer.behind
        if self._held_back or not self._opened:
            return False
        return bool(self._ahead) or self._find()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return self

    def __next__(self) -> tuple[int, Any]:
        if not self._ahead and not self.more():
            raise StopIteration
        self.begun += 1
        return self._ahead.pop()

    def _find(self) -> bool:
        """Takes items from the input until one is not recorded, or no more may wait to be recalled."""
        while self._recalls < _MOST and self.room() > 0:
            taken = next(self._source.items, None)
            if taken is None:
                return False
            try:
                name, row = self._look_up(taken[1])
            except Exception as error:
                self._run.stop(self._unknowable(taken[0], error))
                return False
            if not row:
                self._names[taken[0]] = name
                self._ahead.append(taken)
                return True
            self._recall_soon(_Recall(*taken, name[0], row))
        return False

    def _room(self) -> int:
        run = self._run
        if run.outbox is None:
            return _MOST
        # A worker that asks has room for the item that it asks for.
        return run.capacity - run.outbox.held() - len(run.workers) + (asyncio.current_task(run.loop) in run.workers)

    def _look_up(self, item: Any) -> tuple[_Name, int]:
        """What the item is known by, and the id of the row that has its result; 0 if there is none.

        To be asked once for each item that is pulled, since it counts those with the same key.
        """
        label = None
        if self._journal.key is not None:
            item = self._call_key(item)
            label = label_of(item)
        key, known = key_of(item), self._known
        row = known.get(key)
        if row is None or row > 0:  # the first one with this key
            known[key] = 0
            return (key, 0, label), row or 0
        occurrence = 1 - row
        known[key] = -occurrence
        return (key, occurrence, label), known.pop(key + occurrence.to_bytes(4, "big"), 0)

    def _call_key(self, item: Any) -> object:
        try:
            return cast("Callable[[Any], object]", self._journal.key)(item)
        except Exception as error:
            raise _KeyBroke from error

    def _unknowable(self, index: int, error: Exception) -> Exception:
        if isinstance(error, _KeyBroke):
            broken = CallbackError("key", index)
            broken.__cause__ = error.__cause__
            return broken
        whose = f"item {index}" if self._journal.key is None else f"what key gave for item {index}"
        return TypeError(f"the journal cannot know {whose} again: {error}")

    # What is recorded already.

    def _recall_soon(self, recall: _Recall) -> None:
        self.recorded += 1
        self._recalls += 1
        run = self._run
        if run.outbox is None:
            run.results.append(None)  # its place
        else:
            run.outbox.reserve(1)
        self._group.append(recall)
        if len(self._group) == _GROUP:
            self._recall()
        elif self._sending is None:
            self._sending = run.loop.call_soon(self._recall)

    def _recall(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        group, self._group = self._group, []
        path, values, ids = self._path, self._values, [recall.row for recall in group]

        def read() -> list[tuple[Row, Any]]:
            rows = self._file.recall(ids)
            return [(row, value_of(path, values, row[-1]) if row[2] == DONE else SKIP) for row in rows]

        self._writer.do(read).add_done_callback(lambda read: self._recalled(group, read))

    def _recalled(self, group: list[_Recall], read: asyncio.Future[list[tuple[Row, Any]]]) -> None:
        self._recalls -= len(group)
        if self._run.outbox is not None:
            self._run.outbox.reserve(-len(group))
        error = read.exception()
        if error is not None:
            self._run.stop(error)
            return
        for recall, (row, value) in zip(group, read.result(), strict=True):
            if row[0] != recall.key:
                self._run.stop(JournalDamaged(self._path, f"row {recall.row} is not the one that was recorded there"))
                return
            self._moved += row[3] != recall.position
            self._deliver(recall, row, value)
        self._run.fill()

    def _deliver(self, recall: _Recall, row: Row, value: Any) -> None:
        """Puts what an earlier run has recorded into its place."""
        if row[2] == FAILED:
            value = self._error(self._call_of(recall, row), failure_of(row[-1]), lambda: self.recorded + self.begun)
            if isinstance(value, Halt):
                self._run.stop(value.error)
                return
        elif row[2] == DONE and self._recalled_value is not None:
            value = self._recalled_value(self._call_of(recall, row), value)
        self._run.place(recall.position, value)

    def _call_of(self, recall: _Recall, row: Row) -> Call:
        call = Call(-1)
        call.index, call.item = recall.position, recall.item
        call.pending = Pending(recall.position, recall.item)
        call.pending.calls = row[4]
        # Below 0, as it was before this run; also if the clock was set back since.
        call.started, call.elapsed = min(row[5] - self._epoch, -row[6]), row[6]
        return call

    # What happens in this run.

    def succeeded(self, call: Call, value: Any) -> Any:
        """The verdict on an item that succeeded. UnrecordableResult if the journal could not give its value back."""
        if value is SKIP:
            self._record(call, SKIPPED, b"")
        else:
            try:
                body = self._values.encode(value)
            except Unencodable as error:
                raise UnrecordableResult(call.index, str(error)) from error
            self._record(call, DONE, body)
        return value if self._value is None else self._value(call, value)

    def failed(self, call: Call, error: Exception, ended: Callable[[], int]) -> Any:
        """The verdict on an item that failed for good."""
        # A run that is stopped tries nothing again, and the end of a loop cancels all tasks: what fails then may well
        # succeed the next time.
        if not self._run.stopped and not isinstance(error, ItemCancelled):
            self._record(call, FAILED, _failure(error))
        return self._error(call, error, ended)

    def _record(self, call: Call, state: int, body: bytes) -> None:
        key, occurrence, label = self._names.pop(call.index)
        self._writer.record(
            (key, occurrence, state, call.index, call.attempt, self._epoch + call.started, call.elapsed, label, body)
        )
        if self._durable is not None:
            self._durable.recorded = self._writer.recorded

    def _failed_to_write(self, error: Exception) -> None:
        self._run.stop(error)

    def _committed(self) -> None:
        if self._durable is not None:
            self._durable.release(self._writer.committed)
        if self._held_back:
            self._run.fill()

    def finish(self) -> bool:
        """Whether the journal is closed. The first call has it closed; the run is filled when it is."""
        if not self._closing:
            self._closing = True
            if self._group:
                self._recall()
            self._writer.close(self._counts() if self._opened else None).add_done_callback(self._close)
        return self._closed

    def _close(self, closed: asyncio.Future[None]) -> None:
        self._closed = True
        error = closed.exception()
        if error is not None:
            self._run.stop(error)
        elif self._opened:
            self._report()
        self._run.fill()

    def _counts(self) -> dict[str, int]:
        """How the items of this run and the rows of the journal fit."""
        whole = self._source.ended and not self._cut_short and self._run.error is None
        return {
            "recalled": self.recorded,
            "moved": self._moved,
            "started": self.begun,
            "missing": self._earlier - self.recorded if whole else 0,
        }

    def _report(self) -> None:
        told = self._counts()
        if told["missing"]:
            _log.warning(
                "%s: %d of its %d results are of items that are not in the input any more; they are kept",
                self._path,
                told["missing"],
                self._earlier,
            )
        if self._earlier:
            _log.info(
                "%s: %d results were recorded already (%d of them stood at another place in the input), %d items ran",
                self._path,
                told["recalled"],
                told["moved"],
                told["started"],
            )


def _failure(error: Exception) -> bytes:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except Exception as broken:
        message = f"(its text cannot be had: {type(broken).__name__})"
    return json.dumps({"type": name, "message": redacted(message)[:_MESSAGE]}).encode()
