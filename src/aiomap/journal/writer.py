"""The thread that does all work on a journal's file, and the queue in front of it.

Invariant: the event loop never waits for the disk. A row that is given to `record` is on the disk at most `_COMMIT`
seconds, or `_ROWS` rows, plus the time of a commit later, even if the loop is blocked or dead by then: the job that
commits is in the thread as soon as there is a row. After a failure nothing more is written.

The thread is an executor's: its jobs are finite, so neither a run that was abandoned nor the end of the interpreter
leaves one waiting for ever, and on a simulated loop (which runs executors' jobs itself) a journal works as well.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar, cast

from aiomap.errors import JournalError
from aiomap.journal.file import JournalFile
from aiomap.journal.rows import Row
from aiomap.journal.serializers import LongText

__all__ = ["NewRow", "Writer"]

NewRow: TypeAlias = tuple[bytes, int, int, int, int, int, int, str | None, bytes | LongText]
"""A `Row` whose body may have to be written yet."""

T = TypeVar("T")

# A group of rows is committed this many seconds after its first, or once it has this many.
_COMMIT: Final = 0.1
_ROWS: Final = 512

# More than this must not be waiting for the disk: rows, bytes, and the time from the oldest of them to the newest.
_MOST_ROWS: Final = 10_000
_MOST_BYTES: Final = 16 * 2**20
_MOST_MICROSECONDS: Final = 1_000_000


class Writer:
    """One journal file, used by one run on this loop.

    on_commit is called in the loop after each commit, on_failure with the error that makes the journal useless.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        file: JournalFile,
        on_commit: Callable[[], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.recorded = self.committed = 0  # rows given to `record`, and those of them that are on the disk
        # Whether so much waits for the disk that nothing more should be started, until `on_commit` is called. It bounds
        # what a crash can lose, however slow the disk.
        self.behind = False
        self._loop, self._file = loop, file
        # The thread must not keep the run alive: then nobody could notice that it was abandoned.
        self._on_commit, self._on_failure = weakref.WeakMethod(on_commit), weakref.WeakMethod(on_failure)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="aiomap.journal")
        self._loop_thread, self._pid = threading.get_ident(), os.getpid()
        self._rows = deque[NewRow]()
        self._bytes = 0
        self._since = 0  # when the item of the oldest row that is not committed ended
        self._idle = True  # no job will look at the rows that are appended now
        self._hurry = threading.Event()
        self._failed = False
        self._abandoned = weakref.finalize(self, file.close, None)

    def do(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Has the thread do something else, after all that was recorded by now."""
        if os.getpid() != self._pid:  # a fork does not copy the thread
            refused: asyncio.Future[T] = self._loop.create_future()
            refused.set_exception(JournalError(self._file.path, "a forked child has no part in the run of its parent"))
            return refused
        self._hurry.set()
        return self._loop.run_in_executor(self._executor, job)

    def record(self, row: NewRow) -> None:
        """Puts the row of an item that has just ended into the queue."""
        self._rows.append(row)
        self._bytes += len(row[-1])
        self.recorded += 1
        ended = row[5] + row[6]
        if self.recorded == self.committed + 1:
            self._since = ended
        if self._idle:
            self._idle = False
            self._hurry.clear()
            # Whatever happens there is told to `on_failure`.
            _ = self._loop.run_in_executor(self._executor, self._commit)
        elif len(self._rows) == _ROWS:
            self._hurry.set()
        late = ended - self._since > _MOST_MICROSECONDS
        if late or self.recorded - self.committed >= _MOST_ROWS or self._bytes >= _MOST_BYTES:
            self.behind = True

    def close(self, counts: Mapping[str, Any] | None) -> asyncio.Future[None]:
        """Commits what is there and closes the file, in any case. `counts` say how the run ended, if it ever began."""

        def job() -> None:
            try:
                if not self._failed:
                    self._commit_once()
            finally:
                self._abandoned.detach()
                self._file.close(None if self._failed else counts)

        closed = self.do(job)
        self._executor.shutdown(wait=False)
        return closed

    def _commit(self) -> None:
        """The job that is there while rows are. In the thread."""
        # On a simulated loop this runs in the loop, and nothing can come while it waits.
        in_thread = threading.get_ident() != self._loop_thread
        while not self._failed:
            if in_thread:
                self._hurry.wait(_COMMIT)
                self._hurry.clear()
            try:
                self._commit_once()
            except Exception as error:
                self._tell(self._fail, error)
                return
            # In this order: whoever appends a row looks at `_idle` after that.
            self._idle = True
            if not self._rows:
                return
            self._idle = False
            with suppress(RuntimeError):  # it takes no more jobs: then none is waiting for this one to end
                self._executor.submit(self._commit)
                return

    def _commit_once(self) -> None:
        rows = [self._rows.popleft() for _ in range(len(self._rows))]
        if rows:
            try:
                self._file.append([_written(row) for row in rows])
            except BaseException:
                self._failed = True
                raise
            ended = rows[-1][5] + rows[-1][6]
            self._tell(self._take_note, len(rows), sum(len(row[-1]) for row in rows), ended)

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        """Calls it in the loop. A loop that is closed has nobody left to tell."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *arguments)

    def _take_note(self, rows: int, size: int, ended: int) -> None:
        self.committed += rows
        self._bytes -= size
        self.behind = self.recorded - self.committed >= _MOST_ROWS or self._bytes >= _MOST_BYTES
        self._since = ended  # the next row's item ended a little later
        on_commit = self._on_commit()
        if on_commit is not None:
            on_commit()

    def _fail(self, error: Exception) -> None:
        on_failure = self._on_failure()
        if on_failure is not None:
            on_failure(error)


def _written(row: NewRow) -> Row:
    return cast("Row", row) if type(row[8]) is bytes else (*row[:8], bytes(row[8]))
