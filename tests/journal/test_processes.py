"""The journal among other processes: those that want it too, that read it, that are forked, and that just end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from aiomap import Journal, Outcome, amap, aoutcomes
from aiomap.errors import JournalLocked
from aiomap.journal import Record
from tests.journal.pages import visit

ROOT = Path(__file__).parents[2]
HANGS = 60  # seconds

HEAD = f"""
import sys
sys.path[:0] = [{str(ROOT / "src")!r}, {str(ROOT)!r}]
import asyncio, gc, json, os, subprocess
from functools import partial
from aiomap import Journal, aimap, amap
from tests.journal.pages import say, visit
path = sys.argv[1]
pages = json.loads(sys.argv[2])
"""


def command(program: str, path: Path, pages: list[str], *python: str) -> list[str]:
    python = python or (sys.executable,)
    return [*python, "-c", HEAD + textwrap.dedent(program), str(path), json.dumps(pages)]


@contextmanager
def started(program: str, path: Path, pages: list[str]) -> Generator[subprocess.Popen[str]]:
    """The program in a process of its own. It and what it leaves behind end with the block, or when they hang."""
    with subprocess.Popen(
        command(program, path, pages),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:

        def end() -> None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        watchdog = Timer(HANGS, end)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            watchdog.join()
            end()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def lines_until(process: subprocess.Popen[str], line: str) -> list[str]:
    lines: list[str] = []
    while (heard := next_line(process)) != line:
        assert heard, f"it ended before it said {line!r}"
        lines.append(heard)
    return lines


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def visited(lines: list[str]) -> list[str]:
    return [line.removeprefix("visited ") for line in lines if line.startswith("visited ")]


def page_of(record: Record) -> str:
    assert record.value is not None
    return str(record.value["page"])


def results_of(pages: list[str], journal: Path) -> list[Any]:
    return asyncio.run(amap(visit, pages, journal=journal))


def titles(results: list[Any]) -> list[str]:
    return [result["page"] for result in results]


STAY = "asyncio.run(amap(visit, pages, journal=path))"


def test_a_second_process_is_refused_and_told_who_has_it_until_the_first_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with started(STAY, path, ["a", "b", "stay"]) as first:
        lines_until(first, "staying")
        with pytest.raises(JournalLocked, match=rf"process {first.pid} on {socket.gethostname()}"):
            results_of(["a", "b"], path)
        with pytest.raises(JournalLocked):
            results_of(["a", "b"], path)
        first.kill()
        first.wait()
        assert titles(results_of(["a", "b", "c"], path)) == ["a", "b", "c"]
    assert Journal(path).check().ok


LEFT_BEHIND = {
    "a fork": """
        def leave_behind():
            if not os.fork():
                say("left behind")
                os.read(0, 1)
                os._exit(0)
        """,
    "a process of multiprocessing": """
        import multiprocessing
        own_input = os.dup(0)
        def target():
            say("left behind")
            os.read(own_input, 1)
        def leave_behind():
            multiprocessing.get_context("fork").Process(target=target).start()
        """,
    "a program": """
        def leave_behind():
            program = "import os; os.write(1, b'left behind\\\\n'); os.read(0, 1)"
            subprocess.Popen([sys.executable, "-c", program], close_fds=False)
        """,
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_a_process_that_a_killed_run_left_behind_does_not_keep_the_journal(what: str, tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    program = f"""
        {LEFT_BEHIND[what].strip()}
        callback = lambda index, page: page == "b" and leave_behind()
        asyncio.run(amap(visit, pages, callback=callback, journal=path))
        """
    with started(program, path, ["a", "b", "stay"]) as first:
        heard = lines_until(first, "left behind")
        if "staying" not in heard:
            lines_until(first, "staying")
        first.kill()
        first.wait()
        assert titles(results_of(["a", "b", "c"], path)) == ["a", "b", "c"]
        tell(first, "")  # the end of what was left behind
        assert first.stdout is not None
        assert first.stdout.read() == ""
    assert Journal(path).check().ok


ENDS_OF_A_FORK = {
    "at once": "os._exit(0)",
    "after its objects were collected": "path = pages = None; gc.collect(); os._exit(0)",
    "as multiprocessing ends it": "import threading; threading._shutdown(); os._exit(0)",
}


@pytest.mark.parametrize("end", ENDS_OF_A_FORK)
def test_a_fork_during_a_run_does_no_harm_to_its_journal(end: str, tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    program = f"""
        def fork(index, page):
            if page == "b":
                child = os.fork()
                if not child:
                    {ENDS_OF_A_FORK[end]}
                say(f"ended with {{os.waitpid(child, 0)[1]}}")
        print(len(asyncio.run(amap(visit, pages, 1, callback=fork, journal=path))))
        """
    pages = ["a", "b", *"cdefgh"]
    done = subprocess.run(command(program, path, pages), capture_output=True, text=True, check=False, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "8"
    assert "ended with 0" in done.stdout
    assert Journal(path).check().ok
    assert [page_of(record) for record in Journal.read(path)] == pages


def test_a_fork_that_ends_as_a_program_does_is_not_kept_waiting_for_a_thread_that_it_has_not(tmp_path: Path) -> None:
    program = """
        def fork(index, page):
            child = os.fork()
            if not child:
                sys.exit(7)
            say(f"ended with {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
            os._exit(0)  # asyncio itself does not survive what its copy in the child has closed
        asyncio.run(amap(visit, pages, 1, callback=fork, journal=path))
        """
    arguments = command(program, tmp_path / "run.db", ["a", "b"])
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=HANGS)
    assert "ended with 7" in done.stdout
    assert "a forked child has no part in the run of its parent" in done.stderr


def test_a_clock_that_is_set_back_between_two_runs_changes_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def outcomes(pages: list[str]) -> list[Outcome[str, Any]]:
        return [outcome async for outcome in aoutcomes(visit, pages, ordered=True, journal=tmp_path / "run.db")]

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10**8)
    before = asyncio.run(outcomes(["a", "b"]))
    monkeypatch.setattr(time, "time", lambda: now)
    after = asyncio.run(outcomes(["c", "b", "a"]))
    assert [outcome.item for outcome in after] == ["c", "b", "a"]
    assert [after[2].value, after[1].value] == [outcome.value for outcome in before]
    assert after[1].started < 0 <= after[0].started


def test_who_reads_a_journal_while_a_run_is_on_sees_it_grow_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    pages = [f"wait {number}" if number % 500 == 499 else f"page {number}" for number in range(2000)]
    seen: list[Any] = []
    with started("asyncio.run(amap(visit, pages, 1, journal=path))", path, pages) as process:
        for end in range(499, 2000, 500):
            lines_until(process, "waiting")
            while len(seen) < end:
                assert process.poll() is None
                records = [(record.key, page_of(record)) for record in Journal.read(path)]
                assert records[: len(seen)] == seen
                seen = records
            assert [page for _, page in seen] == pages[:end]
            assert Journal(path).check().ok
            tell(process, "")
        assert process.wait(HANGS) == 0
    assert [page_of(record) for record in Journal.read(path)] == pages


HALF_CONSUMED = """
    stream = aimap(visit, pages, 3, buffer=20, journal=path)
    async def half():
        async for result in stream:
            if result["page"] == "page 50":
                {leave}
    """

EXITS = {
    "asyncio.run ends": ("return", "asyncio.run(half())"),
    "its loop is closed": ("return", "loop = asyncio.new_event_loop(); loop.run_until_complete(half()); loop.close()"),
    "its loop is left as it is": ("return", "asyncio.new_event_loop().run_until_complete(half())"),
    "sys.exit in the middle": ("sys.exit(0)", "asyncio.run(half())"),
    "an error in the middle": ("raise LookupError", "asyncio.run(half())"),
    "it is collected, then asyncio.run ends": ("del globals()['stream']; return", "asyncio.run(half())"),
}


@pytest.mark.parametrize("how", EXITS)
def test_a_stream_that_is_left_open_at_the_end_of_the_program_has_recorded_what_was_completed(
    how: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.db"
    pages = [f"page {number}" for number in range(200)]
    leave, ending = EXITS[how]
    program = textwrap.dedent(HALF_CONSUMED.format(leave=leave)) + ending
    done = subprocess.run(command(program, path, pages), capture_output=True, text=True, check=False, timeout=HANGS)
    assert done.returncode == (how == "an error in the middle"), done.stderr
    completed = visited(done.stdout.splitlines())
    assert 50 < len(completed) < 200
    assert Journal(path).check().ok
    assert [page_of(record) for record in Journal.read(path)] == completed, done.stderr
    assert titles(results_of(pages, path)) == pages


def other_pythons() -> list[str]:
    """The interpreters of the other versions that aiomap runs on, where `dev` finds them."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob("versions/*/bin")
    places = [*map(str, pyenv), *os.environ.get("PATH", "").split(os.pathsep)]
    found: list[str] = []
    for minor in (11, 12, 13):
        programs = (shutil.which(f"python3.{minor}", path=place) for place in places)
        if minor != sys.version_info.minor:
            found += [program for program in programs if program and answers(program, minor)][:1]
    return found


def answers(program: str, minor: int) -> bool:
    ask = "import sys, sqlite3; print(sys.version_info.minor)"
    return subprocess.run([program, "-c", ask], capture_output=True, text=True, check=False).stdout == f"{minor}\n"


def test_a_journal_of_one_python_is_continued_by_every_other(tmp_path: Path) -> None:
    others = other_pythons()
    if not others:
        pytest.skip("there is no other Python here")
    path = tmp_path / "run.db"
    program = """
        journal = Journal(path, key=lambda page: page)
        results = asyncio.run(amap(partial(visit, lang="de"), pages, journal=journal, on_error="skip"))
        print(json.dumps(results))
        """
    pages: list[str] = []
    earlier: list[Any] = []
    # This one makes it, each of the others goes on, and so does this one in the end.
    for number, python in enumerate([sys.executable, *others, sys.executable]):
        new = [f"page {number} é", f"page {number} ☃"]
        pages += new
        done = subprocess.run(
            command(program, path, pages, python, "-I", "-S"), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{python}: {done.stderr}"
        *said, last = done.stdout.splitlines()
        assert visited(said) == new, python
        results = json.loads(last)
        assert results[: len(earlier)] == earlier, python
        assert titles(results) == pages
        earlier = results
    assert Journal(path).check().ok
    assert asyncio.run(amap(partial(visit, lang="de"), pages, journal=Journal(path, key=str))) == earlier
