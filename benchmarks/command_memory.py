"""How much memory the command has while it reads a large file: as much at its end as near its beginning.

Invariant: the memory is what the process has at that moment (resident), not the most it ever had; how much of the file
it has read by then is the system's own count of its reads. Linux alone tells both.

Lines are long, so that there are few: the journal takes 100 to 150 bytes of memory for each item by design, and this is
about the file.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from command_lines import AIOMAP, JOBS
from fresh import MeasurementFailed
from journal import FOLDER
from rounds import Effort
from verdict import Bar, Line, Row

MEGABYTES = 500
LINE = 10_000  # bytes
MOST_MORE = 10  # MB, from a fifth of the file to its end
LOOK = 0.05  # seconds
FORMATS: dict[str, Callable[[int, str], str]] = {
    "jsonl": lambda number, text: json.dumps({"id": number, "text": text}) + "\n",
    "csv": lambda number, text: f'{number},"{text}"\n',
}


def reading_a_large_file(_: Effort) -> Row:
    """The memory of `aiomap run` at each fifth of a file of 500 MB."""
    lines: list[Line] = []
    raw: dict[str, list[float]] = {}
    for form in FORMATS:
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            raw[form] = found = _memory(form, Path(folder))
        shown = ", ".join(f"{memory:.0f}" for memory in found)
        reached = found[-1] <= found[0] + MOST_MORE
        bar = Bar(f"at most + {MOST_MORE} MB from a fifth of the file on", reached)
        lines.append(Line(f"`aiomap run` over {MEGABYTES} MB of {form}, memory at each fifth", f"{shown} MB", (bar,)))
    return Row(lines, raw)


def _memory(form: str, folder: Path) -> list[float]:
    """MB, at each fifth of what it reads."""
    source = folder / f"large.{form}"
    size = _write(source, form)
    command = [AIOMAP, "run", f"{JOBS}:letters", str(source), "-o", str(folder / "out.jsonl"), "-q"]
    found: list[float] = []
    with subprocess.Popen(command) as running:
        memory = 0.0
        while running.poll() is None:
            told = _told(running.pid)
            if told is not None:
                read, memory = told
                while len(found) < 4 and read > size * (len(found) + 1) / 5:
                    found.append(memory)
            time.sleep(LOOK)
    if running.returncode:
        raise MeasurementFailed(f"exit status {running.returncode}")
    return [*found, memory]


def _write(source: Path, form: str) -> int:
    with source.open("w", encoding="ascii") as file:
        if form == "csv":
            file.write("id,text\n")
        for number in range(MEGABYTES * 1_000_000 // LINE):
            file.write(FORMATS[form](number, "x" * (LINE - 30)))
    return source.stat().st_size


def _told(process: int) -> tuple[int, float] | None:
    """How many bytes it has read, and how many MB it has; None once it has exited."""
    try:
        counts = Path(f"/proc/{process}/io").read_text(encoding="ascii").split()
        pages = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()
    except (OSError, ProcessLookupError):
        return None
    if len(pages) < 2 or pages[1] == "0":
        return None
    return int(counts[1]), int(pages[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
