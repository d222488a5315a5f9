"""Promise 27, one writer at a time: a lock that ends with its owner, whatever ends the owner."""

from __future__ import annotations

import fcntl
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiomap.errors import JournalError, JournalLocked
from aiomap.journal.lock import FileLock

TAKE = """
import os, sys
from aiomap.journal.lock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
"""
HOLD = TAKE + "print('held', flush=True)\nsys.stdin.read()\n"
# The child lives on until it is told to end, after its parent has ended without giving anything back.
FORK = (
    TAKE
    + """
if os.fork() == 0:
    print('child', lock.held, flush=True)
    sys.stdin.read()
    os._exit(0)
os._exit(0)
"""
)
# The child ends first, and gives back whatever it has.
CHILD_RELEASES = (
    TAKE
    + """
child = os.fork()
if child == 0:
    lock.release()
    os._exit(0)
os.waitpid(child, 0)
print('held', lock.held, flush=True)
sys.stdin.read()
"""
)


@contextmanager
def running(program: str, path: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program, and the first line that it printed."""
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "run.db")


@pytest.fixture
def lock(path: str) -> Iterator[FileLock]:
    lock = FileLock(path)
    lock.acquire()
    yield lock
    lock.release()


def refused(path: str) -> str:
    other = FileLock(path)
    with pytest.raises(JournalLocked) as caught:
        other.acquire()
    assert not other.held
    assert caught.value.path == path
    return caught.value.reason


def taken(path: str) -> bool:
    other = FileLock(path)
    other.acquire()
    held = other.held
    other.release()
    return held


@pytest.mark.usefixtures("lock")
def test_a_second_owner_in_the_same_process_is_refused_and_told_so(path: str) -> None:
    assert re.fullmatch(
        r"it is in use by this process, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d: "
        r"wait for that run to end, or give this one a journal of its own",
        refused(path),
    )


def test_a_second_process_is_refused_and_told_who_has_it(path: str) -> None:
    with running(HOLD, path) as (process, _):
        assert f"it is in use by process {process.pid} on {socket.gethostname()}, since 2" in refused(path)


def test_the_lock_is_free_after_its_owner_was_killed(path: str) -> None:
    with running(HOLD, path) as (process, said):
        assert said == "held"
        process.kill()
        process.wait()
        assert taken(path)


def test_a_released_lock_can_be_taken_again_and_its_file_stays_private(path: str, lock: FileLock) -> None:
    lock.release()
    lock.release()
    assert not lock.held
    assert stat.S_IMODE(Path(path + ".lock").stat().st_mode) == 0o600
    assert taken(path)
    lock.acquire()
    assert lock.held


def test_a_forked_child_does_not_keep_the_lock_of_a_parent_that_died(path: str) -> None:
    with running(FORK, path) as (process, said):
        process.wait()
        assert said == "child False"
        assert taken(path)


def test_a_forked_child_cannot_give_away_the_lock_of_its_parent(path: str) -> None:
    with running(CHILD_RELEASES, path) as (process, said):
        assert said == "held True"
        assert f"process {process.pid} " in refused(path)


def test_a_program_that_is_started_does_not_inherit_the_lock(lock: FileLock, path: str) -> None:
    program = [sys.executable, "-c", "print(flush=True); input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, close_fds=False) as process:
        assert process.stdout is not None
        process.stdout.readline()
        lock.release()
        assert taken(path)
        process.communicate("\n")


@pytest.mark.parametrize("line", [b"", b"nobody", b'{"pid": 1}', b'{"pid": 1, "host": "h", "since": 1e99}', b"[]"])
@pytest.mark.usefixtures("lock")
def test_an_owner_that_cannot_be_read_is_another_process(path: str, line: bytes) -> None:
    Path(path + ".lock").write_bytes(b"0" * 20 + b"\n" + line)
    assert refused(path).startswith("it is in use by another process: wait ")


@pytest.mark.usefixtures("lock")
def test_an_owner_of_control_characters_moves_no_cursor(path: str) -> None:
    Path(path + ".lock").write_bytes(b"0" * 20 + b'\n{"pid": 1, "host": "\\u001b[2J", "since": 1}\n')
    assert "process 1 on \N{REPLACEMENT CHARACTER}[2J, since" in refused(path)


def test_a_mark_is_there_for_the_next_owner_and_leaves_the_owner_alone(path: str, lock: FileLock) -> None:
    assert lock.marked() == 0
    lock.mark(4711)
    assert lock.marked() == 4711
    lock.mark(12)
    assert "it is in use by this process" in refused(path)
    lock.release()
    assert lock.marked() == 12
    lock.acquire()
    assert lock.marked() == 12


@pytest.mark.parametrize("text", [b"", b"123", b"x" * 20, b"-" + b"0" * 18 + b"1", b"\xff" * 40, b" " * 20])
def test_a_garbled_mark_counts_as_none(path: str, text: bytes) -> None:
    Path(path + ".lock").write_bytes(text)
    lock = FileLock(path)
    assert lock.marked() == 0
    lock.acquire()
    assert lock.marked() == 0
    lock.mark(5)
    assert lock.marked() == 5
    assert "this process" in refused(path)
    lock.release()


def test_there_is_no_mark_where_there_is_no_file(path: str) -> None:
    assert FileLock(path).marked() == 0
    assert not Path(path + ".lock").exists()


def test_a_symbolic_link_is_not_followed(path: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    Path(path + ".lock").symlink_to(target)
    with pytest.raises(JournalError, match="is a symbolic link, which is not followed: remove it"):
        FileLock(path).acquire()
    assert target.read_bytes() == b"precious"


def test_a_folder_that_is_not_there_is_an_error_of_the_journal(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"run\.db\.lock cannot be locked \(No such file or directory\)"):
        FileLock(str(tmp_path / "none" / "run.db")).acquire()


def test_a_system_without_flock_is_told_so(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(JournalError, match="this system has no flock"):
        FileLock(path).acquire()


def test_a_lock_file_that_was_deleted_meanwhile_keeps_nobody_out_and_is_not_relied_on(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, deletions = fcntl.flock, iter([path + ".lock"])

    def slow_flock(descriptor: int, operation: int) -> Any:
        for file in deletions:
            Path(file).unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", slow_flock)
    lock = FileLock(path)
    lock.acquire()
    assert "this process" in refused(path)
    lock.release()
