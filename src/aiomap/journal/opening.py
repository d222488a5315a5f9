"""How a run opens its journal: whether it may use it, and what is recorded there.

Invariant: nothing of a journal is used before all of this has passed; a journal that is refused is left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import fspath
from typing import Any

from aiomap.errors import JournalChanged, JournalError
from aiomap.journal.file import JournalFile
from aiomap.journal.fingerprint import differences
from aiomap.journal.journal import Journal

__all__ = ["open_for"]


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
    return file.known(failures=not journal.retry_failed, stop=stop)
