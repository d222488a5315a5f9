"""`Journal`, the value that a run is given.

Invariant: it is a description. Nothing is opened before a run starts, so the same one serves one run after the other.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, final

from aiomap._verdict import named, shortened
from aiomap.errors import RecordedFailure

if TYPE_CHECKING:
    from aiomap.journal.record import Record
    from aiomap.journal.salvage import Report

__all__ = ["Journal"]


@final
@dataclass(frozen=True)
class Journal:
    """`journal=Journal(path)`: what was completed is on the disk, and the same call goes on where the last one ended.

    A bare path, `journal="run.db"`, means `Journal("run.db")`. The file is SQLite's; beside it stand `-wal` and `-shm`
    while a run is on, and a `.lock`. One run at a time may have it open. Every result is committed (with an fsync)
    within 100 ms, or with the 512th that waits, by a thread: the event loop never waits for the disk. If the disk
    falls behind by 10,000 results, 16 MiB or a second, no new item starts until it has caught up.

    path: the file; it is made if it is not there.
    key: a plain function from an item to what the item is known by, something with a JSON form that is never used for
        two different items. `None`: the item itself, by its canonical JSON. Where several items have the same key, the
        first of them in the input is the first recorded one, and so on.
    version: a str or an int that says which version of your work this is: change it when something changed that
        aiomap cannot see (a function that yours calls, a prompt in a file). The source of the mapped function itself,
        and the arguments that a `functools.partial` holds, are compared anyway.
    serializer: `"json"`, strictly: a result that would not come back exactly as it was (a tuple, NaN, a dict with
        integer keys, bytes) is that item's failure, `UnrecordableResult`. Or `"pickle"`, for results of any kind: who
        can write to such a file can run code in every process that opens it.
    retry_failed: whether items that failed in an earlier run are run again; `False` keeps their failure, as a
        `RecordedFailure` where the exception would stand. Or a function that says so for each `RecordedFailure`, called
        in a thread when the journal is opened.
    durable: streams hand out a result only when it is on the disk (up to 100 ms later).
    on_change: what to do when the function or `version` is not the recorded one: `"refuse"` (`JournalChanged`),
        `"reuse"` what is recorded, or `"rerun"` every item.

    Costs about 9 us of the event loop an item, and 100 to 150 bytes of memory for each item of the input.

    >>> import asyncio, tempfile
    >>> from aiomap import Journal, amap
    >>> calls = 0
    >>> async def square(number: int) -> int:
    ...     global calls
    ...     calls += 1
    ...     return number * number
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for numbers in ([1, 2], [3, 2, 1]):
    ...         print(asyncio.run(amap(square, numbers, journal=Journal(f"{folder}/run.db"))), calls)
    [1, 4] 2
    [9, 4, 1] 3
    """

    path: str | os.PathLike[str]
    _: KW_ONLY
    key: Callable[[Any], object] | None = None
    version: str | int | None = None
    serializer: Literal["json", "pickle"] = "json"
    retry_failed: bool | Callable[[RecordedFailure], bool] = True
    durable: bool = False
    on_change: Literal["refuse", "reuse", "rerun"] = "refuse"

    def __post_init__(self) -> None:
        _check_path(self.path)
        _check_key(self.key)
        given = cast("object", self.version)
        if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
            raise TypeError(f"version must be a str, an int or None, got {shortened(given)} ({type(given).__name__})")
        _check_choice("serializer", self.serializer, ("json", "pickle"))
        _check_choice("on_change", self.on_change, ("refuse", "reuse", "rerun"))
        rule = {"durable": "True or False", "retry_failed": "True, False or a function of a RecordedFailure"}
        for name, kinds in rule.items():
            switch: object = getattr(self, name)
            if not isinstance(switch, bool) and not (name == "retry_failed" and callable(switch)):
                raise TypeError(f"{name} must be {kinds}, got {shortened(switch)} ({type(switch).__name__})")

    @staticmethod
    def read(path: str | os.PathLike[str], *, serializer: Literal["json", "pickle"] = "json") -> Iterator[Record]:
        """What a journal holds: the latest `Record` of each item, in the order of recording. A run may be on meanwhile.

        Opens the file read-only, and takes one consistent view of it. Raises `JournalError` if that is no journal, or
        keeps its results otherwise, and `JournalDamaged` at a record that is not what was written.

        >>> import asyncio, tempfile
        >>> from aiomap import Journal, amap
        >>> async def double(number: int) -> int:
        ...     return 2 * number
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/run.db"
        ...     _ = asyncio.run(amap(double, [4, 5], 1, journal=path))
        ...     for record in Journal.read(path):
        ...         print(record.index, record.state, record.value, record.attempts)
        0 done 8 1
        1 done 10 1
        """
        from aiomap.journal.record import read_records

        _check_path(path)
        _check_choice("serializer", serializer, ("json", "pickle"))
        return read_records(os.fspath(path), serializer)

    def check(self) -> Report:
        """Reads every row and compares it with its checksum; a run may be on meanwhile.

        Returns a `Report` with `ok`, `rows` (how many are there) and `problems` (a sentence for each). It raises
        `JournalError` only if the file cannot be read as a journal at all.
        """
        from aiomap.journal.salvage import check

        return check(os.fspath(self.path))

    def repair(self, into: str | os.PathLike[str]) -> Report:
        """Writes a new journal with every row that can be read and is what was written. The old file is left as it is.

        into: the new file; `JournalError` if there is one already, or if a run has the journal open.

        Returns a `Report`: how many rows are in the new file, and what was left out. Their items run again.
        """
        from aiomap.journal.salvage import repair

        _check_path(into)
        return repair(os.fspath(self.path), os.fspath(into))


def _check_path(path: object) -> None:
    rule = "the path of a journal must be a str or a Path"
    try:
        name: object = os.fspath(cast("str", path))
    except TypeError:
        name = None
    if not isinstance(name, str):
        raise TypeError(f"{rule}, got {shortened(path)} ({type(path).__name__})")
    if name in {"", ":memory:"}:
        raise ValueError(f"{rule} to a file, got {path!r}: write journal='run.db'")


def _check_key(key: object) -> None:
    if key is None:
        return
    if not callable(key):
        raise TypeError(f"key must be None or a function of an item, got {shortened(key)}: write key=lambda item: ...")
    if inspect.iscoroutinefunction(key):
        raise TypeError(f"key must be a plain function of an item, but {named(key)} is an async one")


def _check_choice(name: str, given: object, choices: tuple[str, ...]) -> None:
    if given not in choices:
        kind = ValueError if isinstance(given, str) else TypeError
        *others, last = (f'"{choice}"' for choice in choices)
        raise kind(f"{name} must be {', '.join(others)} or {last}, got {shortened(given)}")
