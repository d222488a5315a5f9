"""`aiomap.inputs.arriving`: what a pipe says is there at once, and its silence stops nothing."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiomap.inputs import BadInput, Entries, Entry, arriving, entries
from aiomap.inputs.arriving import _MOST, _MOST_BYTES

PATIENCE = 30.0  # seconds after which a thread that should end has not


class Pipe:
    """Standard input, for as long as it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reading, self._writing = os.pipe()
        self.file = os.fdopen(reading)
        monkeypatch.setattr(sys, "stdin", self.file)

    def says(self, data: bytes) -> None:
        os.write(self._writing, data)

    def says_all(self, data: bytes) -> None:
        """However much it is, in a thread; then it ends."""

        def write() -> None:
            with os.fdopen(self._writing, "wb") as file:
                file.write(data)

        threading.Thread(target=write).start()

    def ends(self) -> None:
        os.close(self._writing)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    """Standard input; when the test is over, nobody reads it any more."""
    made = Pipe(monkeypatch)
    yield made
    for thread in readers():
        thread.join(PATIENCE)
        assert not thread.is_alive()
    made.file.close()


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "aiomap-input"]


def from_stdin(**options: Any) -> Entries:
    found = entries(["-"], **options)
    assert found.may_wait
    return found


async def taken(given: Entries) -> list[Entry]:
    return [entry async for entry in arriving(given)]


@pytest.mark.parametrize(
    ("form", "head", "records"),
    [
        ("text", b"", [b"one\n", b"two\r\n", b"\nthree\n"]),
        ("jsonl", b"", [b'{"n": 1}\n', b"2\n", b"no json\n"]),
        ("csv", b"id,text\n", [b"1,a\n", b'2,"b\n\nc"\n', b"3\n"]),
    ],
)
def test_a_record_is_there_before_the_next_one_is_written(
    pipe: Pipe, form: Any, head: bytes, records: list[bytes]
) -> None:
    async def main() -> list[Entry]:
        coming = arriving(from_stdin(format=form))
        pipe.says(head)
        got: list[Entry] = []
        for record in records:
            pipe.says(record)
            got.append(await anext(coming))
        pipe.ends()
        assert [entry async for entry in coming] == []
        return got

    got = asyncio.run(main())
    assert [entry.index for entry in got] == [0, 1, 2]
    assert got[1].item == {"text": "two", "jsonl": 2, "csv": {"id": "2", "text": "b\n\nc"}}[form]


def test_compressed_data_is_taken_as_far_as_it_was_flushed(pipe: Pipe) -> None:
    packed = gzip.compress(b"one\n") + gzip.compress(b"two\n")

    async def main() -> list[Any]:
        coming = arriving(from_stdin(format="text"))
        pipe.says(packed)
        first = [(await anext(coming)).item for _ in range(2)]
        pipe.ends()
        return first + [entry.item async for entry in coming]

    assert asyncio.run(main()) == ["one", "two"]


def test_a_silent_pipe_does_not_stop_the_event_loop_and_a_cancel_ends_the_wait(pipe: Pipe) -> None:
    async def main() -> None:
        coming = arriving(from_stdin(format="text"))
        waiting = asyncio.ensure_future(anext(coming))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await coming.aclose()

    asyncio.run(main())
    (reader,) = readers()
    assert reader.daemon
    pipe.says(b"too late\n")
    reader.join(PATIENCE)
    assert not reader.is_alive()
    pipe.ends()


def test_everything_arrives_once_in_order_and_whatever_it_is(pipe: Pipe) -> None:
    lines = [b"%d" % number for number in range(20_000)] + [b"x" * (3 << 20)] * 3
    pipe.says_all(b"\n".join(lines))
    got = asyncio.run(taken(from_stdin(format="text")))
    assert [entry.item for entry in got] == [line.decode() for line in lines]
    assert [entry.index for entry in got] == list(range(len(lines)))


@pytest.mark.parametrize("line", [b"x", b"x" * 50_000])
def test_no_more_is_read_ahead_than_a_few_records_and_a_mebibyte(pipe: Pipe, line: bytes) -> None:
    given = from_stdin(format="text")
    handed: list[int] = []

    async def main() -> None:
        coming = arriving(given)
        await anext(coming)
        while not handed or given.records > handed[-1]:  # until the thread reads no more
            handed.append(given.records)
            await asyncio.sleep(0.02)
        # What the first batch held, too, which was one record at least.
        assert given.records <= 2 * _MOST
        assert given.unpacked <= 2 * _MOST_BYTES + (1 << 17)
        assert len([entry async for entry in coming]) == 1999

    pipe.says_all((line + b"\n") * 2000)
    asyncio.run(main())


def test_what_cannot_be_read_is_raised_behind_what_could(pipe: Pipe) -> None:
    async def main() -> None:
        coming = arriving(entries(["-", "gone.txt"], format="text"))
        await anext(coming)

    with pytest.raises(BadInput, match=r"gone\.txt"):
        asyncio.run(main())
    pipe.says(b"\xff\xfea\0")
    pipe.ends()
    with pytest.raises(BadInput, match="in UTF-16"):
        asyncio.run(taken(from_stdin(format="text")))


def test_the_limit_ends_it_though_the_pipe_is_still_open(pipe: Pipe) -> None:
    pipe.says(b"1\n2\n")
    assert [entry.item for entry in asyncio.run(taken(from_stdin(format="jsonl", limit=2)))] == [1, 2]
    pipe.ends()


def test_a_pipe_is_left_in_blocking_mode_and_one_that_is_not_is_waited_for_all_the_same(pipe: Pipe) -> None:
    async def main() -> list[Any]:
        coming = arriving(from_stdin(format="text"))
        first = asyncio.ensure_future(anext(coming))
        await asyncio.sleep(0)
        pipe.says(b"one\n")
        got = [(await first).item]
        pipe.says(b"two\n")
        pipe.ends()
        return got + [entry.item async for entry in coming]

    assert os.get_blocking(pipe.file.fileno())
    os.set_blocking(pipe.file.fileno(), False)
    assert asyncio.run(main()) == ["one", "two"]
    assert not os.get_blocking(pipe.file.fileno())


def test_only_what_is_no_regular_file_may_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    regular, fifo = tmp_path / "a.txt", tmp_path / "b.txt"
    regular.write_text("1\n")
    os.mkfifo(fifo)
    assert not entries([str(regular)]).may_wait
    assert entries([str(regular), str(fifo)]).may_wait
    ours, theirs = socket.socketpair()
    with ours, theirs, regular.open() as file, ours.makefile("r") as connection:
        monkeypatch.setattr(sys, "stdin", file)
        assert not entries(["-"], format="text").may_wait
        monkeypatch.setattr(sys, "stdin", connection)
        assert entries(["-"], format="text").may_wait
    for nothing in (None, file):  # there is none, or it is closed
        monkeypatch.setattr(sys, "stdin", nothing)
        assert not entries(["-"], format="text").may_wait


def test_a_fifo_that_nobody_writes_to_yet_is_waited_for_by_the_thread(tmp_path: Path) -> None:
    fifo = tmp_path / "links.txt"
    os.mkfifo(fifo)

    async def main() -> list[Any]:
        coming = arriving(entries([str(fifo)]))
        first = asyncio.ensure_future(anext(coming))
        await asyncio.sleep(0)
        with fifo.open("wb", buffering=0) as file:
            file.write(b"one\n")
            return [(await first).item]

    assert asyncio.run(main()) == ["one"]
    for reader in readers():
        reader.join(PATIENCE)


@pytest.mark.once
@pytest.mark.parametrize("end", ["", "raise SystemExit(3)"])
def test_the_process_ends_while_a_thread_still_waits_for_the_pipe(end: str) -> None:
    program = (
        "import asyncio\n"
        "from aiomap.inputs import arriving, entries\n"
        "async def main():\n"
        "    async for entry in arriving(entries(['-'], format='text')):\n"
        "        print(entry.item, flush=True)\n"
        "        break\n"
        f"asyncio.run(main())\n{end}\n"
    )
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.wait(PATIENCE) == (3 if end else 0)
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read()) == (b"one\n", b"")
