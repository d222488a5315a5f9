"""`aiomap.lines`: lines end at a line feed and nowhere else, whatever the bytes and wherever the chunks end."""

from __future__ import annotations

import itertools
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from aiomap.lines import Line, LineCutter

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


@given(texts)
def test_with_blank_lines_no_number_is_left_out(text: bytes) -> None:
    cutter = LineCutter(blank=True)
    lines = cutter.feed(text) + cutter.end()
    assert [line.number for line in lines] == list(range(1, text.count(b"\n") + 2))
    assert [line for line in lines if line.content.strip()] == model(text)


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
