"""From a path to records: which format it is, whether it is compressed, and how much of it was read.

Invariant: what is no regular file is opened once and read once. However a file ends, what came before it was given.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast, final, get_args

from aiomap._foreign import printable, redacted
from aiomap.inputs.csv_rows import csv_records
from aiomap.inputs.json_lines import json_records
from aiomap.inputs.parquet_rows import parquet_module, parquet_records
from aiomap.inputs.record import BadInput, Format, Record, faulty
from aiomap.inputs.text_lines import text_records
from aiomap.lines import Line, LineCutter

__all__ = ["STDIN", "Source", "tells_format"]

STDIN: Final = "-"

_FORMATS: Final[dict[str, Format]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".txt": "text",
    ".parquet": "parquet",
}
_CHUNK: Final = 1 << 16
_GZIP: Final = b"\x1f\x8b"
_WITH_GZIP_HEADER: Final = 31
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")


class _Torn(Exception):
    """Compressed data that does not go on as it began."""


@final
class Source:
    """An input: `records` reads it.

    name: what it is called in front of people.
    size: bytes, `None` for what is no regular file; bytes_read: how many of them were.
    unpacked: bytes of its lines that were read, as they are when they are not compressed; given: those of the lines
        that were given on.

    Raises `BadInput` for what can be said before it is read, for a regular file up to its first record, and
    `MissingExtra` if there is nothing to read its format with.
    """

    def __init__(self, path: str, format: Format | None, id_column: str | None) -> None:  # noqa: A002
        self.name = "standard input" if path == STDIN else printable(redacted(path))
        self.bytes_read = self.unpacked = self.given = 0
        self._path = path
        self._id_column = id_column
        self._format: Final[Format] = _format_of(path, self.name, format)
        self.size = None if path == STDIN else _size(path, self.name)
        self._tear: tuple[Line, str] | None = None
        self._check()

    @property
    def may_wait(self) -> bool:
        """Whether it may be silent for any time, as a pipe, a socket and a terminal are."""
        if self._path != STDIN:
            return self.size is None
        try:
            return not stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
        except (AttributeError, OSError, ValueError):  # it is closed, or nothing of the system's
            return False

    @property
    def position(self) -> float:
        """How far into the file the last record is, in bytes of it."""
        return self.bytes_read * (min(1.0, self.given / self.unpacked) if self.unpacked else 1.0)

    def records(self) -> Generator[Record]:
        """All of its records. `OSError` if the disk fails."""
        any_whole = False
        with self._opened() as file:
            for record in self._parsed(file):
                any_whole = True
                yield record
        if self._tear is not None:
            if not any_whole:
                raise BadInput(f"{self.name} cannot be unpacked: {self._tear[1]}; make it anew")
            yield self._torn_record(*self._tear)

    def _check(self) -> None:
        if self._id_column is not None and self._format == "text":
            raise BadInput(
                f"{self.name} is text, which has no columns for --id to name: each line is its own key; "
                "leave out --id, or add --format jsonl or csv"
            )
        if self._format == "parquet":
            parquet_module()
            if self.size is None:
                raise BadInput(f"{self.name} is no regular file, and Parquet is read from its end; write it to a file")
        if self.size is not None:
            self._read_first()

    def _read_first(self) -> None:
        first = self.records()
        try:
            next(first, None)
        except OSError as error:
            raise _unreadable(self.name, error) from error
        first.close()
        self.bytes_read = self.unpacked = self.given = 0
        self._tear = None

    @contextmanager
    def _opened(self) -> Generator[Any]:
        if self._path == STDIN:
            if sys.stdin is None:
                raise BadInput("standard input is closed")
            # Without its buffer, whose lock a thread that waits for a pipe would hold, and Python wants at its end.
            yield getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
            return
        try:
            buffering = 0 if self.size is None else -1
            file = Path(self._path).open("rb", buffering)  # noqa: SIM115  (what goes wrong later is another matter)
        except OSError as error:
            raise _unreadable(self.name, error) from error
        with file:
            yield file

    def _parsed(self, file: Any) -> Iterator[Record]:
        match self._format:
            case "text":
                return text_records(self._lines(file), self.name)
            case "jsonl":
                return json_records(self._lines(file), self.name, self._id_column)
            case "csv":
                return csv_records(self._lines(file), self.name, self._id_column)
            case "parquet":
                if file.peek(2).startswith(_GZIP):
                    raise BadInput(f"{self.name} is Parquet within gzip, which it needs not; unpack it with  gunzip")
                return parquet_records(file, self.name, self._id_column, self._note)

    def _note(self, share: float) -> None:
        self.bytes_read = int(share * (self.size or 0))

    def _lines(self, file: Any) -> Iterator[Line]:
        cutter = LineCutter(blank=self._format == "csv")
        ended = 0
        try:
            for chunk in self._text(file):
                ended += chunk.count(b"\n")
                self.unpacked += len(chunk)
                for line in cutter.feed(chunk):
                    self.given += len(line.content) + 1
                    yield line
        except _Torn as torn:
            begun = b"".join([line.content for line in cutter.end()])
            self._tear = Line(ended + 1, begun), str(torn)
            return
        yield from cutter.end()

    def _text(self, file: Any) -> Iterator[bytes]:
        """The bytes, not compressed any more."""
        chunks = self._chunks(file)
        head = b""
        while len(head) < len(_GZIP) and (chunk := next(chunks, b"")):  # a pipe may give one byte at a time
            head += chunk
        if head.startswith(_UTF_16):
            raise BadInput(f"{self.name} is in UTF-16; write it anew with  iconv -f UTF-16 -t UTF-8")
        if head.startswith(_GZIP):
            return _inflated(head, chunks)
        return _all_of(head, chunks)

    def _chunks(self, file: Any) -> Iterator[bytes]:
        # With a buffer, read() would wait for a slow pipe to fill the whole chunk.
        read: Callable[[int], bytes | None] = getattr(file, "read1", file.read)
        while True:
            try:
                chunk = read(_CHUNK)
            except OSError as error:
                raise _unreadable(self.name, error) from error
            if chunk == b"":
                return
            if chunk is None:  # somebody has set it not to wait
                _wait_for(file)
                continue
            self.bytes_read += len(chunk)
            yield chunk

    def _torn_record(self, line: Line, reason: str) -> Record:
        place = f"line {line.number} of {self.name}"
        return faulty(line.number, line.content, place, f"{reason}, and what follows is lost: make the file anew")


def tells_format(path: str) -> bool:
    """Whether the name says what is in the file.

    >>> [tells_format(path) for path in ("ids.csv", "ids.csv.gz", "links", "-")]
    [True, True, False, False]
    """
    return path != STDIN and _suffix(path) in _FORMATS


def _suffix(path: str) -> str:
    return Path(path.lower().removesuffix(".gz")).suffix


def _format_of(path: str, name: str, format: str | None) -> Format:  # noqa: A002
    known = get_args(Format)
    choice = f"--format {', '.join(known[:-1])} or {known[-1]}"
    if format is not None:
        if format not in known:
            raise BadInput(f"{printable(format)!r} is no format; write {choice}")
        return cast("Format", format)
    if path == STDIN:
        raise BadInput(f"{name} has no name that tells its format; add {choice}")
    suffix = _suffix(path)
    if suffix not in _FORMATS:
        raise BadInput(f"the name {name} does not tell its format; add {choice}")
    return _FORMATS[suffix]


def _unreadable(name: str, error: Exception) -> BadInput:
    return BadInput(f"cannot read {name}: {(isinstance(error, OSError) and error.strerror) or error}")


def _size(path: str, name: str) -> int | None:
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:  # a ValueError for a NUL in the name
        raise _unreadable(name, error) from error
    if stat.S_ISDIR(status.st_mode):
        raise BadInput(f"{name} is a folder; name the files in it, as in {name.rstrip('/')}/*")
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _wait_for(file: Any) -> None:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    poll.poll()


def _all_of(head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from chunks


def _inflated(head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """What is packed in one or more members of gzip, a chunk at a time however well it was packed."""
    member = zlib.decompressobj(_WITH_GZIP_HEADER)
    for chunk in _all_of(head, chunks):
        packed = chunk
        while packed:
            if member.eof:
                packed = packed.lstrip(b"\0")  # as tapes are filled up
                if not packed:
                    break
                member = zlib.decompressobj(_WITH_GZIP_HEADER)
            try:
                yield member.decompress(packed, _CHUNK)
            except zlib.error:
                raise _Torn("the gzip data is damaged here") from None
            packed = member.unconsumed_tail or member.unused_data
    if not member.eof:
        raise _Torn("the gzip data is cut short here")
