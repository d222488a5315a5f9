"""Who maps the lines of a file from the command line, with which arguments.

Invariant: everybody reads the same lines of JSON, does one thing for each of them, ten at a time, and writes a line of
JSON for it. What does it is Python, of the version that runs this, or else what costs a program of one's own the least:
a shell that prints the line as it is.

GNU parallel has a shell run every job (here: sh), so `printf` costs it no further process. With --pipe it starts one
for a thousand lines, which is fast; but then nothing holds for a single line: no limit, no journal, no failure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

AIOMAP = str(Path(sys.executable).with_name("aiomap"))
JOBS = Path(__file__).with_name("jobs.py")
EACH = [sys.executable, str(Path(__file__).with_name("letters.py"))]
LIMIT = "10"

RUN = "aiomap run"
RUN_STREAMING = "aiomap run -o -"
BY_HAND = "one loop, by hand"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """One way to map the lines of a file.

    `items` is the length of a timed run. `arguments` takes the input, which is the standard input too, and a folder
    for what is written: the result is `out.jsonl` in it, or what was printed. `again` says what the same command does
    once more, after it was killed; `recording` whether it goes on.
    """

    items: int
    arguments: Callable[[Path, Path], list[str]]
    again: str
    recording: bool = False


def aiomap_run(source: Path, folder: Path) -> list[str]:
    """Record in a journal; ten at a time is what it does unasked."""
    return [AIOMAP, "run", f"{JOBS}:letters", str(source), "-o", str(folder / "out.jsonl")]


def aiomap_run_streaming(source: Path, _: Path) -> list[str]:
    """Record nothing."""
    return [AIOMAP, "run", f"{JOBS}:letters", str(source), "-o", "-"]


def by_hand(_: Path, __: Path) -> list[str]:
    """Do it in one loop, one after the other: what reading, calling and writing cost."""
    return EACH


def parallel(command: str, *options: str) -> Callable[[Path, Path], list[str]]:
    """Start a process for each line."""
    return lambda _, __: ["parallel", "-j", LIMIT, *options, command]


def parallel_recording(command: str) -> Callable[[Path, Path], list[str]]:
    """Do so, and note every job that has ended in a file, by which the next run goes on."""
    return lambda _, folder: ["parallel", "-j", LIMIT, "--joblog", str(folder / "joblog"), "--resume", command]


def xargs(*command: str) -> Callable[[Path, Path], list[str]]:
    """Start a process for each line."""
    return lambda _, __: ["xargs", "-P", LIMIT, "-d", r"\n", "-n", "1", *command]


PRINT = r"printf '%s\n'"
PYTHON = " ".join(EACH)
ALL_AGAIN = "does all of it"
LOGGED = "does what the joblog lacks; output has to be appended"

COMMAND_LINES = {
    RUN: CommandLine(100_000, aiomap_run, "does what is missing", recording=True),
    RUN_STREAMING: CommandLine(100_000, aiomap_run_streaming, ALL_AGAIN),
    BY_HAND: CommandLine(100_000, by_hand, ALL_AGAIN),
    "parallel --pipe -N 1000, Python": CommandLine(100_000, parallel(PYTHON, "--pipe", "-N", "1000"), ALL_AGAIN),
    "parallel, printf": CommandLine(1_000, parallel(f"{PRINT} {{}}"), ALL_AGAIN),
    "parallel --joblog --resume, printf": CommandLine(
        1_000, parallel_recording(f"{PRINT} {{}}"), LOGGED, recording=True
    ),
    "parallel, Python": CommandLine(500, parallel(f"{PYTHON} {{}}"), ALL_AGAIN),
    "parallel --joblog --resume, Python": CommandLine(
        500, parallel_recording(f"{PYTHON} {{}}"), LOGGED, recording=True
    ),
    "xargs, sh -c printf": CommandLine(1_000, xargs("sh", "-c", f'{PRINT} "$1"', "sh"), ALL_AGAIN),
    "xargs, Python": CommandLine(500, xargs(*EACH), ALL_AGAIN),
}
