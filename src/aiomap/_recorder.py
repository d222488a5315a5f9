"""A run with a journal: it records what its items come to, and leaves out those that an earlier run has recorded.

Invariant: of each item that is pulled, either the worker's attempt is recorded before anything else can run, or it is
recalled and never handed to a worker. To the workers, or to the policies, this is the input.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, cast

from aiomap._call import Call
from aiomap._outbox import Durable
from aiomap._outcome import SKIP
from aiomap._recalls import MOST_RECALLS, Recall, Recalls
from aiomap._run import Run
from aiomap._source import Source
from aiomap._verdict import Refused
from aiomap.errors import CallbackError, ItemCancelled, UnrecordableResult
from aiomap.journal import Journal
from aiomap.journal.file import JournalFile
from aiomap.journal.fingerprint import fingerprint
from aiomap.journal.keys import key_of, label_of
from aiomap.journal.opening import open_for
from aiomap.journal.record import failure_body
from aiomap.journal.rows import DONE, FAILED, SKIPPED
from aiomap.journal.serializers import LongText, Unencodable, serializer
from aiomap.journal.writer import Writer

__all__ = ["Recorder"]

_log: Final = logging.getLogger("aiomap.journal")

_Name: TypeAlias = tuple[bytes, int, str | None]  # key, occurrence and label, as a row has them


class _KeyBroke(Exception):
    """The user's function raised: the cause."""


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
        self._value, self._recalled, self._error = value, recalled, error
        self._values = serializer(journal.serializer)
        self._encode = self._values.encode
        # For each key: the row of the first item with it (above 0), or how many more of it were pulled (0 or below).
        self._known: dict[bytes, int] = {}
        # How many more items may be on their way. In a run with policies it is theirs that counts.
        self.room: Callable[[], int] = self._room
        self._names: dict[int, _Name] = {}  # of items that were pulled and have not ended
        self._ahead: list[tuple[int, Any]] = []  # at most one
        self._opening = self._opened = self._held_back = self._closing = self._closed = self._cut_short = False
        self._earlier = 0  # results that were recorded before

    def attach(self, run: Run, source: Source) -> Source:
        """Stands before the source of that run, which has just begun. Who asks for the first item opens the journal."""
        self._run, self._source = run, source
        self._epoch = time.time() - (run.now() - run.began)
        self._durable = run.outbox if isinstance(run.outbox, Durable) else None
        file = JournalFile(self._path)
        self._writer = Writer(run.loop, file, self._committed, self._failed_to_write)
        self._recalls = Recalls(
            run, self._writer, file, self._values, epoch=self._epoch, value=self._recalled, error=self._error
        )
        self._file = file
        return self

    def _open(self) -> None:
        self._opening = True
        file, journal, identity, run = self._file, self._journal, self._identity, self._run
        opened = self._writer.do(lambda: open_for(file, journal, identity, lambda: run.stopped))
        opened.add_done_callback(self._now_open)

    def _now_open(self, opened: asyncio.Future[dict[bytes, int]]) -> None:
        error = opened.exception()
        if error is not None:
            self._run.stop(error)
            return
        self._known = opened.result()
        self._earlier = len(self._known)
        self._opened = True
        self._run.fill()

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come, but for what waits."""
        return self._source.ended and not self._recalls.waiting

    @property
    def waiting(self) -> int:
        """Items taken from the input and not handed to a worker yet."""
        return self._source.waiting + self.ahead

    @property
    def ahead(self) -> int:
        """Of those, the ones that are known not to be recorded."""
        return len(self._ahead)

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
            return 0

    def more(self) -> bool:
        """Whether there is an item to run."""
        if not self._opened:
            if not self._opening:
                self._open()
            return False
        self._held_back = self._writer.behind
        if self._held_back:
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
        recalls, is_listed = self._recalls, self._run.outbox is None
        while recalls.waiting < MOST_RECALLS and (is_listed or self.room() > 0):
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
            self.recorded += 1
            recalls.ask(Recall(*taken, name[:2], row))
        return False

    def _room(self) -> int:
        run = self._run
        if run.outbox is None:
            return sys.maxsize
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

    def succeeded(self, call: Call, value: Any) -> Any:
        """The verdict on an item that succeeded: it has failed if the journal could not give its value back."""
        try:
            body = b"" if value is SKIP else self._encode(value)
        except Unencodable as error:
            failure = UnrecordableResult(call.index, error.reason)
            failure.__cause__ = error
            raise Refused(failure) from None
        self._record(call, SKIPPED if value is SKIP else DONE, body)
        return value if self._value is None else self._value(call, value)

    def failed(self, call: Call, error: Exception, ended: Callable[[], int]) -> Any:
        """The verdict on an item that failed for good."""
        # A run that is stopped tries nothing again, and the end of a loop cancels all tasks: what fails then may well
        # succeed the next time.
        if self._run.stopped or isinstance(error, ItemCancelled):
            del self._names[call.index]
        else:
            self._record(call, FAILED, failure_body(error))
        return self._error(call, error, lambda: self.recorded + ended())

    def _record(self, call: Call, state: int, body: bytes | LongText) -> None:
        index = call.index
        attempts = 1 if call.pending is None else call.pending.calls
        started, elapsed = int((self._epoch + call.started) * 1e6), int(call.elapsed * 1e6)
        key, occurrence, label = self._names.pop(index)
        self._writer.record((key, occurrence, state, index, attempts, started, elapsed, label, body))
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
            self._recalls.send()
            self._writer.close(self._counts()).add_done_callback(self._close)
        return self._closed

    def _close(self, closed: asyncio.Future[None]) -> None:
        self._closed = True
        error = closed.exception()
        if error is not None:
            self._run.stop(error)
            if self._run.error is not error:  # something else went wrong before, and is what the caller gets
                _log.error("%s", error)
        else:
            self._report()
        self._run.fill()

    def _counts(self) -> dict[str, int]:
        """How the items of this run and the rows of the journal fit."""
        whole = not self._cut_short and not self._source.waiting and self._run.error is None
        return {
            "recalled": self.recorded,
            "moved": self._recalls.moved,
            "recorded": self._writer.recorded,
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
                "%s: %d results were recorded already, %d of them from another place in the input; %d are new",
                self._path,
                told["recalled"],
                told["moved"],
                told["recorded"],
            )
