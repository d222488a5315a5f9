"""The entries of a job: the records of all its inputs, read and selected.

Invariant: an entry is read when it is asked for, and of what was given nothing is kept. A bad record is an entry too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from typing import Final, final

from aiomap.inputs.opening import STDIN, Source
from aiomap.inputs.record import BadInput, Entry, Format, Record
from aiomap.inputs.selection import first_of_each, in_shard, sampled

__all__ = ["Entries", "entries"]

_LARGEST_SEED: Final = 1 << 64


def entries(
    paths: Sequence[str],
    *,
    format: Format | None = None,  # noqa: A002  (as the flag is named)
    id_column: str | None = None,
    dedupe: bool = False,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    shard: tuple[int, int] | None = None,
) -> Entries:
    r"""The entries of these files, one file after the other; lines are numbered within each.

    Takes constant memory, but for what `dedupe` and `sample` need. Waits for a pipe that has nothing to say: in an
    event loop, `arriving` takes the entries in a thread.

    paths: files, compressed with gzip or not; `-` is standard input.
    format: of all of them; `None` to tell it from their names.
    id_column: the column, or member, whose value is the key; `None` to make the key from the item.
    shard: `(2, 5)` for the second of five parts, which a record falls into by its key.
    dedupe: give only the first record of each key; about 100 bytes of memory a key.
    sample: so many records (at least 1), drawn by `seed` from 0 to 2**64 - 1; reads all of the input first, and holds
        them in memory.
    limit: so many records (at least 1) at most.

    They are applied in that order: shard, dedupe, sample, limit.

    Raises `BadInput` for an input that cannot be read (at once, but for pipes and for files that change later),
    `MissingExtra` if there is Parquet among them and no pyarrow, `ValueError` for numbers out of range.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "links.txt")
    ...     _ = path.write_text("https://a.example\n\nhttps://b.example\n")
    ...     list(entries([str(path)], limit=1))
    [Entry(index=0, line=1, item='https://a.example', key='https://a.example', fault=None)]
    """
    _check_counts(limit, sample, seed, shard)
    if list(paths).count(STDIN) > 1:
        raise BadInput("standard input (-) can be read once only; name it once")
    sources = [Source(path, format, id_column) for path in paths]
    return Entries(sources, dedupe=dedupe, limit=limit, sample=sample, seed=seed, shard=shard)


@final
class Entries(Iterator[Entry]):
    """What `entries` gives; `close` it, or take all of them.

    records: how many records were read so far, selected or not.
    repeated: how many of them `dedupe` left out.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        dedupe: bool,
        limit: int | None,
        sample: int | None,
        seed: int,
        shard: tuple[int, int] | None,
    ) -> None:
        self.records = 0
        self.repeated = 0
        self._sources = sources
        self._limit, self._sample = limit, sample
        self._given = 0
        self._ended = False
        self._read = self._records()
        selected: Iterator[Record] = self._read
        if shard is not None:
            selected = in_shard(selected, *shard)
        if dedupe:
            selected = first_of_each(selected, self._note_repeated)
        if sample is not None:
            selected = sampled(selected, sample, seed)
        self._selected = enumerate(islice(selected, limit))

    @property
    def may_wait(self) -> bool:
        """Whether the next entry may be long in coming, since a pipe, a socket or a terminal is among the inputs."""
        return any(source.may_wait for source in self._sources)

    @property
    def unpacked(self) -> int:
        """How many bytes of lines were read so far."""
        return sum(source.unpacked for source in self._sources)

    @property
    def bytes_read(self) -> int:
        """How many bytes of the files were read so far, as they are on the disk."""
        return sum(source.bytes_read for source in self._sources)

    @property
    def total_bytes(self) -> int | None:
        """How many bytes the files had; `None` if a pipe is among them."""
        sizes = [source.size for source in self._sources]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def expected(self) -> tuple[int, bool] | None:
        """How many entries there will be in all, and whether that is sure; `None` while nobody can tell.

        It is sure once the last of them was given. Before that it is concluded from how much of the files is left, and
        of a pipe nobody can tell.
        """
        if self._ended:
            return self._given, True
        size, position = self.total_bytes, sum(source.position for source in self._sources)
        if size is None or not self._given or not position:
            return None
        # What is drawn by chance is drawn from all of the input, before the first of it is given.
        count = self.records if self._sample else round(self._given * max(1.0, size / position))
        return min(count, self._sample or count, self._limit or count), False

    def __next__(self) -> Entry:
        following = next(self._selected, None)
        if following is None:
            self._ended = True
            self.close()
            raise StopIteration
        index, record = following
        self._given += 1
        return Entry(index, record.line, record.item, record.key, record.fault, record.unit)

    def close(self) -> None:
        """Closes the file that is being read. Nothing more is given."""
        self._read.close()

    def _records(self) -> Generator[Record]:
        for source in self._sources:
            for record in source.records():
                self.records += 1
                yield record

    def _note_repeated(self) -> None:
        self.repeated += 1


def _check_counts(limit: int | None, sample: int | None, seed: int, shard: tuple[int, int] | None) -> None:
    for name, count in (("limit", limit), ("sample", sample)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, or None for all records, got {count}")
    if not 0 <= seed < _LARGEST_SEED:
        raise ValueError(f"seed must be from 0 to 2**64 - 1, got {seed}")
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"shard must be (i, n) with i from 1 to n, got {shard}")
