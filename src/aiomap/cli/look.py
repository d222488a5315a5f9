"""`aiomap status`, `errors`, `check` and `export`: what a job has come to, from its journal.

Invariant: they only read, a run may be on meanwhile, and what they say comes from the journal alone.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, cast

import click

from aiomap._foreign import printable, redacted
from aiomap.cli.exits import BROKEN_PIPE, FAILURES, IoFailed, Refused, WrongUsage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiomap.errors import RecordedFailure

__all__ = ["check", "errors", "export", "status"]

_SHOWN: Final = 20  # groups of failures
_WIDTH: Final = 100  # characters of an example
_NAMED: Final = 3  # files that are missing

# What makes two messages of one kind different.
_NUMBERS: Final = re.compile(r"\d+")
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"|https?://\S+")


@click.command()
@click.argument("output", metavar="OUT", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="As one line of JSON.")
def status(output: str, *, as_json: bool) -> int:
    """Say how far the job of OUT has come.

    \b
      aiomap status out.jsonl
      aiomap status out.jsonl --json | jq .failed
    """  # noqa: D301  (click takes the character \b as: leave these lines as they are)
    told = _read(output, _status)
    click.echo(json.dumps(told) if as_json else _in_words(output, told))
    return 0


@click.command()
@click.argument("output", metavar="OUT", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each group.")
def errors(output: str, *, as_json: bool) -> int:
    """Show the failures of the job of OUT, those that differ only in a name or a number as one.

    \b
      aiomap errors out.jsonl
      aiomap run job.py:lookup ids.csv --id id -o out.jsonl --retry-failed timeout
    """  # noqa: D301  (the same)
    groups = _read(output, _groups)
    if as_json:
        for group in groups:
            told = {"class": group.kind, "type": group.type_name, "count": group.count, "example": group.example}
            click.echo(json.dumps({**told, "key": json.loads(group.key), "index": group.index}))
        return 0
    if not groups:
        click.echo(f"aiomap: {printable(output)} has no failures")
        return 0
    for group in groups[:_SHOWN]:
        click.echo(f"{group.count:>9,}  {printable(group.kind)}: {printable(group.example)[:_WIDTH]}")
        click.echo(f"           as for {printable(_without_secrets(group.key))[:_WIDTH]} (index {group.index:,})")
    if len(groups) > _SHOWN:
        click.echo(f"           and {len(groups) - _SHOWN:,} more kinds; --json has them all")
    kinds = ",".join(dict.fromkeys(group.kind for group in groups))
    click.echo(f"to run them again, add to the command:  --retry-failed {shlex.quote(printable(kinds))}")
    return 0


@click.command()
@click.argument("output", metavar="OUT", type=click.Path())
def check(output: str) -> int:
    """Read the journal of OUT, OUT itself, and the files of --save, and say whether all is as it was written.

    \b
      aiomap check out.jsonl

    Exit status: 0 it is, 1 it is not.
    """  # noqa: D301  (the same)
    from aiomap.journal import Journal
    from aiomap.journal.lock import is_held

    report = _read(output, lambda journal: Journal(journal).check())
    problems = list(report.problems)
    if report.ok and not is_held(output + ".run"):  # while a run is on, OUT is behind
        problems += _read(output, lambda journal: _differences(output, journal))
    if report.ok and report.rows:
        problems += _read(output, _saved_differences)
    for problem in problems:
        click.echo(f"aiomap: {printable(problem)}", err=True)
    if report.problems:
        journal, whole = f"{output}.run", f"{output}.whole.run"
        code = f"from aiomap import Journal; Journal({journal!r}).repair(into={whole!r})"
        click.echo(printable(f"aiomap: save what is whole with  python -c {shlex.quote(code)}"), err=True)
    click.echo(f"aiomap: {report.rows:,} rows, {'all as they were written' if not problems else 'not all is well'}")
    return FAILURES if problems else 0


@click.command()
@click.argument("output", metavar="OUT", type=click.Path())
@click.option("--to", "kind", type=click.Choice(["csv", "parquet", "jsonl"]), required=True, help="What it is to be.")
@click.option(
    "-o", "--output", "target", metavar="FILE", type=click.Path(), default="-", show_default=True, help="Where it goes."
)
@click.option("--excel-safe", is_flag=True, help="Put a ' before cells that a spreadsheet would take for formulas.")
def export(output: str, kind: Any, target: str, *, excel_safe: bool) -> int:
    """Write the results of the job of OUT as a table, in the order of the input.

    \b
      aiomap export out.jsonl --to csv -o out.csv
      aiomap export out.jsonl --to parquet -o out.parquet
    """  # noqa: D301  (the same)
    from aiomap.cli.export import Untabular
    from aiomap.cli.export import export as written
    from aiomap.cli.output import WriteFailed
    from aiomap.errors import MissingExtra

    _check_target(output, target)
    try:
        rows = _read(output, lambda journal: written(journal, kind, target, excel_safe=excel_safe))
    except BrokenPipeError:
        return BROKEN_PIPE
    except (Untabular, MissingExtra) as error:
        raise WrongUsage(printable(str(error))) from error
    except WriteFailed as error:
        raise IoFailed(printable(str(error))) from error
    if target != "-":
        click.echo(f"aiomap: {rows:,} rows in {printable(target)}", err=True)
    return 0


def _check_target(output: str, target: str) -> None:
    """WrongUsage if the export would take the place of a file that the job has, or may come to have."""
    from aiomap.cli.sitting import failed_name

    journal = output + ".run"
    names = output, failed_name(output), *(journal + end for end in ("", "-wal", "-shm", ".lock"))
    if target != "-" and any(_is_same(target, name) for name in names):
        raise WrongUsage(
            printable(f"{target} is a file of the job itself, which the export would overwrite: name another with -o")
        )


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121  (paths are text here)
    except OSError:  # one of them is not there yet
        return os.path.realpath(one) == os.path.realpath(other)


def _without_secrets(key: str) -> str:
    """The JSON of a key with its secrets masked; the quote at its end is no part of them."""
    quoted = key.startswith('"') and key.endswith('"') and len(key) > 1
    return f'"{redacted(key[1:-1])}"' if quoted else redacted(key)


def _read(output: str, what: Callable[[str], Any]) -> Any:
    """What that says of the journal of OUT."""
    from aiomap.errors import JournalDamaged, JournalError

    try:
        return what(output + ".run")
    except JournalDamaged as error:
        raise Refused(printable(str(error))) from error
    except JournalError as error:
        raise WrongUsage(printable(f"{error}. Name the OUT of a job, as in  aiomap status out.jsonl")) from error


def _differences(output: str, journal: str) -> list[str]:
    """Where OUT is not what the journal gives, in the order of recording or in that of the input."""
    from aiomap.cli.out_file import line_of, rows_in_input_order
    from aiomap.journal.reading import read_rows
    from aiomap.journal.rows import DONE

    orders = (
        (line_of(row) for _, row in read_rows(journal) if row[2] == DONE),
        map(line_of, rows_in_input_order(journal)),
    )
    try:
        ends = [_first_difference(output, lines) for lines in orders]
    except OSError as error:
        return [f"{output} cannot be read: {error.strerror}"]
    if None in ends:
        return []
    return [f"{output} is not what its journal gives, from line {max(end or 0 for end in ends)} on: run it again"]


def _saved_differences(journal: str) -> list[str]:
    """What is not as it was written of the files of `fetch --save`."""
    from aiomap.journal.reading import identity_of

    folder = _saved_into(identity_of(journal))
    if folder is None:
        return []
    if not os.path.isdir(folder):  # noqa: PTH112  (paths are text here)
        return [f"{folder}, the folder of --save, is not here: type this in the folder in which fetch was typed"]
    count, wrong = 0, list[str]()
    for name, size in _saved_files(journal):
        count += 1
        if not _has_size(os.path.join(folder, name), size):  # noqa: PTH118  (the same)
            wrong.append(name)
    if not wrong:
        return []
    names = ", ".join(wrong[:_NAMED]) + (", ..." if len(wrong) > _NAMED else "")
    return [f"of {count:,} files in {folder}, {len(wrong):,} missing or of another size than was saved: {names}"]


def _saved_into(identity: dict[str, Any]) -> str | None:
    """What stood behind --save; `None` if nothing did, or if it is no job of `fetch`."""
    version = identity.get("version")
    if not isinstance(version, str) or identity.get("serializer") != "json":
        return None
    try:
        options = json.loads(version)
    except ValueError:
        return None
    folder = cast("dict[str, Any]", options).get("save") if isinstance(options, dict) else None
    return folder if isinstance(folder, str) else None


def _saved_files(journal: str) -> Iterator[tuple[str, object]]:
    """The files that the results name, each with its size."""
    from aiomap.journal.reading import read_rows
    from aiomap.journal.rows import DONE

    for _, row in read_rows(journal):
        value = json.loads(row[-1]) if row[2] == DONE else None
        saved = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        if isinstance(name := saved.get("file"), str):
            yield name, saved.get("bytes")


def _has_size(path: str, size: object) -> bool:
    try:
        return os.path.getsize(path) == size  # noqa: PTH202  (the same)
    except (OSError, ValueError):
        return False


def _first_difference(output: str, lines: Iterator[bytes]) -> int | None:
    """The first line that is not as it must be, from 1; `None` if there is none."""
    with open(output, "rb") as file:  # noqa: PTH123  (a path is text here)
        for number, (there, line) in enumerate(zip_longest(file, lines), 1):
            if there != line:
                return number
    return None


def _status(journal: str) -> dict[str, Any]:
    from aiomap.journal.lock import is_held
    from aiomap.journal.reading import read_rows, sittings_of
    from aiomap.journal.record import failure_of
    from aiomap.journal.rows import DONE, FAILED

    done = skipped = 0
    failed: Counter[str] = Counter()
    for _, row in read_rows(journal):
        if row[2] == FAILED:
            failed[failure_of(journal, row).kind] += 1
        elif row[2] == DONE:
            done += 1
        else:
            skipped += 1
    opened = [body for body in sittings_of(journal) if "opens" in body]
    return {
        "done": done,
        "failed": failed.total(),
        "skipped": skipped,
        "failures": dict(failed.most_common()),
        "sittings": len(opened),
        "since": opened[-1]["at"] if opened else None,
        "function": opened[-1]["opens"].get("function") if opened else None,
        "running": is_held(journal),
    }


def _in_words(output: str, told: dict[str, Any]) -> str:
    rows = [f"{printable(output)}: {told['done']:,} done, {told['failed']:,} failed, {told['skipped']:,} skipped"]
    rows += [f"  {count:>9,}  {printable(kind)}" for kind, count in told["failures"].items()]
    if told["since"] is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(told["since"]))
        now = "running now" if told["running"] else "not running"
        rows.append(f"  {printable(str(told['function']))}, sitting {told['sittings']} began {since}; {now}")
    return "\n".join(rows)


@dataclass
class _Group:
    kind: str
    type_name: str
    example: str
    key: str
    index: int
    count: int = 0


def _groups(journal: str) -> list[_Group]:
    groups: dict[tuple[str, str], _Group] = {}
    for failure, key, index in _failures(journal):
        message = _NUMBERS.sub("N", _QUOTED.sub("...", failure.message))
        group = groups.setdefault(
            (failure.kind, message), _Group(failure.kind, failure.type_name, failure.message, key, index)
        )
        group.count += 1
    return sorted(groups.values(), key=lambda group: -group.count)


def _failures(journal: str) -> Iterator[tuple[RecordedFailure, str, int]]:
    from aiomap.cli.out_file import key_text
    from aiomap.journal.reading import read_rows
    from aiomap.journal.record import failure_of
    from aiomap.journal.rows import FAILED

    for _, row in read_rows(journal):
        if row[2] == FAILED:
            yield failure_of(journal, row), key_text(row), row[3]
