"""Where the outcomes of `aiomap run` go: into files that follow the journal, or onto standard output.

Invariant: a file is touched only once the journal is open, and so is ours alone.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast, final

from aiomap.cli.failed_file import FailedFile, failed_line
from aiomap.cli.out_file import OutFile, in_blocks, write_all, writing
from aiomap.cli.output import WriteFailed
from aiomap.cli.words import counted
from aiomap.journal.database import connected, own_name
from aiomap.journal.keys import key_of, label_of
from aiomap.journal.lock import FileLock

if TYPE_CHECKING:
    from aiomap._outcome import Outcome
    from aiomap.inputs import Entry

__all__ = ["JournalledOutput", "StreamedOutput", "start_anew"]

_DIGEST: Final = 16  # bytes


def start_anew(output: str, journal: str, failed: str) -> None:
    """Deletes the files of earlier sittings. JournalLocked if one of them is still at it."""
    lock = FileLock(journal)
    lock.acquire()
    try:
        for name in (output, failed, *(journal + end for end in ("", "-wal", "-shm"))):
            with writing(name), suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108  (paths are text here)
        lock.mark(0)
    finally:
        lock.release()


@final
class JournalledOutput:
    """OUT, which follows the journal, and the file of failures.

    keep_order: whether OUT is put into the order of the input at the end.
    selects: whether the sitting is for some records of the input only, so that the former failures of others stay.
    """

    def __init__(self, output: str, journal: str, failed: str, *, keep_order: bool, selects: bool = False) -> None:
        self._names = output, journal, failed
        self._out = OutFile(output, journal)
        self._failed = FailedFile(failed)
        self._keep_order, self._selects = keep_order, selects
        self._unreached: set[bytes] = set()  # of the former failures, the keys that did not come again
        self._begun = False
        self._failures = 0

    def keep(self, outcome: Outcome[Entry, Any]) -> bytes:
        """The digest of its key, and of a failure the line: the journal has the value."""
        entry, error = outcome.item, outcome.error
        digest = key_of(entry.key)
        return digest if error is None else digest + failed_line(entry.key, entry.index, error, entry.item)

    def add(self, kept: list[bytes]) -> None:
        """Brings OUT up to date, and keeps the failures for the end."""
        if self._begun:
            self._out.catch_up()
        else:
            self._out.repair()
            self._unreached.update(map(key_of, self._failed.keys()))
            self._begun = True
        for each in kept:
            self._unreached.discard(each[:_DIGEST])
            if len(each) > _DIGEST:
                self._failed.add(each[_DIGEST:])

    def finish(self, *, whole: bool) -> None:
        """Puts OUT into order if that was asked for, and writes the file of failures, whole.

        WriteFailed also if OUT is not what was written, since somebody has removed or changed it meanwhile.
        """
        drops = whole and not self._selects
        try:
            self._out.check()
            if self._keep_order and whole:
                self._out.put_in_order()
        finally:
            self._failures = self._failed.finish(lambda key: drops or key_of(key) not in self._unreached)

    def close(self) -> None:
        """Lets go of the files."""
        self._out.close()
        self._failed.close()
        if self._begun:
            _put_log_away(self._names[1])

    def files(self) -> list[str]:
        """A line for each file that is left."""
        output, journal, failed = self._names
        files = [f"{output} (results)", f"{journal} (journal)"]
        if self._failures:
            files.insert(1, f"{failed} ({counted(self._failures, 'failed item')}; can be fed back in)")
        return files


def _put_log_away(journal: str) -> None:
    """Has SQLite delete its log: that is for the last one who closes the file, which may have been a reader of ours."""
    path = own_name(journal)
    if os.path.exists(path + "-wal"):  # noqa: PTH110  (paths are text here)
        with suppress(sqlite3.Error):  # it can stay: whoever opens the journal next takes in what is in it
            connection = connected(path, "mode=rw", ())
            try:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
            finally:
                connection.close()


@final
class StreamedOutput:
    """Standard output: a line for each success, and nothing to go on from.

    descriptor: is closed by `close`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._began = time.time()

    def keep(self, outcome: Outcome[Entry, Any]) -> bytes:
        """The line; of a failure nothing."""
        if outcome.error is not None:
            return b""
        entry, value = outcome.item, cast("bytes", outcome.value)
        head = f'{{"key":{label_of(entry.key)},"index":{entry.index},"value":'
        started, elapsed = round(self._began + outcome.started, 6), round(outcome.elapsed, 6)
        tail = f',"attempts":{outcome.attempts},"started":{started!r},"elapsed":{elapsed!r}}}\n'
        return b"".join((head.encode(), bytes(value), tail.encode()))

    def add(self, kept: list[bytes]) -> None:
        """Writes the lines."""
        try:
            with writing("standard output"):
                for block in in_blocks(kept):
                    write_all(self._descriptor, b"".join(block))
        except BrokenPipeError as error:
            raise WriteFailed from error

    def finish(self, *, whole: bool) -> None:
        """There is nothing to be done."""

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self._descriptor)

    def files(self) -> list[str]:
        """There is none."""
        return []
