"""Measure aiomap beside everybody else, and print the table of what it must reach.

    python benchmarks/run.py [--quick] [--only WORD] [--json FILE] [--cookbook PATH]

Invariant: a ratio compares figures of one run on one machine. All of it is explained at the top of `rounds`,
`mapping` and the other row modules.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command
import command_memory
import import_time
import journal
import loopback_http
import many_sleepers
import mapping
import random_sleeps
import rate_accuracy
import stream_memory
import table
from contenders import versions
from rounds import NORMAL, QUICK, Effort
from verdict import Row

ROWS: dict[str, Callable[[Effort], Row]] = {
    "list-at-once": mapping.list_at_once,
    "list-policies": mapping.list_policies,
    "list-suspends-once": mapping.list_suspends_once,
    "stream-ordered": mapping.stream_ordered,
    "stream-unordered": mapping.stream_unordered,
    "random-sleeps": random_sleeps.random_sleeps,
    "memory-ordered": stream_memory.ordered_memory,
    "memory-unordered": stream_memory.unordered_memory,
    "many-sleepers": many_sleepers.many_sleepers,
    "journal-recording": journal.recording,
    "journal-reopening": journal.reopening,
    "rate-accuracy": rate_accuracy.rate_accuracy,
    "loopback-http": loopback_http.loopback_http,
    "import-time": import_time.import_time,
    "command-file": command.lines_of_a_file,
    "command-requests": command.requests,
    "command-help": command.showing_help,
    "command-memory": command_memory.reading_a_large_file,
}


def main() -> None:
    """Run the rows that are asked for, print the tables, write the figures down."""
    options = _parse()
    all_rows = ROWS | {"command-requests": functools.partial(command.requests, script=options.cookbook)}
    chosen = {name: measure for name, measure in all_rows.items() if options.only in name}
    if not chosen:
        sys.exit(f"no row has {options.only!r} in its name; the rows are: {', '.join(ROWS)}")
    start = time.monotonic()
    rows = {name: _measure(name, measure, QUICK if options.quick else NORMAL) for name, measure in chosen.items()}
    machine = _machine() | {"seconds": round(time.monotonic() - start)}
    print(_report(list(rows.values()), machine))
    if options.json:
        found = machine | {"rows": {name: row.raw for name, row in rows.items()}}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure aiomap beside its peers; takes about 10 minutes.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a shorter long stream: about 5 minutes")
    parser.add_argument("--only", default="", metavar="WORD", help="only the rows with WORD in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round to FILE")
    parser.add_argument("--cookbook", type=Path, metavar="PATH", help=f"measure it too; else {command.HOW}")
    return parser.parse_args()


def _measure(name: str, measure: Callable[[Effort], Row], effort: Effort) -> Row:
    print(name, file=sys.stderr)
    return measure(effort)


def _machine() -> dict[str, Any]:
    return {"python": platform.python_version(), "platform": platform.platform(), "versions": versions()}


def _report(rows: list[Row], machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    about = f"CPython {machine['python']}, {machine['platform']}; {packages}. Took {machine['seconds']} s."
    return "\n\n".join(filter(None, [about, table.verdicts(rows), table.contenders(rows), *table.own_tables(rows)]))


if __name__ == "__main__":
    main()
