"""Which records of an input are taken.

Invariant: the order of the input is kept. What is wrong with a record is no reason to leave it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from random import Random

from aiomap.inputs.record import Record
from aiomap.journal.keys import key_of

__all__ = ["first_of_each", "in_shard", "sampled"]


def in_shard(records: Iterable[Record], shard: int, shards: int) -> Iterator[Record]:
    """Those of the shard, from 1, as their keys have it: a record stays in its shard whatever comes to the input."""
    for record in records:
        if int.from_bytes(key_of(record.key), "big") % shards == shard - 1:
            yield record


def first_of_each(records: Iterable[Record], note: Callable[[], object]) -> Iterator[Record]:
    """The first record of each key; note: is called for each that is left out. A bad record is never one of them.

    Takes about 100 bytes of memory for each key: its digest of 16 bytes, a bytes object and a place in a set.
    """
    seen: set[bytes] = set()
    for record in records:
        if record.fault is None:
            digest = key_of(record.key)
            if digest in seen:
                note()
                continue
            seen.add(digest)
        yield record


def sampled(records: Iterable[Record], count: int, seed: int) -> Iterator[Record]:
    """As many records, each as likely as any other; the same for the same input and seed, on every Python.

    Reads all of the input before it gives the first, since a pipe can be read but once, and holds the sample.
    """
    random = Random(seed).random  # noqa: S311  (its numbers need not be hard to guess, and must come again)
    sample: list[tuple[int, Record]] = []
    for index, record in enumerate(records):
        if index < count:
            sample.append((index, record))
        elif (place := int(random() * (index + 1))) < count:
            sample[place] = index, record
    yield from (record for _, record in sorted(sample, key=lambda pair: pair[0]))
