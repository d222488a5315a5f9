"""Where the outcomes of `aiomap run` go: into files that follow the journal, or onto standard output.

Invariant: a file is touched only once the journal is open, and so is ours alone.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

from aiomap.cli.failed_file import FailedFile
from aiomap.cli.out_file import OutFile, write_all, writing
from aiomap.cli.output import WriteFailed
from aiomap.cli.view import counted
from aiomap.journal.keys import key_of
from aiomap.journal.lock import FileLock

if TYPE_CHECKING:
    from aiomap._outcome import Outcome
    from aiomap.inputs import Entry

__all__ = ["JournalledOutput", "StreamedOutput", "start_anew"]


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
    """

    def __init__(self, output: str, journal: str, failed: str, *, keep_order: bool) -> None:
        self._names = output, journal, failed
        self._out = OutFile(output, journal)
        self._failed = FailedFile(failed)
        self._keep_order = keep_order
        self._reached: set[bytes] = set()
        self._repaired = False
        self._failures = 0

    def add(self, outcomes: list[Outcome[Entry, Any]]) -> None:
        """Brings OUT up to date, and keeps the failures for the end."""
        for outcome in outcomes:
            entry = outcome.item
            self._reached.add(key_of(entry.key))
            if outcome.error is not None:
                self._failed.add(entry.key, entry.index, outcome.error, entry.item)
        if self._repaired:
            self._out.catch_up()
        else:
            self._out.repair()
            self._repaired = True

    def finish(self, *, whole: bool) -> None:
        """Puts OUT into order if that was asked for, and writes the file of failures, whole."""
        if self._keep_order and whole:
            self._out.put_in_order()
        self._failures = self._failed.finish(lambda key: whole or key_of(key) in self._reached)

    def close(self) -> None:
        """Lets go of the files."""
        self._out.close()
        self._failed.close()

    def files(self) -> list[str]:
        """A line for each file that is left."""
        output, journal, failed = self._names
        files = [f"{output} (results)", f"{journal} (journal)"]
        if self._failures:
            files.insert(1, f"{failed} ({counted(self._failures, 'failed item')}; can be fed back in)")
        return files


@final
class StreamedOutput:
    """Standard output: a line for each success, and nothing to go on from.

    descriptor: is closed by `close`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._began = time.time()

    def add(self, outcomes: list[Outcome[Entry, Any]]) -> None:
        """Writes the lines."""
        lines = [self._line(outcome) for outcome in outcomes if outcome.error is None]
        try:
            with writing("standard output"):
                write_all(self._descriptor, b"".join(lines))
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

    def _line(self, outcome: Outcome[Entry, Any]) -> bytes:
        told = {
            "key": outcome.item.key,
            "index": outcome.item.index,
            "value": outcome.value,
            "attempts": outcome.attempts,
            "started": round(self._began + outcome.started, 6),
            "elapsed": round(outcome.elapsed, 6),
        }
        return json.dumps(told, allow_nan=False, separators=(",", ":")).encode() + b"\n"
