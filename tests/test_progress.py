"""Promise 28: `progress=True`."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
from pathlib import Path

import pytest

from aiomap import MissingExtra, aimap, amap, run
from aiomap.testing import simulate

PROGRAM = textwrap.dedent(
    """
    import asyncio
    from aiomap import amap

    async def work(item):
        await asyncio.sleep(0.02)
        if item == 7:
            raise ValueError("\\x1b[31m evil")
        return item

    results = asyncio.run(amap(work, range(40), 10, progress=True, on_error="return"))
    print(len(results))
    """
)


def test_on_a_terminal_a_bar_goes_to_stderr_and_ends_at_the_total() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    child = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    output, _ = child.communicate(timeout=30)
    os.close(ours)
    assert output == "40\n"
    text = shown.decode()
    assert "100%" in text
    assert "40/40" in text
    assert "1 failed" in text
    assert "evil" not in text


def test_without_a_terminal_there_is_one_line_at_the_end_and_stdout_is_untouched() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "40\n"
    assert re.fullmatch(r"aiomap ended=40/40 failed=1 running=0 per_second=[0-9.]+\n", done.stderr)


def test_without_a_terminal_a_line_comes_every_30_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work(item: int) -> int:
        await asyncio.sleep(1)
        return item

    async def main() -> None:
        monkeypatch.setattr("aiomap.progress.time.monotonic", asyncio.get_running_loop().time)
        await amap(work, iter(range(100)), 1, progress=True)

    simulate(main)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("aiomap ended=30 failed=0 running=1 per_second=")
    assert lines[-1] == "aiomap ended=100 failed=0 running=0 per_second=1.0"


def test_what_an_earlier_run_has_recorded_says_nothing_about_speed_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0.01)
        return 2 * number

    asyncio.run(amap(double, range(90), journal=tmp_path / "run.db"))
    asyncio.run(amap(double, range(100), journal=tmp_path / "run.db", progress=True))
    assert "aiomap ended=10/10 failed=0 running=0 recorded=90 per_second=" in capsys.readouterr().err
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    asyncio.run(amap(double, range(101), 1, journal=tmp_path / "run.db", progress=True))
    bar = shown.getvalue().rpartition("\r")[2]
    assert "101/101" in bar
    speed = re.search(r"([\d.]+) ?(it/s|s/it)", bar)
    assert speed is not None
    assert speed[2] == "s/it" or float(speed[1]) < 100, "one item ran, for a hundredth of a second at least"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_stream_has_a_bar_too_and_closing_it_early_ends_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    async def work(item: int) -> int:
        return item

    async def main() -> None:
        async with aimap(work, range(10), progress=True) as stream:
            await anext(stream)

    simulate(main)
    assert "ended=10/10" in capsys.readouterr().err


def test_a_terminal_that_goes_away_does_not_take_the_run_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    async def work(item: int) -> int:
        await asyncio.sleep(100)
        return item

    async def main() -> None:
        monkeypatch.setattr("aiomap.progress.time.monotonic", asyncio.get_running_loop().time)
        monkeypatch.setattr(sys, "stderr", Gone())
        assert await amap(work, range(3), 1, progress=True) == [0, 1, 2]

    simulate(main)


def test_without_a_stderr_the_run_goes_on_without_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(item: int) -> int:
        return item

    monkeypatch.setattr(sys, "stderr", None)
    assert run(work, range(3), progress=True) == [0, 1, 2]


def test_without_tqdm_the_call_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)

    async def work(item: int) -> int:
        return item

    with pytest.raises(MissingExtra, match=r'needs tqdm.*pip install "aiomap\[progress\]"'):
        run(work, range(3), progress=True)
    with pytest.raises(ImportError):
        aimap(work, range(3), progress=True)
