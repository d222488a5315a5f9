"""out.failed.jsonl: one line for each item that has failed and has not succeeded since.

Invariant: the file is whole at any instant, the former one or the new one. No secret stands in a message; what was the
input stands there as it was, so that the file can be fed in again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Final, final

from aiomap.cli.out_file import draft_of, writing
from aiomap.cli.output import encoded
from aiomap.errors import RecordedFailure
from aiomap.journal.database import sync_folder
from aiomap.journal.record import failure_body

__all__ = ["FailedFile", "failed_line"]

_CHUNK: Final = 1 << 20  # bytes


def failed_line(key: Any, index: int, error: Exception, item: Any) -> bytes:
    """The line for an item that has failed for good.

    key, item: JSON values. What JSON does not have (a date of a Parquet file, NaN) is written as text, or as null.
    """
    return _line({"key": key, "index": index, "error": _told(error), "input": item})


@final
class FailedFile:
    """The failures of one sitting, and the file that they come to stand in; `close` it in any case.

    path: out.failed.jsonl; if it is a link, what the link stands for.

    Up to `finish` the failures are in a file without a name, which a kill takes with it. WriteFailed from `add` and
    `finish` if the system does not take them.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)
        self._spilled: BinaryIO | None = None
        self._count = 0

    def add(self, line: bytes) -> None:
        """Takes the line of an item that has failed for good in this sitting."""
        with writing(self._path):
            if self._spilled is None:
                # With a buffer, so that not each failure is a write.
                self._spilled = tempfile.TemporaryFile(dir=os.path.dirname(self._path))  # noqa: PTH120, SIM115
            self._spilled.write(line)
        self._count += 1

    def finish(self, reached: Container[Any] | Callable[[Any], bool]) -> int:
        """Writes the file: the failures of this sitting, behind the former lines whose items it did not come to.

        reached: the keys of the items that ended in this sitting, well or not: a set, or what says it of a key (and
            must, if there are keys that cannot be in a set: lists and dicts).

        Returns how many lines it has; without any, there is no file. Former lines that are none of ours are left out.
        """
        ended = reached if callable(reached) else reached.__contains__
        count = self._count
        with writing(self._path):
            if not count and next(self._unreached(ended), None) is None:
                self._remove()
                return 0
            with draft_of(self._path, f"{self._path}.part") as descriptor, open(descriptor, "wb", closefd=False) as new:
                for line in self._unreached(ended):
                    new.write(line)
                    count += 1
                if self._spilled is not None:
                    self._spilled.seek(0)
                    shutil.copyfileobj(self._spilled, new, _CHUNK)
        return count

    def close(self) -> None:
        """Gives up what was not finished."""
        if self._spilled is not None:
            with suppress(OSError):  # what waits in its buffer is given up as well
                self._spilled.close()

    def _unreached(self, reached: Callable[[Any], bool]) -> Iterator[bytes]:
        return (line for line, key in self._former() if not reached(key))

    def _former(self) -> Iterator[tuple[bytes, Any]]:
        """The lines of earlier sittings, with their keys."""
        try:
            former = open(self._path, "rb")  # noqa: PTH123, SIM115  (a path is text here)
        except FileNotFoundError:
            return
        with former:
            for line in former:
                entry = _parsed(line)
                if isinstance(entry, dict) and "key" in entry:
                    yield line.rstrip(b"\r\n") + b"\n", entry["key"]

    def keys(self) -> Iterator[Any]:
        """The keys of the lines that earlier sittings have left."""
        with writing(self._path):
            for _, key in self._former():
                yield key

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path)  # noqa: PTH108  (the same)
            sync_folder(self._path)


def _told(error: Exception) -> dict[str, str]:
    if isinstance(error, RecordedFailure):
        return {"class": error.kind, "type": error.type_name, "message": error.message}
    told: dict[str, str] = json.loads(failure_body(error))
    return told


def _line(entry: dict[str, Any]) -> bytes:
    try:
        return encoded(entry)
    except (TypeError, ValueError):
        text = json.dumps(entry, default=str, skipkeys=True)
        return encoded(json.loads(text, parse_constant=lambda _: None))


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
