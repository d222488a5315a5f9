"""`aiomap.lines`: lines end at a line feed and nowhere else, whatever the bytes and wherever the chunks end."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import tracemalloc
from collections.abc import AsyncIterable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomap.lines import CountedLines, Line, LineCutter, arriving_lines, lines_of, read_lines

MARK = b"\xef\xbb\xbf"

# Bytes of which line ends, blanks and byte order marks are made, and those that other readers take for line ends.
pieces = st.sampled_from(
    [b"\n", b"\r", b"\r\n", b" ", b"a", b"bc", MARK, b"\x0b", b"\x0c", b"\xc2\x85", b"\xff", b"\0"]
)
texts = st.lists(pieces, max_size=40).map(b"".join)


def model(text: bytes, most: int = 1 << 24) -> list[Line]:
    """What the lines are, by definition."""
    lines: list[Line] = []
    for number, part in enumerate(text.split(b"\n"), 1):
        content = part.removesuffix(b"\r")
        too_long = len(content) > most
        if number == 1:
            content = content.removeprefix(MARK)
        if content.strip() or too_long:
            lines.append(Line(number, content, too_long))
    return lines


@given(texts, st.lists(st.integers(0, 60)))
def test_the_lines_are_those_of_a_split_at_line_feeds_wherever_the_chunks_end(text: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(text)]
    cutter = LineCutter()
    lines = [line for start, end in itertools.pairwise(bounds) for line in cutter.feed(text[start:end])]
    assert lines + cutter.end() == model(text)


@given(texts, st.integers(0, 6), st.integers(1, 5))
def test_a_line_that_is_too_long_is_one_item_and_its_neighbours_are_whole(text: bytes, most: int, chunk: int) -> None:
    cutter = LineCutter(most)
    lines = [line for start in range(0, len(text), chunk) for line in cutter.feed(text[start : start + chunk])]
    lines += cutter.end()
    assert [(line.number, line.too_long) for line in lines] == [
        (line.number, line.too_long) for line in model(text, most)
    ]
    assert [line for line in lines if not line.too_long] == [line for line in model(text, most) if not line.too_long]


@given(texts, st.integers(0, 3))
def test_the_length_of_a_file_of_lines_is_the_number_of_its_lines(text: bytes, start: int) -> None:
    file = BytesIO(text)
    file.seek(start)
    lines = CountedLines(file)
    assert list(lines) == model(text[start:])  # list() asks for the length amid of the reading
    assert len(lines) == len(model(text[start:]))


def test_the_length_is_right_across_the_chunks_it_is_read_in() -> None:
    text = (b"x" * 99 + b"\r\n\n") * 30_000
    assert len(CountedLines(BytesIO(text))) == 30_000


def test_a_line_of_any_length_takes_no_more_memory_than_the_longest_that_is_allowed() -> None:
    cutter = LineCutter()
    tracemalloc.start()
    try:
        for _ in range(64):
            assert cutter.feed(bytes(1 << 20)) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20
    [line, after] = cutter.feed(b"\nnext\n")
    assert line.too_long
    assert len(line.content) < 1000
    assert after == Line(2, b"next")


def test_lines_are_read_on_demand() -> None:
    class Endless(BytesIO):
        def read(self, *_: object) -> bytes:
            return b"link\n" * 1000

    assert [line.number for line in itertools.islice(read_lines(Endless()), 5000)] == list(range(1, 5001))


def test_a_line_of_a_pipe_is_there_before_the_next_one_is_written() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        lines = arriving_lines(reading)
        try:
            for number in range(1, 4):
                os.write(writing, b"line %d\n" % number)
                assert await anext(lines) == Line(number, b"line %d" % number)
            os.write(writing, b"no line feed")
            os.close(writing)
            assert [line.content async for line in lines] == [b"no line feed"]
        finally:
            os.close(reading)

    asyncio.run(main())


def test_a_silent_pipe_does_not_stop_the_event_loop_and_a_cancel_ends_the_wait() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        lines = arriving_lines(reading)
        waiting = asyncio.ensure_future(anext(lines))
        for _ in range(5):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not asyncio.get_running_loop().remove_reader(reading)
        os.close(reading)
        os.close(writing)

    asyncio.run(main())


def test_a_pipe_is_left_in_blocking_mode_for_the_others_that_share_it() -> None:
    async def main() -> None:
        reading, writing = os.pipe()
        os.write(writing, b"a\n")
        lines = arriving_lines(reading)
        await anext(lines)
        assert os.get_blocking(reading)
        await lines.aclose()
        os.close(reading)
        os.close(writing)

    asyncio.run(main())


def test_each_kind_of_file_is_read_in_its_own_way() -> None:
    """A regular file has a length, a pipe is waited for, and a device that is neither is read all the same."""
    reading, writing = os.pipe()
    os.close(writing)
    with tempfile.TemporaryFile() as regular, os.fdopen(reading, "rb") as pipe, Path(os.devnull).open("rb") as null:
        assert isinstance(lines_of(regular), CountedLines)
        assert isinstance(lines_of(pipe), AsyncIterable)
        nothing = lines_of(null)
        assert not isinstance(nothing, AsyncIterable)
        assert list(nothing) == []
