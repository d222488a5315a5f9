"""The command line: whole programs, from their start to their exit, beside what is there for the same work.

Invariant: a run is timed from the start of the program until it has exited, its output written; that every item is in
there, once, is checked outside of that time. A rate is the items over all of it, starting included, so it is a little
too low for those that get few items. Inputs and outputs are files of one and the same disk.

The cookbook's script posts requests, and is measured at that, beside `aiomap run` with a function that posts the same
ones to the same server, which answers at once: see `cookbook` for how it is run. It has as many requests under way as
there are; aiomap has a hundred at a time, which is also how many connections aiohttp opens for either.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import json_server
from command_lines import AIOMAP, BY_HAND, COMMAND_LINES, JOBS, RUN, RUN_STREAMING
from fresh import MeasurementFailed
from journal import FOLDER
from processes import seconds
from rounds import Effort, Figures, apart, take_turns
from verdict import Bar, Line, Row, cell, raw

PATIENCE = 120.0
CLOCKS = ("wall us", "CPU us")
WALL = CLOCKS[0]
PEERS = ("parallel", "xargs")
HEAD = ("a line of JSON, 10 at a time", "items/s", "wall us", "CPU us", "items", "the same command, after a kill")

REQUESTS = 2_000
SCRIPT = Path(__file__).with_name("cookbook.py")
COOKBOOK = "the cookbook's script"
HOW = (
    "the cookbook's script is not here: fetch examples/api_request_parallel_processor.py from the repository "
    "openai/openai-cookbook, and add --cookbook with its path"
)

HELP_ROUNDS = 20
HELP_REACH = 150.0
PYTHON_ALONE = "python -c pass"
WITH_CLICK = "python -c 'import click'"
HELPS = ("aiomap --help", "aiomap run --help", "aiomap fetch --help")
STARTS = {
    PYTHON_ALONE: [sys.executable, "-c", "pass"],
    WITH_CLICK: [sys.executable, "-c", "import click"],
    **{name: [AIOMAP, *name.split()[1:]] for name in HELPS},
}


def lines_of_a_file(effort: Effort) -> Row:
    """How many lines a second: aiomap with a function that returns at once, others with the least of programs."""
    rounds = math.ceil(effort.rounds / 2)  # each takes some 20 s
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        figures = take_turns(COMMAND_LINES, lambda name: _mapped(name, Path(folder)), rounds)
    by_clock = apart(CLOCKS, figures)
    wall = by_clock[WALL]
    rivals = [name for name in COMMAND_LINES if name not in (RUN, RUN_STREAMING, BY_HAND)]
    lines = [
        Line(
            f"`{RUN}`, {COMMAND_LINES[RUN].items:,} lines, start to exit",
            _rate(wall[RUN]),
            rival=_rival(RUN, wall, [name for name in rivals if COMMAND_LINES[name].recording]),
        ),
        Line("the same, -o -, so no journal", _rate(wall[RUN_STREAMING]), rival=_rival(RUN_STREAMING, wall, rivals)),
    ]
    cells = [
        [name, _rate(wall[name]), *(_micro(by_clock[clock][name]) for clock in CLOCKS), f"{each.items:,}", each.again]
        for name, each in COMMAND_LINES.items()
    ]
    found = {clock: raw(one) for clock, one in by_clock.items()}
    return Row(lines, {"versions": {name: _version(name) for name in PEERS}, **found}, own_table=[HEAD, *cells])


def _version(program: str) -> str:
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return "not installed"
    return told.partition("\n")[0]


def _mapped(name: str, folder: Path) -> list[float]:
    chosen = COMMAND_LINES[name]
    source = folder / f"{chosen.items}.jsonl"
    if not source.exists():
        _write(source, ({"id": number, "text": f"The text of item {number}."} for number in range(chosen.items)))
    return _per_item(lambda inside: chosen.arguments(source, inside), source, chosen.items)


def requests(effort: Effort, script: Path | None = None) -> Row:
    """How many requests a second, to a server that answers at once; nothing without the cookbook's script."""
    if script is None:
        print(f"  left out: {HOW}", file=sys.stderr)
        return Row([], {"left out": HOW})
    rounds = math.ceil(effort.rounds / 2)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder, json_server.started() as address:
        source = Path(folder, "requests.jsonl")
        _write(source, ({"id": number, "model": "any", "input": f"Item {number}."} for number in range(REQUESTS)))
        ways: dict[str, Callable[[Path], list[str]]] = {
            RUN: lambda inside: [*_asking(source), "-o", str(inside / "out.jsonl")],
            RUN_STREAMING: lambda _: [*_asking(source), "-o", "-"],
            COOKBOOK: lambda inside: [sys.executable, str(SCRIPT), str(script), str(source), str(inside / "out.jsonl")],
        }
        figures = take_turns(ways, lambda name: _per_item(ways[name], source, REQUESTS, ASKED=address), rounds)
    by_clock = apart(CLOCKS, figures)
    wall = by_clock[WALL]
    lines = [
        Line(f"`{RUN}`, {REQUESTS:,} requests, start to exit", _rate(wall[RUN]), rival=_rival(RUN, wall, [COOKBOOK])),
        Line(
            "the same, -o -, so no journal",
            _rate(wall[RUN_STREAMING]),
            rival=_rival(RUN_STREAMING, wall, [COOKBOOK]),
        ),
    ]
    head = ("a request over loopback", "requests/s", *CLOCKS)
    cells = [[name, _rate(wall[name]), *(_micro(by_clock[clock][name]) for clock in CLOCKS)] for name in ways]
    return Row(lines, {clock: raw(one) for clock, one in by_clock.items()}, own_table=[head, *cells])


def _asking(source: Path) -> list[str]:
    return [AIOMAP, "run", f"{JOBS}:ask", str(source), "--setup", "session", "-j", "100"]


def _write(path: Path, items: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items), encoding="utf-8")


def _per_item(arguments: Callable[[Path], list[str]], source: Path, items: int, **variables: str) -> list[float]:
    """Run it in a new folder; give the `CLOCKS`."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        folder = Path(name)
        # parallel reads settings in the one, and has its jobs run by the other.
        own = {"PARALLEL_HOME": name, "SHELL": "/bin/sh"}
        taken = seconds(arguments(folder), folder, within=PATIENCE, given=source, **own, **variables)
        if _numbers(folder) != list(range(items)):
            raise MeasurementFailed("wrong results")
    return [1e6 * clock / items for clock in taken]


def _numbers(folder: Path) -> list[int]:
    """Which items there is a result of, a number for each result, sorted."""
    written = folder / "out.jsonl"
    with (written if written.exists() else folder / "output").open(encoding="utf-8") as file:
        try:
            return sorted(_number(json.loads(line)) for line in file)
        except (ValueError, LookupError, TypeError) as error:
            raise MeasurementFailed(f"wrong results: {error}") from error


def _number(line: Any) -> int:
    result = line.get("value", line) if isinstance(line, dict) else line
    return int((result[0] if isinstance(result, list) else result)["id"])


def _rate(figures: Figures) -> str:
    return f"{1e6 / figures.best:,.0f}/s" if figures.failure is None else cell(figures)


def _micro(figures: Figures) -> str:
    """Print microseconds; if there are none, the rate says why."""
    return "-" if figures.failure else cell(figures, ",.0f" if figures.best >= 100 else ".3g")


def _rival(name: str, wall: Mapping[str, Figures], rivals: Iterable[str]) -> str:
    rival = min(rivals, key=lambda other: wall[other].best)
    if wall[name].failure or wall[rival].failure:
        return "-"
    factor = wall[rival].best / wall[name].best
    return f"{rival}, {factor:.2f} x" if factor < 10 else f"{rival}, {factor:.0f} x"


def showing_help(_: Effort) -> Row:
    """How long one waits for --help: the median, since it is what one waits, of runs in turn."""
    figures = take_turns(STARTS, _milliseconds, HELP_ROUNDS)
    by_clock = apart(CLOCKS, figures)
    lines = [
        Line(f"`{name}`, start to exit", f"{_median(by_clock[WALL][name])} ms", (_soon_enough(name, by_clock),))
        for name in HELPS
    ]
    head = ("start to exit, median of 20", "wall ms", "CPU ms")
    cells = [[name, *(_median(by_clock[clock][name]) for clock in CLOCKS)] for name in STARTS]
    return Row(lines, {clock: raw(one) for clock, one in by_clock.items()}, own_table=[head, *cells])


def _milliseconds(name: str) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        return [1000 * clock for clock in seconds(STARTS[name], Path(folder), within=PATIENCE)]


def _median(figures: Figures) -> str:
    return f"{statistics.median(figures.values):.0f}" if figures.failure is None else cell(figures)


def _soon_enough(name: str, by_clock: Mapping[str, Mapping[str, Figures]]) -> Bar:
    taken = by_clock[WALL][name]
    reached = taken.failure is None and statistics.median(taken.values) < HELP_REACH
    # Where a program that does nothing waits for longer than it runs, it is the machine.
    waited, ran = (statistics.median(by_clock[clock][PYTHON_ALONE].values) for clock in CLOCKS)
    disturbed = not reached and taken.failure is None and waited > 2 * ran
    return Bar(f"< {HELP_REACH:g} ms", None if disturbed else reached)
