"""out.failed.jsonl: whole at any instant, without secrets in its messages, and ready to be fed in again."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiomap.cli.failed_file import FailedFile, failed_line
from aiomap.cli.output import WriteFailed
from aiomap.errors import RecordedFailure
from aiomap.fetch import FetchFailed

pytestmark = pytest.mark.once

SECRET = "https://me:hunter2@host/?token=abc"  # noqa: S105


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.failed.jsonl"


@pytest.fixture
def failed(path: Path) -> Iterator[FailedFile]:
    file = FailedFile(str(path))
    yield file
    file.close()


def entries(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def keys(path: Path) -> list[Any]:
    return [entry["key"] for entry in entries(path)]


def earlier(path: Path, *given: Any) -> None:
    """The file as an earlier sitting left it."""
    file = FailedFile(str(path))
    for index, key in enumerate(given):
        file.add(failed_line(key, index, ValueError("earlier"), key))
    assert file.finish(set()) == len(given)
    file.close()


def test_a_line_says_what_failed_how_and_with_what_input(path: Path, failed: FailedFile) -> None:
    failed.add(failed_line("id 7", 7, TimeoutError("slow"), {"id": "7", "name": "Ann"}))
    failed.add(failed_line(8, 8, FetchFailed("http_4xx", "404 Not Found", 404), "http://host/"))
    assert failed.finish(set()) == 2
    assert entries(path) == [
        {
            "key": "id 7",
            "index": 7,
            "error": {"class": "timeout", "type": "TimeoutError", "message": "slow"},
            "input": {"id": "7", "name": "Ann"},
        },
        {
            "key": 8,
            "index": 8,
            "error": {
                "class": "http_4xx",
                "type": "aiomap.fetch.FetchFailed",
                "message": "404 Not Found",
            },
            "input": "http://host/",
        },
    ]


def test_secrets_are_masked_in_the_message_and_stand_in_key_and_input(path: Path, failed: FailedFile) -> None:
    failed.add(failed_line(SECRET, 0, ValueError(f"cannot get {SECRET}"), SECRET))
    failed.finish(set())
    (entry,) = entries(path)
    assert entry["key"] == entry["input"] == SECRET
    assert entry["error"]["message"] == "cannot get https://***@host/?token=***"


def test_a_failure_that_an_earlier_sitting_recorded_is_told_as_it_was(path: Path, failed: FailedFile) -> None:
    failed.add(failed_line(1, 0, RecordedFailure("http_5xx", "httpx.HTTPStatusError", "502"), 1))
    failed.finish(set())
    assert entries(path)[0]["error"] == {"class": "http_5xx", "type": "httpx.HTTPStatusError", "message": "502"}


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (None, None),
        ([1, {"a": 2.5}], [1, {"a": 2.5}]),
        ("caf\xe9 \u2028 \ud800 \x1b", "caf\xe9 \u2028 \ud800 \x1b"),
        ({"when": dt.date(2025, 11, 26)}, {"when": "2025-11-26"}),
        ({"share": float("nan"), "most": float("inf")}, {"share": None, "most": None}),
        ({"raw": b"\xff"}, {"raw": "b'\\xff'"}),
    ],
)
def test_any_input_is_written_as_json_can_have_it(path: Path, failed: FailedFile, given: Any, written: Any) -> None:
    failed.add(failed_line(1, 0, ValueError(), given))
    failed.finish(set())
    assert entries(path)[0]["input"] == written
    assert path.read_bytes().isascii()
    assert path.read_bytes().count(b"\n") == 1


def test_the_keys_of_former_lines_are_known_before_anything_is_written(path: Path, failed: FailedFile) -> None:
    assert list(failed.keys()) == []
    earlier(path, "a", ["en", 1])
    assert list(failed.keys()) == ["a", ["en", 1]]
    failed.add(failed_line("b", 0, ValueError(), "b"))
    assert list(failed.keys()) == ["a", ["en", 1]]


def test_a_sitting_without_failures_leaves_no_file(path: Path, failed: FailedFile) -> None:
    assert failed.finish(set()) == 0
    assert not path.exists()
    earlier(path, "a", "b")
    assert failed.finish({"a", "b"}) == 0
    assert not list(path.parent.iterdir())


def test_failures_of_items_that_were_not_reached_are_kept_as_they_are(path: Path, failed: FailedFile) -> None:
    earlier(path, "a", "b", "c", "d")
    lines = path.read_bytes().splitlines()
    failed.add(failed_line("c", 2, KeyError("again"), "c"))
    assert failed.finish({"b", "c"}) == 3
    assert path.read_bytes().splitlines()[:2] == [lines[0], lines[3]]
    assert keys(path) == ["a", "d", "c"]
    assert entries(path)[2]["error"]["class"] == "KeyError"


def test_a_sitting_that_reached_nothing_keeps_the_file(path: Path, failed: FailedFile) -> None:
    earlier(path, "a", "b")
    before = path.read_bytes()
    assert failed.finish(set()) == 2
    assert path.read_bytes() == before


def test_what_was_reached_may_be_said_by_a_function(path: Path, failed: FailedFile) -> None:
    earlier(path, ["en", 1], ["en", 2], "x")
    assert failed.finish(lambda key: key == ["en", 1]) == 2
    assert keys(path) == [["en", 2], "x"]


@pytest.mark.parametrize("line", [b"garbage", b"[1]", b'{"no":1}', b"\xff", b"", b"[" * 100_000, b'{"key":'])
def test_former_lines_that_are_none_of_ours_are_left_out(path: Path, failed: FailedFile, line: bytes) -> None:
    path.write_bytes(line + b'\n{"key":1}\r\n' + line + b'\n{"key":2}')
    failed.add(failed_line(3, 0, ValueError(), 3))
    assert failed.finish(set()) == 3
    assert keys(path) == [1, 2, 3]


def test_the_former_file_stays_until_the_new_one_is_whole(
    path: Path, failed: FailedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier(path, "a")
    before = path.read_bytes()
    failed.add(failed_line("b", 0, ValueError(), "b"))
    assert path.read_bytes() == before

    def fsync(descriptor: int) -> None:
        assert path.read_bytes() == before
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(WriteFailed, match="the disk is full"):
            failed.finish(set())
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert failed.finish(set()) == 2
    assert keys(path) == ["a", "b"]


def test_it_is_synced_before_it_has_its_name_and_the_folder_after(
    path: Path, failed: FailedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        if steps[-1] == "file":
            assert os.fstat(descriptor).st_size > 0
        real_sync(descriptor)

    def replace(draft: str, name: str) -> None:
        steps.append("name")
        real_replace(draft, name)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    failed.add(failed_line(1, 0, ValueError(), 1))
    failed.finish(set())
    assert steps == ["file", "name", "folder"]


def test_its_mode_is_what_the_umask_says(path: Path, failed: FailedFile) -> None:
    failed.add(failed_line(1, 0, ValueError(), 1))
    mask = os.umask(0o027)
    try:
        failed.finish(set())
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_what_a_link_stands_for_is_written(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path.symlink_to(tmp_path / "elsewhere" / "real.jsonl")
    earlier(path, "a")
    assert path.is_symlink()
    assert keys(tmp_path / "elsewhere" / "real.jsonl") == ["a"]


def test_given_up_it_leaves_nothing(path: Path) -> None:
    earlier(path, "a")
    file = FailedFile(str(path))
    file.add(failed_line("b", 0, ValueError(), "b"))
    file.close()
    file.close()
    assert keys(path) == ["a"]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_kill_takes_what_was_not_finished_with_it(path: Path) -> None:
    program = (
        "import os, signal, sys; from aiomap.cli.failed_file import FailedFile, failed_line\n"
        "file = FailedFile(sys.argv[1])\n"
        "for number in range(2000): file.add(failed_line(number, number, ValueError(), 'x' * 100))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    "step", [lambda file: file.add(failed_line(1, 0, ValueError(), 1)), lambda file: file.finish(set())]
)
def test_a_folder_that_is_not_there_is_one_error_with_a_sentence(
    tmp_path: Path, step: Callable[[FailedFile], None]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    file = FailedFile(str(tmp_path / "file" / "out.failed.jsonl"))
    with pytest.raises(WriteFailed, match=r"out\.failed\.jsonl cannot be written: Not a directory"):
        step(file)
    file.close()


def test_failures_are_not_held_in_memory(path: Path) -> None:
    program = (
        "import resource, sys; from aiomap.cli.failed_file import FailedFile, failed_line\n"
        "file = FailedFile(sys.argv[1])\n"
        "file.add(failed_line('first', 0, ValueError(), 'x'))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for number in range(30): file.add(failed_line(number, number, ValueError(), 'x' * 10**6))\n"
        "file.finish(set()); file.finish({3})\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = int(subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, check=True).stdout)
    assert grown * (1 if sys.platform == "darwin" else 1024) < 20 << 20
