"""`aiomap run` as it is typed: a process of its own, real files, real signals."""

from __future__ import annotations

import gzip
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, Self

import pytest

from aiomap.journal.reading import read_rows
from aiomap.journal.rows import DONE
from tests.commands import PATIENCE, Command, Ended, Folder, serving, waited

pytestmark = pytest.mark.once

JOB = """
import asyncio, os, signal, threading, time
from contextlib import asynccontextmanager

def note(word, item=""):
    descriptor = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{word} {item}\\n".encode())
    os.close(descriptor)

async def file(name):
    while not os.path.exists(name):
        await asyncio.sleep(0.005)

async def double(n):
    note("double", n)
    return 2 * n

async def same(n):
    return n

async def known(row):
    return row["n"]

async def picky(n):
    note("picky", n)
    if n == 3 and not os.path.exists("healed"):
        raise ValueError(f"{n} is no good")
    if n == 4 and not os.path.exists("healed"):
        raise TimeoutError("slow")
    return n

async def held(n):
    note("start", n)
    await file("go")
    note("end", n)
    return n

async def first(n):
    if n:
        await file("go")
    return "x" * 100

async def stuck(n):
    note("start", n)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        note("cancelled", n)
        raise

async def hopeless(n):
    if n >= 20:
        await stuck(n)
    if n < 6:
        raise ValueError(n)

async def slightly(n):
    if n >= 20:
        await stuck(n)
    if n < 3:
        raise ValueError(n)

async def blocked(n):
    theirs = signal.getsignal(signal.SIGINT)
    def counted(*arguments):
        theirs(*arguments)
        note("interrupted")
    signal.signal(signal.SIGINT, counted)
    note("start", n)
    while True:
        time.sleep(3600)

def blocking(n):
    return threading.current_thread() is threading.main_thread()

tries = set()

async def shaky(n):
    note("try", n)
    if n not in tries:
        tries.add(n)
        raise (ConnectionResetError if n else KeyError)(n)
    return n

ended = {}

async def backwards(n):
    event = ended.setdefault(n, asyncio.Event())
    if n < 9:
        await ended.setdefault(n + 1, asyncio.Event()).wait()
    event.set()
    return n

async def counted(n):
    await asyncio.sleep(0.001)
    note("end", n)
    return n

async def large(n):
    note("large", n)
    return "x" * 3000

@asynccontextmanager
async def session():
    note("enter")
    try:
        yield "session"
    finally:
        note("leave")

other_session = session

async def using(n, session):
    note("start", n)
    return session

async def stuck_using(n, session):
    await stuck(n)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    with serving() as ours:
        yield ours


@pytest.fixture
def folder(tmp_path: Path, server: socket.socket) -> Folder:
    (tmp_path / "job.py").write_text(JOB)
    return Folder(tmp_path, server)


# Files, lines, exit codes


def test_every_success_gives_one_line_and_the_exit_status_is_0_with_nothing_on_stdout(folder: Folder) -> None:
    folder.numbers(30)
    ended = folder.run("run", "job.py:double", "in.jsonl", "-o", "out.jsonl")
    assert (ended.code, ended.out) == (0, "")
    records = folder.records()
    assert sorted(record["index"] for record in records) == list(range(30))
    assert all(record["value"] == 2 * record["index"] for record in records)
    assert all(
        list(record) == ["key", "index", "value", "attempts", "started", "elapsed"] and record["attempts"] == 1
        for record in records
    )
    assert sorted(name.name for name in folder.path.glob("out*")) == [
        "out.jsonl",
        "out.jsonl.run",
        "out.jsonl.run.lock",
    ]


def test_a_failure_is_a_line_of_the_failed_file_which_can_be_fed_back_in(folder: Folder) -> None:
    folder.numbers(6)
    run = ("run", "job.py:picky", "in.jsonl", "-o", "out.jsonl", "--retries", "0")
    assert folder.run(*run).code == 1
    assert sorted(folder.values()) == [0, 1, 2, 5]
    failed = {record["index"]: record for record in folder.records("out.failed.jsonl")}
    assert {index: (record["error"], record["input"]) for index, record in failed.items()} == {
        3: ({"class": "ValueError", "type": "ValueError", "message": "3 is no good"}, 3),
        4: ({"class": "timeout", "type": "TimeoutError", "message": "slow"}, 4),
    }
    folder.write("healed", "")
    assert folder.run("run", "job.py:picky", "out.failed.jsonl", "-o", "again.jsonl").code == 0
    assert sorted(folder.values("again.jsonl")) == [3, 4]


def test_python_m_aiomap_is_the_same_command(folder: Folder) -> None:
    folder.numbers(3)
    arguments = ["run", "job.py:double", "in.jsonl", "-o", "-", "-k"]
    ended = subprocess.run(
        [sys.executable, "-m", "aiomap", *arguments], cwd=folder.path, capture_output=True, check=True, timeout=PATIENCE
    )
    assert [json.loads(line)["value"] for line in ended.stdout.splitlines()] == [0, 2, 4]


def test_as_many_failures_as_max_failures_are_a_success(folder: Folder) -> None:
    folder.numbers(6)
    assert folder.run("run", "job.py:picky", "in.jsonl", "-o", "-", "--retries", "0", "--max-failures", "2").code == 0


def test_the_same_command_runs_what_may_pass_and_retry_failed_what_is_named_or_all(folder: Folder) -> None:
    folder.numbers(6)
    run = ("run", "job.py:picky", "in.jsonl", "-o", "out.jsonl", "--retries", "0")
    assert folder.run(*run).code == 1
    assert folder.run(*run).code == 1
    assert folder.noted() == {"picky 4": 2} | {f"picky {n}": 1 for n in (0, 1, 2, 3, 5)}
    assert sorted(record["index"] for record in folder.records("out.failed.jsonl")) == [3, 4]
    assert folder.run(*run, "--retry-failed", "KeyError").code == 1
    assert folder.noted()["picky 3"] == 1
    assert folder.run(*run, "--retry-failed", "ValueError").code == 1
    assert folder.noted()["picky 3"] == 2
    folder.write("healed", "")
    assert folder.run(*run, "--retry-failed").code == 0
    assert sorted(folder.values()) == list(range(6))
    assert not (folder.path / "out.failed.jsonl").exists()
    folder.numbers(8)
    assert folder.run(*run).code == 0  # items have come to the input
    assert sorted(folder.values()) == list(range(8))
    assert folder.noted() == {"picky 4": 5, "picky 3": 3} | {f"picky {n}": 1 for n in (0, 1, 2, 5, 6, 7)}


def test_a_changed_function_is_refused_unless_it_is_accepted_or_another_output_named(folder: Folder) -> None:
    folder.numbers(3)
    run = ("run", "job.py:double", "in.jsonl", "-o", "out.jsonl")
    assert folder.run(*run).code == 0
    before = folder.read("out.jsonl")
    folder.change("return 2 * n", "return 3 * n")
    refused = folder.run(*run)
    assert (refused.code, refused.out) == (3, "")
    assert all(way in refused.err for way in ("--accept-change", "--fresh", "-o"))
    assert folder.read("out.jsonl") == before
    assert folder.run(*run, "--accept-change").code == 0
    assert folder.read("out.jsonl") == before
    assert folder.run(*run[:-1], "other.jsonl").code == 0
    assert sorted(folder.values("other.jsonl")) == [0, 3, 6]


def test_a_file_that_no_journal_knows_is_refused_and_left_as_it_is(folder: Folder) -> None:
    folder.numbers(3)
    folder.write("out.jsonl", "mine\n")
    refused = folder.run("run", "job.py:double", "in.jsonl", "-o", "out.jsonl")
    assert refused.code == 3
    assert "has no journal" in refused.err
    assert "--fresh" in refused.err
    assert (folder.path / "out.jsonl").read_text() == "mine\n"
    assert not (folder.path / "out.jsonl.run").exists()


def test_fresh_loses_what_is_there_and_starts_anew_whatever_the_function_was(folder: Folder) -> None:
    folder.numbers(3)
    run = ("run", "job.py:double", "in.jsonl", "-o", "out.jsonl", "--fresh")
    assert folder.run(*run).code == 0
    folder.change("return 2 * n", "return 3 * n")
    folder.numbers(2)
    assert folder.run(*run).code == 0
    assert sorted(folder.values()) == [0, 3]


def test_another_tag_or_setup_is_a_change_too(folder: Folder) -> None:
    folder.numbers(3)
    run = ("run", "job.py:using", "in.jsonl", "-o", "out.jsonl")
    assert folder.run(*run, "--setup", "session", "--tag", "one").code == 0
    for changed in (["--setup", "session", "--tag", "two"], ["--setup", "other_session", "--tag", "one"]):
        refused = folder.run(*run, *changed)
        assert refused.code == 3
        assert "--accept-change" in refused.err
    assert folder.run(*run, "--setup", "session", "--tag", "one").code == 0


def test_whatever_was_done_to_the_output_the_next_run_puts_it_right(folder: Folder) -> None:
    folder.numbers(20)
    run = ("run", "job.py:double", "in.jsonl", "-o", "out.jsonl", "-q")
    assert folder.run(*run).code == 0
    right = folder.read("out.jsonl")
    lines = right.splitlines(keepends=True)
    for wrong in (right[:-7], right + '{"key":\0\0\0', "".join([lines[0], "garbage\n", *lines[2:]]), right + lines[3]):
        folder.write("out.jsonl", wrong)
        assert folder.run(*run).code == 0
        assert folder.read("out.jsonl") == right
    (folder.path / "out.jsonl").unlink()
    assert folder.run(*run).code == 0
    assert folder.read("out.jsonl") == right
    assert sum(folder.noted().values()) == 20


def recorded(folder: Folder) -> set[str]:
    """The keys of the journal's successes, looked at in a copy: nothing of the original is put right by looking."""
    copies = folder.path / "copies"
    copies.mkdir()
    for file in folder.path.glob("out.jsonl.run*"):
        shutil.copy(file, copies)
    journal = copies / "out.jsonl.run"
    found: set[str] = set()
    if journal.exists() and journal.stat().st_size:
        found = {json.loads(row[7] or "") for _, row in read_rows(str(journal)) if row[2] == DONE}
    shutil.rmtree(copies)
    return found


def noted_or_over(folder: Folder, process: Command, enough: int) -> Callable[[], bool]:
    return lambda: process.poll() is not None or len(folder.read("log")) > enough


def test_killed_at_any_moment_it_ends_with_one_line_per_item_and_repeats_nothing_recorded(folder: Folder) -> None:
    count, random = 300, Random(7)
    folder.numbers(count, "in.txt")
    run = ("run", "job.py:counted", "in.txt", "-o", "out.jsonl", "-j", "4")
    killed = 0
    for _ in range(10):
        safe, log = recorded(folder), len(folder.read("log"))
        enough = log + random.randrange(0, 240)
        with folder.started(*run) as process:
            waited(process, noted_or_over(folder, process, enough), "an item")
            process.kill()
            killed += process.wait() == -signal.SIGKILL
        repeated = safe & {line.split()[1] for line in folder.read("log")[log:].splitlines()}
        assert not repeated
    assert killed
    assert folder.run(*run).code == 0
    assert sorted(record["index"] for record in folder.records()) == list(range(count))
    assert {record["key"]: record["value"] for record in folder.records()} == {str(n): str(n) for n in range(count)}


# Input


def test_k_puts_the_output_into_the_order_of_the_input(folder: Folder) -> None:
    folder.numbers(10)
    assert folder.run("run", "job.py:backwards", "in.jsonl", "-o", "out.jsonl").code == 0
    assert folder.values() == list(range(9, -1, -1))
    assert folder.run("run", "job.py:backwards", "in.jsonl", "-o", "out.jsonl", "-k").code == 0
    assert folder.values() == list(range(10))
    streamed = folder.run("run", "job.py:backwards", "in.jsonl", "-o", "-", "-k")
    assert [json.loads(line)["value"] for line in streamed.out.splitlines()] == list(range(10))


def test_standard_input_is_read_and_standard_output_gets_the_lines_with_nothing_beside(folder: Folder) -> None:
    before = folder.names() | {"__pycache__"}
    ended = folder.run("run", "job.py:known", "-", "--format", "csv", "--id", "n", "-o", "-", text="n,m\n5,1\n7,2\n")
    assert ended.code == 0
    records = [json.loads(line) for line in ended.out.splitlines()]
    assert sorted((record["key"], record["index"], record["value"]) for record in records) == [
        ("5", 0, "5"),
        ("7", 1, "7"),
    ]
    assert folder.names() <= before


def test_several_files_packed_or_not_are_one_input(folder: Folder) -> None:
    folder.write("a.jsonl", '{"n": 1}\r\n\n{"n": 2}')
    (folder.path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"n": 3}\n'))
    folder.write("c.csv", "n\n4\n")
    ended = folder.run("run", "job.py:known", "a.jsonl", "b.jsonl.gz", "c.csv", "-o", "-", "-k")
    assert [json.loads(line)["value"] for line in ended.out.splitlines()] == [1, 2, 3, "4"]


def streamed(folder: Folder, *arguments: str) -> list[Any]:
    ended = folder.run("run", "job.py:same", "in.jsonl", "-o", "-", "-k", *arguments)
    assert ended.code == 0
    return [json.loads(line)["value"] for line in ended.out.splitlines()]


def test_dedupe_calls_equal_items_once_and_limit_takes_the_first(folder: Folder) -> None:
    folder.write("in.jsonl", "1\n2\n1\n2\n3\n4\n")
    assert streamed(folder) == [1, 2, 1, 2, 3, 4]
    assert streamed(folder, "--dedupe") == [1, 2, 3, 4]
    assert streamed(folder, "--dedupe", "--limit", "3") == [1, 2, 3]


def test_the_shards_cover_everything_once_and_a_sample_is_the_same_for_the_same_seed(folder: Folder) -> None:
    folder.numbers(60)
    shards = [streamed(folder, "--shard", f"{part}/3") for part in (1, 2, 3)]
    assert all(shards)
    assert sorted(chain(*shards)) == list(range(60))
    sample = streamed(folder, "--sample", "20", "--seed", "5")
    assert len(set(sample)) == 20
    assert streamed(folder, "--sample", "20", "--seed", "5") == sample
    assert streamed(folder, "--sample", "20", "--seed", "6") != sample


def test_a_dry_run_reads_the_input_and_touches_nothing(folder: Folder) -> None:
    folder.write("in.jsonl", "1\n{\n2\n")
    before = folder.names() | {"__pycache__"}
    ended = folder.run("run", "job.py:double", "in.jsonl", "-o", "out.jsonl", "--dry-run", "--fresh")
    assert (ended.code, ended.out) == (0, "")
    assert "3 records" in ended.err
    assert "1 of them no item" in ended.err
    assert folder.names() <= before


def test_a_bad_line_is_a_failure_with_its_line_number_and_not_the_end(folder: Folder) -> None:
    (folder.path / "in.jsonl").write_bytes(b'1\n{"n":\n\n2\n\xff\n3\n')
    ended = folder.run("run", "job.py:same", "in.jsonl", "-o", "out.jsonl")
    assert ended.code == 1
    assert sorted(folder.values()) == [1, 2, 3]
    failed = sorted(folder.records("out.failed.jsonl"), key=lambda record: record["index"])
    assert [(record["index"], record["error"]["class"]) for record in failed] == [(1, "bad_input"), (3, "bad_input")]
    assert "line 2 of in.jsonl" in failed[0]["error"]["message"]
    assert "line 5 of in.jsonl" in failed[1]["error"]["message"]
    assert "bad_input" in ended.err


# How the function is called


def test_a_blocking_function_runs_in_threads(folder: Folder) -> None:
    folder.numbers(3)
    assert folder.run("run", "job.py:blocking", "in.jsonl", "-o", "out.jsonl", "--in-thread").code == 0
    assert folder.values() == [False] * 3


def test_the_setup_is_entered_once_its_value_passed_on_and_left_in_the_end(folder: Folder) -> None:
    folder.numbers(3)
    assert folder.run("run", "job.py:using", "in.jsonl", "-o", "out.jsonl", "--setup", "session").code == 0
    assert folder.values() == ["session"] * 3
    words = folder.read("log").split("\n")
    assert (words[0].strip(), words[-2].strip(), folder.noted()["enter"], folder.noted()["leave"]) == (
        *("enter", "leave"),
        *(1, 1),
    )


def test_an_attempt_ends_after_timeout_as_a_failure_of_that_class(folder: Folder) -> None:
    folder.numbers(2)
    ended = folder.run("run", "job.py:stuck", "in.jsonl", "-o", "out.jsonl", "--timeout", "0.05", "--retries", "0")
    assert ended.code == 1
    assert [record["error"]["class"] for record in folder.records("out.failed.jsonl")] == ["timeout"] * 2


def test_only_failures_of_the_classes_of_retry_on_are_tried_again(folder: Folder) -> None:
    folder.numbers(3)
    ended = folder.run("run", "job.py:shaky", "in.jsonl", "-o", "out.jsonl", "--retries", "1", "--retry-on", "conn")
    assert ended.code == 1
    assert folder.noted() == {"try 0": 1, "try 1": 2, "try 2": 2}
    assert [record["attempts"] for record in folder.records()] == [2, 2]


def test_the_users_folder_is_last_on_the_path_so_a_json_py_of_theirs_hides_nothing(folder: Folder) -> None:
    folder.write("json.py", "raise RuntimeError('hidden')")
    folder.write("beside.py", "answer = 42")
    folder.write(
        "finding.py",
        "import json, os, sys, beside\n"
        "async def lookup(n):\n"
        "    return [beside.answer, json.dumps(n), sys.path.index(os.getcwd()) - len(sys.path)]\n",
    )
    folder.numbers(1)
    script = str(Path(sys.executable).with_name("aiomap"))
    for target in ("finding.py:lookup", "finding:lookup"):
        ended = subprocess.run(
            [script, "run", target, "in.jsonl", "-o", "-"],
            cwd=folder.path,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["value"] == [42, "0", -1]


# Early ends


def test_halt_at_a_number_of_failures_stops_a_hopeless_run_with_4(folder: Folder) -> None:
    folder.numbers(100)
    ended = folder.run("run", "job.py:hopeless", "in.jsonl", "-o", "out.jsonl", "-j", "30", "--halt", "5")
    assert ended.code == 4
    assert "halted" in ended.err
    assert len(folder.records("out.failed.jsonl")) == 6
    assert len(folder.records()) == 14


def test_halt_at_a_share_of_failures_looks_only_once_twenty_have_ended(folder: Folder) -> None:
    folder.numbers(100)
    assert folder.run("run", "job.py:slightly", "in.jsonl", "-o", "-", "-j", "30", "--halt", "10%").code == 4
    assert folder.run("run", "job.py:slightly", "in.jsonl", "-o", "-", "--halt", "10%", "--limit", "19").code == 1


def test_after_max_time_nothing_new_starts_what_runs_is_finished_and_the_exit_status_is_5(folder: Folder) -> None:
    folder.numbers(5)
    run = ("run", "job.py:held", "in.jsonl", "-o", "out.jsonl", "-j", "2")
    with folder.started(*run, "--max-time", "0.2s") as process:
        folder.until(process, "err", "state=draining")
        folder.write("go", "")
        assert process.wait() == 5
    assert len(folder.records()) == folder.read("log").count("start") == folder.read("log").count("end") <= 2
    assert "out of time" in folder.read("err")
    assert folder.run(*run).code == 0
    assert sorted(folder.values()) == list(range(5))


def test_with_a_reader_that_is_gone_it_ends_with_141_and_no_traceback(folder: Folder) -> None:
    folder.numbers(1000)
    reading, writing = os.pipe()
    with folder.started("run", "job.py:first", "in.jsonl", "-o", "-", out=writing) as process:
        os.close(writing)
        with os.fdopen(reading, "rb") as reader:
            assert json.loads(reader.readline())["index"] == 0
        folder.write("go", "")
        assert process.wait() == 141
    assert "Traceback" not in folder.read("err")
    assert "Error" not in folder.read("err")


def test_q_is_silent_even_of_failures(folder: Folder) -> None:
    folder.numbers(6)
    ended = folder.run("run", "job.py:picky", "in.jsonl", "-o", "out.jsonl", "-q", "--retries", "0")
    assert ended == Ended(1, "", "")


def test_a_second_one_on_the_same_output_is_refused_while_the_first_runs(folder: Folder) -> None:
    folder.numbers(3)
    run = ("run", "job.py:held", "in.jsonl", "-o", "out.jsonl")
    with folder.started(*run) as process:
        folder.until(process, "log", "start")
        for second in (run, (*run, "--fresh")):
            ended = folder.run(*second)
            assert ended.code == 3
            assert str(process.pid) in ended.err
        folder.write("go", "")
        assert process.wait() == 0
    assert sorted(folder.values()) == [0, 1, 2]


MOUNT, UMOUNT = "/bin/mount", "/bin/umount"


@contextmanager
def small_disk(place: Path) -> Generator[None]:
    place.mkdir()
    mounting = [MOUNT, "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run([UMOUNT, str(place)], check=True)


def test_a_full_disk_ends_it_with_6_and_with_space_it_goes_on(folder: Folder) -> None:
    folder.numbers(100)
    run = ("run", "job.py:large", "in.jsonl", "-o", "disk/out.jsonl")
    with small_disk(folder.path / "disk"):
        for _ in range(2):
            ended = folder.run(*run)
            assert ended.code == 6
            assert "Traceback" not in ended.err
            assert "space" in ended.err or "full" in ended.err
        subprocess.run([MOUNT, "-o", "remount,size=4m", str(folder.path / "disk")], check=True)
        assert folder.run(*run).code == 0
        assert sorted(record["index"] for record in folder.records("disk/out.jsonl")) == list(range(100))


# Signals


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, folder: Folder, *arguments: str) -> None:
        self.shown = ""
        self._master, slave = os.openpty()
        self.process = folder.command(arguments, slave, slave, slave)
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            os.close(self._master)

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Returns once it is so, and shows meanwhile what there is to show."""

        def looked() -> bool:
            self._look()
            return is_so()

        waited(self.process, looked, what)

    def shows(self, text: str) -> None:
        self.until(lambda: text in self.shown, text)

    def ends(self) -> int:
        self.until(lambda: self.process.poll() is not None, "an end")
        self._look()
        return self.process.wait()

    def _look(self) -> None:
        with suppress(OSError):  # the other side is closed
            while select.select([self._master], [], [], 0)[0]:
                data = os.read(self._master, 65536)
                if not data:
                    return
                self.shown += data.decode()


def test_the_first_ctrl_c_starts_nothing_new_finishes_what_runs_and_says_so(folder: Folder) -> None:
    folder.numbers(9)
    run = ("run", "job.py:held", "in.jsonl", "-o", "out.jsonl", "-j", "2")
    with Terminal(folder, *run) as terminal:
        terminal.until(lambda: folder.read("log").count("start") == 2, "two starts")
        terminal.press_ctrl_c()
        terminal.shows("stopping: ")
        terminal.shows("2 in flight")
        folder.write("go", "")
        assert terminal.ends() == 130
        assert "stopped by Ctrl-C" in terminal.shown
        assert "aiomap run job.py:held in.jsonl -o out.jsonl -j 2" in terminal.shown
    assert sorted(folder.values()) == [0, 1]
    assert folder.read("log").count("start") == folder.read("log").count("end") == 2
    assert folder.run(*run).code == 0
    assert sorted(folder.values()) == list(range(9))
    assert folder.read("log").count("start") == 9


def test_the_second_ctrl_c_cancels_what_runs_and_the_setup_is_left(folder: Folder) -> None:
    folder.numbers(9)
    run = ("run", "job.py:stuck_using", "in.jsonl", "-o", "out.jsonl", "-j", "2", "--setup", "session")
    with Terminal(folder, *run) as terminal:
        terminal.until(lambda: folder.read("log").count("start") == 2, "two starts")
        terminal.press_ctrl_c()
        terminal.shows("stopping: ")
        terminal.press_ctrl_c()
        assert terminal.ends() == 130
        assert "Traceback" not in terminal.shown
    assert folder.noted() == {"enter": 1, "start 0": 1, "start 1": 1, "cancelled 0": 1, "cancelled 1": 1, "leave": 1}
    assert folder.read("log").endswith("leave \n")
    assert not (folder.path / "out.failed.jsonl").exists()


def test_the_third_ctrl_c_ends_it_at_once_even_if_the_function_blocks_the_loop(folder: Folder) -> None:
    folder.numbers(9)
    with Terminal(folder, "run", "job.py:blocked", "in.jsonl", "-o", "out.jsonl") as terminal:
        terminal.until(lambda: folder.noted()["start 0"] == 1, "a start")
        terminal.press_ctrl_c()
        terminal.until(lambda: folder.noted()["interrupted"] == 1, "an interrupt")
        terminal.press_ctrl_c()
        terminal.until(lambda: folder.noted()["interrupted"] == 2, "two interrupts")
        terminal.press_ctrl_c()
        assert terminal.ends() == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_stop_lets_what_runs_finish_and_the_next_run_goes_on(
    folder: Folder, number: signal.Signals, code: int
) -> None:
    folder.numbers(5)
    run = ("run", "job.py:held", "in.jsonl", "-o", "out.jsonl", "-j", "2")
    with folder.started(*run) as process:
        folder.until(process, "log", "start", 2)
        process.send_signal(number)
        folder.until(process, "err", "state=draining")
        folder.write("go", "")
        assert process.wait() == code
    assert sorted(folder.values()) == [0, 1]
    assert number.name in folder.read("err") or number is signal.SIGINT
    assert folder.run(*run).code == 0
    assert sorted(folder.values()) == list(range(5))
    assert folder.read("log").count("start") == 5


def test_sigusr1_tells_how_it_stands_and_the_ten_items_that_run_longest(folder: Folder) -> None:
    folder.numbers(15)
    with folder.started("run", "job.py:held", "in.jsonl", "-o", "out.jsonl", "-j", "12") as process:
        folder.until(process, "log", "start", 12)
        process.send_signal(signal.SIGUSR1)
        folder.until(process, "err", "line 10,")
        folder.write("go", "")
        assert process.wait() == 0
    told = folder.read("err").splitlines()
    at = next(at for at, line in enumerate(told) if "12 running" in line)
    for number, line in zip(range(1, 11), told[at + 1 : at + 11], strict=True):
        assert f"line {number}, " in line
    assert "line 11" not in folder.read("err")


# Typos


# What is typed behind `aiomap run`, and the words of the sentence that say what to type instead.
TYPOS = [
    ("", "Missing argument 'FUNCTION'"),
    ("job.py:double -o out.jsonl", "Missing argument 'INPUT...'"),
    ("job.py:double in.jsonl", "Missing option '-o' / '--output'"),
    ("job.py:double in.jsonl -o missing/out.jsonl", "make it with  mkdir -p missing"),
    ("job.py:double in.jsonl -o missing/out.jsonl --fresh", "make it with  mkdir -p missing"),
    *[
        (f"{function} in.jsonl -o out.jsonl", said)
        for function, said in (
            ("job.py", "write file.py:function or module:function, as in job.py:lookup"),
            ("jobs.py:double", "there is no file jobs.py"),
            ("jobs:double", "there is no module jobs"),
            ("job.py:doubel", "did you mean double?"),
            ("job:doubel", "did you mean double?"),
            ("job.py:tries", "is set(), and no function"),
            ("job.py:blocking", "add --in-thread if it blocks"),
            ("job.py:double --in-thread", "leave out --in-thread"),
            ("broken.py:double", "SyntaxError"),
            ("job.py:using --setup sesion", "did you mean session?"),
            ("job.py:using --setup tries", "no function that gives a context manager"),
        )
    ],
    *[
        (f"job.py:double {inputs} -o out.jsonl", said)
        for inputs, said in (
            ("missing.jsonl", "cannot read missing.jsonl: No such file"),
            ("blob", "add --format jsonl, csv, text or parquet"),
            ("-", "add --format jsonl, csv, text or parquet"),
            ("- - --format text", "name it once"),
            ("in.jsonl --format xml", "'jsonl', 'csv', 'text', 'parquet'"),
            ("in.txt --id n", "add --format jsonl or csv"),
            ("in.csv --id m", "its columns are 'n'"),
        )
    ],
    *[
        (f"job.py:double in.jsonl -o out.jsonl {flags}", said)
        for flags, said in (
            ("-j 0", "the least is 1"),
            ("-j many", "as in -j 10, or -j auto"),
            ("--rate fast", "as in --rate 4/s"),
            ("--rate 0/s", "make the time longer: --rate 1/10s"),
            ("--per-key n --per-key-tasks few", "as in --per-key-tasks 2, or --per-key-tasks none"),
            ("--per-key n --per-key-rate fast", "as in --per-key-rate 4/s"),
            ("--timeout 0", "'0' is no time; write it as in --timeout 90s"),
            ("--timeout 1d", "'1d' is no time"),
            ("--retries -1", "as in --retries 4, or --retries 0 for none"),
            ("--retry-on tiemout", "write some of timeout, conn,"),
            ("--halt never", "as in --halt 500 or --halt 10%"),
            ("--halt 200%", "as in --halt 500 or --halt 10%"),
            ("--max-time soon", "as in --max-time 90s, 15m or 6h"),
            ("--limit 0", "as in --limit 100"),
            ("--sample some", "as in --sample 100"),
            ("--shard 0/3", "of 3 parts the first is 1/3, the last 3/3"),
            ("--shard 4/3", "of 3 parts the first is 1/3, the last 3/3"),
            ("--shard third", "as in --shard 1/4"),
            ("--seed dice", "'dice' is no number"),
            ("--fresh --accept-change", "leave out one of the two"),
            ("--retry-fialed", "--retry-failed"),
        )
    ],
]


@pytest.mark.parametrize(("typed", "said"), TYPOS, ids=[typed for typed, _ in TYPOS])
def test_what_is_typed_wrong_touches_nothing_and_ends_with_2_and_a_sentence_that_says_what_to_type(
    folder: Folder, typed: str, said: str
) -> None:
    for name, text in {
        "broken.py": "def double(:\n",
        "in.jsonl": "1\n",
        "in.txt": "1\n",
        "in.csv": "n\n1\n",
        "blob": "1\n",
    }.items():
        folder.write(name, text)
    ended = folder.run("run", *typed.split())
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert not list(folder.path.glob("out*"))


# Pipes that are silent, and shells


@contextmanager
def fed(folder: Folder, *arguments: str) -> Generator[tuple[Command, int, int]]:
    """The command, what it reads from, and what it writes to: two open pipes."""
    (given, feeding), (reading, out) = os.pipe(), os.pipe()
    try:
        with (folder.path / "err").open("wb") as err, folder.command(arguments, given, out, err.fileno()) as command:
            os.close(given)
            os.close(out)
            yield command, feeding, reading
    finally:
        os.close(reading)
        with suppress(OSError):  # the test may have closed it
            os.close(feeding)


def line_from(descriptor: int) -> Any:
    """The next line that stands there, alone."""
    assert select.select([descriptor], [], [], PATIENCE)[0], "there was never a line"
    data = os.read(descriptor, 65536)
    assert data.count(b"\n") == 1
    return json.loads(data)


def test_a_result_comes_out_while_standard_input_is_still_open(folder: Folder) -> None:
    with fed(folder, "run", "job.py:double", "-", "--format", "jsonl", "-o", "-") as (command, feeding, reading):
        for number in range(3):
            os.write(feeding, b"%d\n" % number)
            assert line_from(reading)["value"] == 2 * number
        os.close(feeding)
        assert command.wait() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_wait_for_a_silent_standard_input(folder: Folder, number: signal.Signals, code: int) -> None:
    with fed(folder, "run", "job.py:double", "-", "--format", "text", "-o", "out.jsonl") as (command, feeding, _):
        os.write(feeding, b"one\ntw")
        folder.until(command, "log", "double")
        command.send_signal(number)
        assert command.wait() == code
    assert "Traceback" not in folder.read("err")
    assert "Fatal" not in folder.read("err")
    assert folder.values() == ["oneone"]


def test_an_attempt_times_out_and_others_go_on_while_standard_input_is_silent(folder: Folder) -> None:
    arguments = (
        "run",
        "job.py:stuck",
        "-",
        "--format",
        "jsonl",
        "-o",
        "out.jsonl",
        "--timeout",
        "0.05",
        "--retries",
        "1",
    )
    with fed(folder, *arguments) as (command, feeding, _):
        os.write(feeding, b"7\n")
        folder.until(command, "log", "cancelled 7", 2)
        os.close(feeding)
        assert command.wait() == 1


def test_what_runs_is_cancelled_when_the_grace_of_sigterm_is_over(folder: Folder) -> None:
    folder.numbers(3)
    program = "import aiomap.cli.job as job; job._GRACE = 0.05; from aiomap.cli import main; main()"
    command = [sys.executable, "-c", program, "run", "job.py:stuck", "in.jsonl", "-o", "out.jsonl", "-j", "2"]
    with subprocess.Popen(command, cwd=folder.path, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + PATIENCE
        while folder.read("log").count("start") < 2:
            assert time.monotonic() < end
            select.select([], [], [], 0.005)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        told = process.stderr.read().decode()
        assert process.wait(PATIENCE) == 143
    assert folder.noted() == {"start 0": 1, "start 1": 1, "cancelled 0": 1, "cancelled 1": 1}
    assert told.index("state=draining") < told.index("state=cancelling") < told.index("state=terminated")


def test_the_last_line_of_a_log_says_how_it_ended(folder: Folder) -> None:
    folder.numbers(3)
    told = folder.run("run", "job.py:double", "in.jsonl", "-o", "out.jsonl").err
    assert [line.split()[2] for line in told.splitlines() if line.startswith("aiomap t=")] == ["state=finished"]


def test_when_it_is_over_nothing_stands_beside_the_output_but_the_journal_the_failures_and_the_lock(
    folder: Folder,
) -> None:
    folder.numbers(300)
    before = folder.names()
    folder.run("run", "job.py:picky", "in.jsonl", "-o", "out.jsonl", "--retries", "0")
    there = {"out.jsonl", "out.jsonl.run", "out.jsonl.run.lock", "out.failed.jsonl", "log", "__pycache__"}
    assert folder.names() - before <= there
    assert "out.failed.jsonl" in folder.names()


@pytest.mark.parametrize("name", ["json", "click"])
def test_a_file_beside_the_job_that_is_called_like_a_module_is_not_taken_for_it_with_python_m(
    folder: Folder, name: str
) -> None:
    folder.numbers(1)
    folder.write(f"{name}.py", "raise RuntimeError('theirs')\n")
    ended = subprocess.run(
        [sys.executable, "-m", "aiomap", "run", "job.py:double", "in.jsonl", "-o", "out.jsonl"],
        cwd=folder.path,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (ended.returncode, b"theirs" in ended.stderr) == (0, False)


def test_after_ctrl_z_and_fg_the_block_is_drawn_anew_and_the_run_goes_on(folder: Folder) -> None:
    folder.numbers(3)
    command = [sys.executable, "-m", "aiomap", "run", "job.py:held", "in.jsonl", "-o", "out.jsonl"]
    master, slave = os.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    shown = b""

    def shows(text: bytes) -> None:
        nonlocal shown
        while text not in shown:
            assert select.select([master], [], [], PATIENCE)[0], f"there was never {text!r}"
            shown += os.read(master, 65536)

    # A group of its own, in the session of its parent, as a shell has it: else it could not be stopped.
    with subprocess.Popen(
        command, cwd=folder.path, stdin=slave, stdout=slave, stderr=slave, env=environment, process_group=0
    ) as process:
        os.close(slave)
        shows(b"in flight 3/10")
        os.kill(process.pid, signal.SIGTSTP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        shows(b"\r\n\x1b[J\x1b[A\x1b[K")  # what was drawn is gone
        shown = b""
        os.kill(process.pid, signal.SIGCONT)
        shows(b"in flight 3/10")
        folder.write("go", "")
        shows(b"finished")
        assert process.wait(PATIENCE) == 0
    os.close(master)


def test_the_output_shows_what_was_done_while_the_next_item_takes_its_time(folder: Folder) -> None:
    folder.numbers(3)
    with folder.started("run", "job.py:first", "in.jsonl", "-o", "out.jsonl", "-j", "1") as process:
        folder.until(process, "out.jsonl", "\n")
        assert folder.values() == ["x" * 100]
        folder.write("go", "")
        assert process.wait() == 0
    assert len(folder.records()) == 3


@pytest.mark.parametrize(
    "typed",
    [
        "job.py:same in.jsonl -o in.jsonl",
        "job.py:same in.jsonl -o in.jsonl --fresh",
        "job.py:same out.failed.jsonl -o out.jsonl --fresh",
        "job.py:same ./out.failed.jsonl in.jsonl -o out.jsonl",
        "job.py:same in.jsonl -o job.py --fresh",
        "job.py:same in.jsonl -o link --fresh",
    ],
)
def test_what_is_read_is_never_written(folder: Folder, typed: str) -> None:
    folder.numbers(1)
    folder.write("out.failed.jsonl", "1\n")
    (folder.path / "link").symlink_to("in.jsonl")
    before = {name: folder.read(name) for name in folder.names()}
    ended = folder.run("run", *typed.split())
    assert (ended.code, "would be read and written" in ended.err) == (2, True), ended.err
    assert {name: folder.read(name) for name in folder.names()} == before


def test_items_that_are_known_by_another_column_are_another_job(folder: Folder) -> None:
    folder.write("in.csv", "n,m\n1,2\n")
    run = ("run", "job.py:known", "in.csv", "-o", "out.jsonl")
    assert folder.run(*run, "--id", "n").code == 0
    ended = folder.run(*run)
    assert (ended.code, "another --id" in ended.err) == (3, True), ended.err
    assert len(folder.records()) == 1


@pytest.mark.parametrize(("output", "failed"), [("out.jsonl", "out.failed.jsonl"), ("out", "out.failed.jsonl")])
def test_the_failed_file_is_json_lines_by_its_name_too(folder: Folder, output: str, failed: str) -> None:
    folder.numbers(4)
    folder.run("run", "job.py:picky", "in.jsonl", "-o", output, "--retries", "0")
    assert [record["input"] for record in folder.records(failed)] == [3]


@pytest.mark.parametrize("output", ["out.csv", "out.jsonl.gz", "out.parquet"])
def test_an_output_that_looks_like_another_format_is_refused(folder: Folder, output: str) -> None:
    folder.numbers(1)
    ended = folder.run("run", "job.py:same", "in.jsonl", "-o", output)
    assert (ended.code, "would be JSON Lines, whatever its name" in ended.err) == (2, True)


def test_a_column_that_the_first_item_has_not_is_a_mistake(folder: Folder) -> None:
    folder.write("in.csv", "shop,m\n1,2\n")
    folder.write("in.txt", "one\n")
    for file, has in (("in.csv", "it has: shop, m"), ("in.txt", "it has no columns at all")):
        ended = folder.run("run", "job.py:same", file, "-o", "out.jsonl", "--per-key", "shopp")
        assert (ended.code, "--per-key names the column shopp" in ended.err, has in ended.err) == (2, True, True)
    assert folder.run("run", "job.py:same", "in.csv", "-o", "out.jsonl", "--per-key", "shop").code == 0
    ended = folder.run("fetch", "in.csv", "-o", "pages.jsonl")
    assert (ended.code, "a link stands in the column url or link" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["job.py:file", "--setup", "session"], "cannot be called with an item and what --setup gives"),
        (["job.py:using"], "cannot be called with an item"),
        (["job.py:using", "--setup", "note"], "note"),
    ],
)
def test_a_function_that_takes_something_else_is_a_mistake_that_is_said_before(
    folder: Folder, typed: list[str], told: str
) -> None:
    folder.write("job.py", folder.read("job.py").replace('def note(word, item=""):', 'def note(word="", item=""):'))
    folder.numbers(2)
    ended = folder.run("run", *typed, "in.jsonl", "-o", "out.jsonl")
    assert (ended.code, told in ended.err) == (2, True), ended.err
    assert "Traceback" not in ended.err


def test_where_the_set_up_failed_is_told_by_the_lines_of_the_user_alone(folder: Folder) -> None:
    broken = "def broken():\n    try:\n        return {}['nothing']\n    except KeyError as error:\n"
    folder.write("job.py", folder.read("job.py") + f"{broken}        json_of()\n\nfrom json import loads as json_of\n")
    folder.numbers(1)
    ended = folder.run("run", "job.py:using", "in.jsonl", "-o", "out.jsonl", "--setup", "broken")
    assert ended.code == 4
    assert "return {}['nothing']" in ended.err
    assert "json_of()" in ended.err
    assert ended.err.count('File "') == 2


@pytest.mark.parametrize("typed", [["--help"], ["--version"], ["status", "out.jsonl"], ["errors", "out.jsonl"]])
def test_what_is_told_and_cannot_be_written_is_6(folder: Folder, typed: list[str]) -> None:
    folder.numbers(1)
    folder.run("run", "job.py:same", "in.jsonl", "-o", "out.jsonl")
    full = os.open("/dev/full", os.O_WRONLY)
    with (
        (folder.path / "err").open("wb") as err,
        (folder.path / "in.jsonl").open("rb") as given,
        folder.command(typed, given.fileno(), full, err.fileno()) as command,
    ):
        code = command.wait()
    os.close(full)
    assert (code, folder.read("err")) == (6, "Error: cannot write standard output: No space left on device\n")


def test_failures_that_a_selection_did_not_reach_stay_in_the_failed_file(folder: Folder) -> None:
    folder.numbers(6)
    run = ("run", "job.py:picky", "in.jsonl", "-o", "out.jsonl", "--retries", "0")
    assert folder.run(*run).code == 1
    folder.write("healed", "")
    assert folder.run(*run, "--limit", "4", "--retry-failed").code == 0
    assert [record["input"] for record in folder.records("out.failed.jsonl")] == [4]
    assert folder.run(*run).code == 0
    assert folder.records("out.failed.jsonl") == []
