"""Text: each line is an item, and its own key.

Invariant: a line in, a record out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aiomap.inputs.record import Fault, Record, decoded, faulty, short_key
from aiomap.lines import Line

__all__ = ["text_records"]


def text_records(lines: Iterable[Line], name: str) -> Iterator[Record]:
    """The lines as records; name: of the file, for people.

    >>> list(text_records([Line(3, b"https://example.org")], "links.txt"))
    [Record(line=3, item='https://example.org', key='https://example.org', fault=None)]
    """
    for line in lines:
        try:
            text = decoded(line)
            record = Record(line.number, text, short_key(text))
        except Fault as fault:
            record = faulty(line.number, line.content, f"line {line.number} of {name}", fault)
        yield record
