"""How a run opens its journal: whether it may use it, and what is recorded there.

Invariant: nothing of a journal is used before all of this has passed; a journal that is refused is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import fspath
from typing import Any, Final

from aiomap.errors import CallbackError, JournalChanged, JournalError, RecordedFailure
from aiomap.journal.file import JournalFile, name_of
from aiomap.journal.fingerprint import differences
from aiomap.journal.journal import Journal
from aiomap.journal.record import failure_of

__all__ = ["open_for"]

_FAILURES: Final = 1024  # that are read at once


def open_for(
    file: JournalFile, journal: Journal, identity: Mapping[str, Any], stop: Callable[[], bool]
) -> dict[bytes, int]:
    """Opens the file for a run of the function with that identity, and gives the id of the row of each item it knows.

    identity: the function's fingerprint, with the keys `version` and `serializer`.
    stop: asked now and then; when it says True the result is not needed any more.
    """
    file.open()
    path = fspath(journal.path)
    recorded = file.identity
    if recorded is None:
        file.begin(dict(identity), anew=False)
        return {}
    if recorded["serializer"] != identity["serializer"]:
        raise JournalError(
            path,
            f"its results are kept as {recorded['serializer']}, and this run wants {identity['serializer']}: "
            f"write Journal(..., serializer={recorded['serializer']!r}), or use another path",
        )
    changes = differences(recorded, identity)
    if changes and journal.on_change == "refuse":
        raise JournalChanged(
            path,
            f"it holds results of another function ({', '.join(changes)}). "
            "Write Journal(..., on_change='reuse') to keep them all the same, on_change='rerun' to run every item "
            "again, or use another path to start anew",
        )
    file.begin(dict(identity), anew=bool(changes) and journal.on_change == "rerun")
    known = file.known(failures=journal.retry_failed is not True, stop=stop)
    if not isinstance(journal.retry_failed, bool):
        _forget(known, file, path, journal.retry_failed)
    return known


def _forget(
    known: dict[bytes, int], file: JournalFile, path: str, runs_again: Callable[[RecordedFailure], bool]
) -> None:
    """Takes out the failures that are to run again."""
    ids = file.failures()
    for start in range(0, len(ids), _FAILURES):
        part = ids[start : start + _FAILURES]
        for number, row in zip(part, file.recall(part), strict=True):
            name = name_of(*row[:2])
            if known.get(name) == number and _is_to_run(runs_again, failure_of(path, row), row[3]):
                del known[name]


def _is_to_run(runs_again: Callable[[RecordedFailure], bool], failure: RecordedFailure, position: int) -> bool:
    try:
        return runs_again(failure)
    except Exception as error:
        raise CallbackError("retry_failed", position) from error
