"""What the command line promises as a whole: defaults, refusals, and that nothing foreign and no secret gets out."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiomap import Journal, Rate, amap
from aiomap.cli.commands import aiomap
from aiomap.cli.plan import Stop
from tests.commands import Folder, serving
from tests.test_cli_run import Terminal
from tests.test_job import forever, press, sat

pytestmark = pytest.mark.once

JOB = """
import asyncio, os, resource, signal
from contextlib import asynccontextmanager

HOSTILE = "\\x1b[2J\\x1b]0;title\\x07\\u202e"

def note(item):
    descriptor = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{item}\\n".encode())
    os.close(descriptor)

async def same(n):
    return n

async def odd(n):
    note(n)
    if n % 2:
        raise (ValueError if n == 1 else KeyError)(n)
    return n

async def first_fails(n):
    note(n)
    if n == 0:
        raise ValueError(n)
    while not os.path.exists("go"):
        await asyncio.sleep(0.005)
    return n

async def last_waits(n):
    while n == 2 and not os.path.exists("go"):
        await asyncio.sleep(0.005)
    return n

async def refused(row):
    raise ValueError(f"GET {row['url']} was refused")

async def hostile(line):
    error = ValueError(HOSTILE + line)
    error.kind = "kind" + HOSTILE
    raise error

async def held(line):
    note("started")
    while not os.path.exists("go"):
        await asyncio.sleep(0.005)

async def hung_up(n):
    theirs = signal.getsignal(signal.SIGHUP)
    def noting(*arguments):
        theirs(*arguments)
        note("hung up")
    signal.signal(signal.SIGHUP, noting)
    note("started")
    while not os.path.exists("go"):
        await asyncio.sleep(0.005)
    return n

async def memory(line):
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

async def using(n, session):
    return n

class Odd(BaseException):
    pass

async def raises_base(n):
    raise Odd("at http://me:CANARY@h/")

async def prints(n):
    print("not data", end="")
    return n

@asynccontextmanager
async def broken():
    raise RuntimeError("at http://me:CANARY@h/?token=CANARY \\x1b[2J")
    yield
"""


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    with serving() as ours:
        yield ours


@pytest.fixture
def folder(tmp_path: Path, server: socket.socket) -> Folder:
    (tmp_path / "job.py").write_text(JOB)
    return Folder(tmp_path, server)


# What is not typed


COMMON = {
    "input_format": None,
    "id_column": None,
    "dedupe": False,
    "limit": None,
    "sample": None,
    "seed": 0,
    "shard": None,
    "dry_run": False,
    "rate": None,
    "per_key_tasks": 2,
    "timeout": 60.0,
    "retries": 4,
    "retry_on": {"timeout", "dns", "connect", "http_5xx"},
    "max_time": None,
    "max_failures": 0,
    "retry_failed": None,
    "accept_change": False,
    "fresh": False,
    "keep_order": False,
    "quiet": False,
}
OF_RUN = {
    "max_concurrent_tasks": 10,
    "per_key": None,
    "per_key_rate": None,
    "tag": None,
    "setup": None,
    "in_thread": False,
}
OF_FETCH = {
    "max_concurrent_tasks": "auto",
    "per_key": "host",
    "per_key_rate": Rate(1, 0.25),
    "save": None,
    "headers": (),
    "method": None,
    "data": None,
    "max_body": 16 << 20,
    "allow_private": False,
    "no_robots": False,
}


@pytest.mark.parametrize(
    ("command", "typed", "own"), [("run", ["job.py:same", "in.txt"], OF_RUN), ("fetch", ["in.txt"], OF_FETCH)]
)
def test_what_is_not_typed_is_the_default(command: str, typed: list[str], own: dict[str, Any]) -> None:
    given = aiomap.commands[command].make_context(command, [*typed, "-o", "out"]).params
    for asked in ("function", "inputs", "output"):
        given.pop(asked, None)
    assert not given.pop("halt")(10**9, 10**9)
    wanted = COMMON | own
    assert given.keys() == wanted.keys()
    rates = {name for name, value in wanted.items() if isinstance(value, Rate)}
    assert {name: given[name] for name in wanted.keys() - rates} == {
        name: wanted[name] for name in wanted.keys() - rates
    }
    assert all(repr(given[name]) == repr(wanted[name]) for name in rates)


# What is done again, and what is refused


@pytest.mark.parametrize(
    ("typed", "again"),
    [
        (["--retry-failed"], {"1", "3"}),
        (["--retry-failed", "-j", "3"], {"1", "3"}),
        (["--retry-failed=ValueError"], {"1"}),
        (["--retry-failed", "KeyError,dns"], {"3"}),
        ([], set[str]()),
    ],
    ids=" ".join,
)
def test_retry_failed_runs_all_or_the_classes_that_are_named(folder: Folder, typed: list[str], again: set[str]) -> None:
    folder.numbers(4)
    run = ["run", "job.py:odd", "in.jsonl", "-o", "out.jsonl", "-q"]
    assert folder.run(*run).code == 1
    folder.write("log", "")
    assert folder.run(*run[:2], *typed, *run[3:4], "out.jsonl", "-q", "in.jsonl").code == 1
    assert set(folder.noted()) == again


@pytest.mark.parametrize("flag", ["--retry-failed=dns", "--fresh", "--accept-change"])
def test_what_is_about_an_earlier_sitting_is_refused_for_standard_output(folder: Folder, flag: str) -> None:
    folder.numbers(1)
    ended = folder.run("run", "job.py:odd", "in.jsonl", "-o", "-", flag)
    assert (ended.code, ended.out) == (2, "")
    assert f"leave out {flag.partition('=')[0]}, or name a file" in ended.err
    assert folder.read("log") == ""


def test_a_damaged_journal_is_refused_whatever_is_accepted_and_given_up_only_to_fresh(folder: Folder) -> None:
    folder.numbers(3)
    run = ("run", "job.py:same", "in.jsonl", "-o", "out.jsonl")
    assert folder.run(*run).code == 0
    before = folder.read("out.jsonl")
    with sqlite3.connect(folder.path / "out.jsonl.run") as connection:
        connection.execute("UPDATE outcome SET body = '8' WHERE id = 2")
    connection.close()
    for more in ([], ["--accept-change"], ["--retry-failed"]):
        ended = folder.run(*run, *more)
        assert (ended.code, ended.out) == (3, "")
        assert "row 2 is not as it was written" in ended.err
        assert "aiomap check out.jsonl, or add --fresh" in ended.err
        assert "Traceback" not in ended.err
        assert folder.read("out.jsonl") == before
    assert folder.run(*run, "--fresh").code == 0
    assert sorted(folder.values()) == [0, 1, 2]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.file),)


def test_no_code_is_taken_from_a_journal(folder: Folder) -> None:
    trapped = folder.path / "trapped"

    async def lay(_: int) -> Trap:
        return Trap(trapped)

    journal = Journal(folder.path / "out.jsonl.run", serializer="pickle", version=1)
    asyncio.run(amap(lay, [1, 2], journal=journal))
    assert b"mkdir" in (folder.path / "out.jsonl.run").read_bytes()
    shutil.rmtree(trapped, ignore_errors=True)
    folder.numbers(3)
    run = ("run", "job.py:same", "in.jsonl", "-o", "out.jsonl")
    assert [folder.run(*run, *more).code for more in ([], ["--accept-change"])] == [3, 3]
    for look in (["status"], ["errors"], ["check"], ["export", "--to", "jsonl"], ["export", "--to", "csv"]):
        assert "Traceback" not in folder.run(*look, "out.jsonl").err
    assert not trapped.exists()


def test_another_folder_to_save_in_is_another_job(folder: Folder) -> None:
    folder.write("links.txt", "http://127.0.0.1:1/\n")
    fetch = ("fetch", "links.txt", "-o", "out.jsonl", "--allow-private", "--no-robots", "--retries", "0")
    assert folder.run(*fetch, "--save", "pages").code == 1
    for changed in ([], ["--save", "others"]):
        ended = folder.run(*fetch, *changed)
        assert ended.code == 3
        assert "another --save" in ended.err
        assert all(way in ended.err for way in ("--accept-change", "--fresh", "-o"))
    assert folder.run(*fetch, "--save", "pages").code == 1


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder that takes no file."""
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)
    if not os.access(place, os.W_OK):
        return place
    # Who may do everything may do that not even so, where Linux is.
    system = Path("/sys")
    if not system.is_dir():
        pytest.skip("there is no folder that cannot be written to")
    return system


@pytest.mark.parametrize("more", [[], ["--fresh"]])
def test_a_folder_that_cannot_be_written_to_ends_it_with_6_and_a_sentence(
    folder: Folder, closed: Path, more: list[str]
) -> None:
    folder.numbers(3)
    ended = folder.run("run", "job.py:odd", "in.jsonl", "-o", str(closed / "out.jsonl"), *more)
    assert (ended.code, ended.out) == (6, "")
    assert "writable" in ended.err
    assert "Traceback" not in ended.err
    assert folder.read("log") == ""


# How it ends


def test_the_file_of_failures_is_written_after_an_interrupt_too(folder: Folder) -> None:
    folder.numbers(5)
    run = ("run", "job.py:first_fails", "in.jsonl", "-o", "out.jsonl", "-j", "2")
    with folder.started(*run) as process:
        folder.until(process, "log", "\n", 3)
        process.send_signal(signal.SIGINT)
        folder.until(process, "err", "state=draining")
        folder.write("go", "")
        assert process.wait() == 130
    assert [record["index"] for record in folder.records("out.failed.jsonl")] == [0]
    assert sorted(folder.values()) == [1, 2]
    assert folder.run(*run).code == 1
    assert [record["index"] for record in folder.records("out.failed.jsonl")] == [0]
    assert sorted(folder.values()) == [1, 2, 3, 4]


def test_a_terminal_that_is_closed_lets_what_runs_finish_and_the_next_run_goes_on(folder: Folder) -> None:
    folder.numbers(3)
    run = ("run", "job.py:hung_up", "in.jsonl", "-o", "out.jsonl", "-j", "1")
    master, slave = os.openpty()
    with folder.command(run, slave, slave, slave) as command:
        os.close(slave)
        folder.until(command, "log", "started")
        os.close(master)
        folder.until(command, "log", "hung up")
        folder.write("go", "")
        assert command.wait() == 129
    assert folder.values() == [0]
    assert folder.run(*run).code == 0
    assert folder.values() == [0, 1, 2]
    assert folder.noted()["started"] == 3


def test_sigterm_gives_20_seconds_to_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    call_later = asyncio.BaseEventLoop.call_later

    def at_once(loop: asyncio.BaseEventLoop, delay: float, *call: Any, **context: Any) -> asyncio.TimerHandle:
        if Stop.TERMINATED in call:
            given.append(delay)
            delay = 0
        return call_later(loop, delay, *call, **context)

    async def call(item: str) -> None:
        press(signal.SIGTERM)
        await forever(item)

    monkeypatch.setattr(asyncio.BaseEventLoop, "call_later", at_once)
    assert sat(call, 1).job.stop is Stop.TERMINATED
    assert given == [20.0]


def test_the_library_itself_installs_no_signal_handler(tmp_path: Path) -> None:
    seen: list[list[object]] = []

    async def look(_: int) -> None:
        seen.append([signal.getsignal(number) for number in sorted(signal.valid_signals())])

    async def main() -> None:
        await look(0)
        await amap(look, [1, 2, 3], journal=tmp_path / "run")
        await look(4)

    asyncio.run(main())
    assert len(seen) == 5
    assert all(handlers == seen[0] for handlers in seen)


def test_the_end_says_how_many_failed_of_what_how_fast_where_it_stands_and_what_to_type(folder: Folder) -> None:
    folder.numbers(6)
    told = folder.run("run", "job.py:odd", "in.jsonl", "-o", "my out.jsonl").err
    rows = [row.split() for row in told.partition("aiomap: finished")[2].splitlines()]
    assert rows[0][1:4] == ["6", "items", "in"]
    assert rows[0][-1].endswith("/s")
    assert ["ok", "3"] in rows
    assert ["failed", "3"] in rows
    assert [row[:2] for row in rows if row[0].endswith("Error")] == [["KeyError", "2"], ["ValueError", "1"]]
    assert [row[1] for row in rows if row[0] == "latency"] == ["p50"]
    assert any(row[0] == "slots" and row[-1] == "%" for row in rows)
    for file in ("my out.jsonl (results)", "my out.failed.jsonl (3 failed items;", "my out.jsonl.run (journal)"):
        assert file in told
    assert told.splitlines()[-1] == "  next      aiomap errors 'my out.jsonl'"


# What comes from outside


SECRETS = [
    *("key", "api_key", "token", "access_token", "auth", "secret", "password", "pwd", "sig", "signature", "session"),
    "code",
]


def test_what_is_secret_in_a_link_stands_in_the_input_alone(folder: Folder) -> None:
    link = "http://me:CANARY@host.example/?page=2&" + "&".join(f"{name}=CANARY" for name in SECRETS)
    folder.write("in.jsonl", json.dumps({"id": 1, "url": link}))
    ended = folder.run("run", "job.py:refused", "in.jsonl", "--id", "id", "-o", "out.jsonl")
    assert ended.code == 1
    assert "GET http://***@host.example/?page=2&key=***" in ended.err
    [failed] = folder.records("out.failed.jsonl")
    assert failed.pop("input") == {"id": 1, "url": link}
    looks = (["status"], ["status", "--json"], ["errors"], ["errors", "--json"], ["check"], ["export", "--to", "jsonl"])
    told = [repr(folder.run(*look, "out.jsonl")) for look in looks]
    kept = [file.read_bytes() for file in folder.path.glob("out.jsonl*")]
    assert b"page=2" in b"".join(kept)
    assert "CANARY" not in repr((ended, failed, told, kept))


def test_text_from_outside_cannot_command_the_terminal_of_a_run(folder: Folder) -> None:
    foreign = "\x1b[2J\x1b]0;title\x07\u202e"
    folder.write("in.txt", f"{foreign}\n" * 3)
    output = "out\x1b[2J.jsonl"
    with Terminal(folder, "run", "job.py:hostile", "in.txt", "-o", output) as terminal:
        assert terminal.ends() == 1
        terminal.shows("kind\ufffd[2J")
    with Terminal(folder, "run", "job.py:held", "in.txt", "-o", "held.jsonl") as other:
        other.until(lambda: folder.read("log").count("started") == 3, "three starts")
        other.process.send_signal(signal.SIGUSR1)
        other.shows("line 3, \ufffd[2J")
        folder.write("go", "")
        assert other.ends() == 0
    for shown in (terminal.shown, other.shown):
        assert not [part for part in ("\x1b[2J", "\x1b]", "\x07", "\u202e") if part in shown]


def test_memory_is_constant_whatever_the_length_of_the_input(folder: Folder) -> None:
    def peak(lines: int) -> int:
        folder.write("in.txt", "".join(f"{number:04000}\n" for number in range(lines)))
        ended = folder.run("run", "job.py:memory", "in.txt", "-o", "-", "-q")
        peaks: list[int] = [json.loads(line)["value"] for line in ended.out.splitlines()]
        assert len(peaks) == lines
        return max(peaks)

    mib = 1 << (10 if sys.platform == "linux" else 20)
    assert peak(8_000) - peak(1_000) < 10 * mib  # of 28 MB more


# The shell


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("aiomap ", ["check", "errors", "export", "fetch", "run", "status"]),
        ("aiomap run --retr", ["--retries", "--retry-on", "--retry-failed"]),
        ("aiomap export out.jsonl --to p", ["parquet"]),
    ],
)
def test_bash_completes_commands_options_and_choices(tmp_path: Path, typed: str, completed: list[str]) -> None:
    *words, last = typed.split(" ")
    script = (
        'eval "$(_AIOMAP_COMPLETE=bash_source aiomap)" && complete -p aiomap >&2 && '
        'COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) && _aiomap_completion aiomap && printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = tmp_path / "aiomap"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m aiomap "$@"\n')
    command.chmod(0o755)
    ended = subprocess.run(
        ["bash", "-c", script, "bash", *words, last],  # noqa: S607  (whichever bash there is)
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.split() == completed, ended.stderr


# What is told, and what is not


def stopped(folder: Folder, *more: str, out: str = "out.jsonl") -> str:
    folder.numbers(5)
    with folder.started("run", "job.py:first_fails", "in.jsonl", "-o", out, "-j", "2", *more) as process:
        folder.until(process, "log", "\n", 3)
        process.send_signal(signal.SIGINT)
        folder.until(process, "err", "state=draining")
        folder.write("go", "")
        assert process.wait() == 130
    return folder.read("err").splitlines()[-1]


def test_the_next_command_after_a_fresh_run_does_not_lose_it(folder: Folder) -> None:
    assert "--fresh" not in stopped(folder, "--fresh")


def test_of_what_was_streamed_it_is_not_said_that_it_goes_on(folder: Folder) -> None:
    assert "goes on" not in stopped(folder, out="-")


def test_the_screen_of_a_run_over_a_file_says_how_far_it_is_and_when_it_ends(folder: Folder) -> None:
    folder.numbers(5)
    with Terminal(folder, "run", "job.py:first_fails", "in.jsonl", "-o", "out.jsonl", "-j", "2") as terminal:
        terminal.shows("in flight 2/2")
        folder.write("go", "")
        terminal.ends()
    assert "%" in terminal.shown.partition("finished")[0]


def told_at_sigusr1(folder: Folder, line: str) -> str:
    folder.write("in.txt", line)
    with folder.started("run", "job.py:held", "in.txt", "-o", "out.jsonl") as process:
        folder.until(process, "log", "started")
        process.send_signal(signal.SIGUSR1)
        folder.until(process, "err", "line 1, ")
        folder.write("go", "")
        assert process.wait() == 0
    return folder.read("err")


def test_sigusr1_shows_no_secret(folder: Folder) -> None:
    assert "CANARY" not in told_at_sigusr1(folder, "http://me:CANARY@h/?token=CANARY\n")


def test_a_key_takes_one_line_at_sigusr1(folder: Folder) -> None:
    folder.write("ids.jsonl", '{"id": "x\\naiomap: 9 done"}\n')
    with folder.started("run", "job.py:held", "ids.jsonl", "--id", "id", "-o", "out.jsonl") as process:
        folder.until(process, "log", "started")
        process.send_signal(signal.SIGUSR1)
        folder.until(process, "err", "9 done")
        folder.write("go", "")
        assert process.wait() == 0
    assert not [line for line in folder.read("err").splitlines() if line.startswith("aiomap: 9 done")]


@pytest.mark.parametrize("typed", [["job.py:using", "--setup", "broken"], ["job.py:raises_base"]])
def test_what_the_users_code_raises_is_a_sentence_and_not_exit_1(folder: Folder, typed: list[str]) -> None:
    folder.numbers(1)
    ended = folder.run("run", *typed, "in.jsonl", "-o", "out.jsonl")
    assert "CANARY" not in ended.err
    assert "\x1b" not in ended.err
    assert ended.code != 1


def test_standard_input_that_cannot_be_read_is_2(folder: Folder) -> None:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    with (folder.path / "err").open("wb") as err:
        command = folder.command(
            ("run", "job.py:same", "-", "--format", "text", "-o", "out.jsonl"), descriptor, err.fileno(), err.fileno()
        )
        with command:
            code = command.wait()
    os.close(descriptor)
    assert "Traceback" not in folder.read("err")
    assert code == 2


def test_retry_failed_does_not_take_an_input_for_a_class(folder: Folder) -> None:
    folder.write("a.jsonl", "1\n")
    folder.write("b.jsonl", "2\n")
    run = ("run", "job.py:odd", "-o", "out.jsonl")
    assert folder.run(*run, "a.jsonl", "b.jsonl").code == 1
    again = folder.run(*run, "--retry-failed", "a.jsonl", "b.jsonl")
    assert again.code == 2 or folder.records("out.failed.jsonl"), again


def test_retry_failed_without_a_class_is_refused_for_standard_output_too(folder: Folder) -> None:
    folder.numbers(1)
    assert folder.run("run", "job.py:same", "in.jsonl", "-o", "-", "--retry-failed").code == 2


def test_a_file_name_in_an_error_of_click_cannot_command_the_terminal(folder: Folder) -> None:
    with Terminal(folder, "status", "a", "b\x1b[2Jc\x1b]0;title\x07") as terminal:
        terminal.ends()
    assert "\x1b[2J" not in terminal.shown
    assert "\x1b]0" not in terminal.shown


@pytest.mark.parametrize(
    "typed",
    [
        ["fetch", "https://me:CANARY@h/?token=CANARY", "-o", "out"],
        ["fetch", "ftp://me:CANARY@h/?token=CANARY", "-o", "out"],
        ["run", "job.py:same", "https://me:CANARY@h/?token=CANARY", "-o", "out"],
        ["fetch", "one.txt", "-kHAuthorization:CANARY", "-o", "out", "--allow-private", "--no-robots", "--halt", "0"],
    ],
)
def test_no_secret_that_was_typed_is_in_an_error(folder: Folder, typed: list[str]) -> None:
    folder.write("one.txt", "http://127.0.0.1:1/\n")
    assert "CANARY" not in folder.run(*typed).err


def test_sigusr1_is_answered_in_spite_of_q(folder: Folder) -> None:
    folder.write("in.txt", "one\n")
    with folder.started("run", "job.py:held", "in.txt", "-o", "out.jsonl", "-q") as process:
        folder.until(process, "log", "started")
        process.send_signal(signal.SIGUSR1)
        folder.write("go", "")
        process.wait()
    assert "line 1, one" in folder.read("err")


@pytest.mark.parametrize("command", [[], ["check"]])
def test_every_help_text_has_an_example(folder: Folder, command: list[str]) -> None:
    assert "\n    aiomap " in folder.run(*command, "--help").out


def test_what_the_function_prints_is_no_data(folder: Folder) -> None:
    folder.numbers(2)
    ended = folder.run("run", "job.py:prints", "in.jsonl", "-o", "-")
    assert [json.loads(line)["value"] for line in ended.out.splitlines()] == [0, 1]
    assert ended.err.count("not data") == 2


@pytest.mark.parametrize("quietly", [False, True])
def test_a_warning_of_the_journal_is_told_in_one_safe_line_unless_quiet(folder: Folder, *, quietly: bool) -> None:
    folder.numbers(2)
    run = ("run", "job.py:same", "in.jsonl", "-o", "h\x1b[2J.jsonl")
    folder.run(*run)
    folder.numbers(1)
    ended = folder.run(*run, *(["-q"] if quietly else []))
    assert ended.code == 0
    assert "\x1b" not in ended.err
    assert ("1 of its 2 results" in ended.err) is not quietly


# What a user of half an hour found


def test_a_refusal_is_a_sentence_and_nothing_else(folder: Folder) -> None:
    folder.numbers(3)
    assert folder.run("run", "job.py:same", "in.jsonl", "-o", "out.jsonl").code == 0
    refused = folder.run("run", "job.py:odd", "in.jsonl", "-o", "out.jsonl")
    assert refused.code == 3
    assert [line.split()[0] for line in refused.err.splitlines()] == ["Error:"]


def test_over_finished_work_it_is_said_how_many_of_the_earlier_items_failed(folder: Folder) -> None:
    folder.numbers(4)
    command = "run", "job.py:odd", "in.jsonl", "-o", "out.jsonl"
    assert folder.run(*command).code == 1
    again = folder.run(*command)
    assert again.code == 1
    assert "  earlier             4 (2 of them failed)\n" in again.err


def test_a_place_in_a_csv_is_the_line_of_the_file_and_is_told_once(folder: Folder) -> None:
    folder.write("in.csv", 'n,text\n1,"two\nlines"\n2,x\n3,x,y\n')
    ended = folder.run("run", "job.py:refused", "in.csv", "-o", "out.jsonl")
    assert "   line 5 of in.csv: expected 2 fields, found 3\n" in ended.err
    assert "   line 2: 'url'\n" in ended.err


def test_out_that_is_removed_meanwhile_ends_it_with_6_and_is_made_again(folder: Folder) -> None:
    folder.numbers(3)
    command = "run", "job.py:last_waits", "in.jsonl", "-o", "out.jsonl", "-q"
    with folder.started(*command) as process:
        folder.until(process, "out.jsonl", '"value":1')
        (folder.path / "out.jsonl").unlink()
        folder.write("go", "")
        assert process.wait() == 6
    assert "was removed or replaced while it was written" in folder.read("err")
    assert folder.run(*command).code == 0
    assert sorted(folder.values()) == [0, 1, 2]
