"""`aiomap run`: what may be typed, and what becomes of it.

Invariant: nothing but click is imported before the command runs. What is wrong is said before the output is touched.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aiomap._foreign import printable
from aiomap.cli import flags
from aiomap.cli.exits import (
    BROKEN_PIPE,
    FAILURES,
    HALTED,
    INTERRUPTED,
    OUT_OF_TIME,
    Crashed,
    IoFailed,
    Refused,
    WrongUsage,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiomap.cli.job import Job, Plan, Stop
    from aiomap.cli.screen import Screen
    from aiomap.errors import RecordedFailure
    from aiomap.journal import Journal

__all__ = ["run"]


@click.command()
@click.argument("function", metavar="FUNCTION")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="OUT", required=True, help="Where the results go, JSON Lines; - is stdout.")
@click.option(
    "--format",
    "input_format",
    type=click.Choice(["jsonl", "csv", "text", "parquet"]),
    help="What INPUT is, where its name does not say so.",
)
@click.option("--id", "id_column", metavar="COLUMN", help="The column that an item is known by.")
@click.option("--dedupe", is_flag=True, help="Call equal items once.")
@click.option("--limit", callback=flags.parse_count, metavar="N", help="Only the first N items.")
@click.option("--sample", callback=flags.parse_count, metavar="N", help="Only N items, chosen by chance.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    metavar="S",
    help="Which chance: the same one chooses the same.",
)
@click.option("--shard", callback=flags.parse_shard, metavar="I/N", help="Only the I-th of N parts of the input.")
@click.option("--dry-run", is_flag=True, help="Read the input, say what would be done, and do nothing.")
@click.option(
    "-j",
    "--max-concurrent-tasks",
    callback=flags.parse_concurrency,
    default="10",
    show_default=True,
    metavar="N|auto",
    help="How many items run at once; auto finds out how many are taken.",
)
@click.option(
    "--rate",
    callback=flags.parse_rate,
    default="none",
    show_default=True,
    metavar="N/TIME",
    help="How many attempts start in a time, in all: 10/s, 100/m, 1000/h, 10/2s.",
)
@click.option("--per-key", metavar="host|COLUMN", help="What is bounded for each value of its own: a host, a column.")
@click.option(
    "--per-key-tasks",
    callback=flags.parse_bound,
    default="2",
    show_default=True,
    metavar="N|none",
    help="How many items of one key run at once.",
)
@click.option(
    "--per-key-rate",
    callback=flags.parse_rate,
    default="none",
    show_default=True,
    metavar="N/TIME",
    help="How many attempts of one key start in a time.",
)
@click.option(
    "--timeout",
    callback=flags.parse_seconds,
    default="60",
    show_default=True,
    metavar="SECONDS",
    help="How long one attempt may take in all.",
)
@click.option(
    "--retries",
    callback=flags.parse_retries,
    default="4",
    show_default=True,
    metavar="N",
    help="How often an item that failed is tried again.",
)
@click.option(
    "--retry-on",
    callback=flags.parse_classes,
    default="timeout,conn,5xx",
    show_default=True,
    metavar="CLASS,...",
    help="After which failures.",
)
@click.option("--halt", callback=flags.parse_halt, metavar="N|P%", help="Stop when more items have failed.")
@click.option("--max-time", callback=flags.parse_duration, metavar="TIME", help="Start nothing new after it: 90s, 6h.")
@click.option(
    "--max-failures",
    callback=flags.parse_number,
    default="0",
    show_default=True,
    metavar="N",
    help="How many items may fail with exit status 0.",
)
@click.option(
    "--retry-failed",
    callback=flags.parse_failed,
    is_flag=False,
    flag_value="all",
    metavar="[CLASS,...]",
    help="Run these failed items again too, or all of them.",
)
@click.option("--accept-change", is_flag=True, help="Keep the results of a function that was another.")
@click.option("--fresh", is_flag=True, help="Lose what is in OUT and its journal, and start anew.")
@click.option("-k", "--keep-order", is_flag=True, help="Put OUT into the order of the input at the end.")
@click.option("--tag", metavar="TEXT", help="Names a version of the work: another one is a change.")
@click.option(
    "--setup", metavar="NAME", help="Gives an async context manager; its value is FUNCTION's second argument."
)
@click.option("--in-thread", is_flag=True, help="FUNCTION blocks: call it in threads.")
@click.option("-q", "--quiet", is_flag=True, help="No screen, no summary.")
def run(**given: Any) -> int:
    """Map FUNCTION over the records of a file.

    FUNCTION is file.py:function or module:function, an async function of one item. INPUT is JSON Lines, CSV, text (a
    line is an item) or Parquet, gzip or not; - is standard input.

    \b
      aiomap run job.py:lookup ids.csv --id id -o out.jsonl
      aiomap run job.py:ask prompts.jsonl -o out.jsonl -j 50 --rate 100/m --retries 2
      cat links.txt | aiomap run job.py:get - -o - | jq .value

    Every success gives a line in OUT. Beside OUT stand OUT.run, the journal, and the failures, in OUT.failed.jsonl (for
    out.jsonl: out.failed.jsonl), which can be fed back in. The same command again goes on where it ended: with what is
    missing, and with failures that may pass, as timeouts do.

    Ctrl-C stops: what is in flight is finished, and what is done is safe. Once more cancels it, once more ends at once.

    Exit status: 0 all succeeded, 1 more failed than --max-failures, 2 wrong usage or input, 3 refused (the function
    changed, OUT is in use, the journal is damaged), 4 halted, 5 out of time, 6 a file could not be written, 130 stopped
    by Ctrl-C, 143 by SIGTERM.
    """  # noqa: D301  (click takes the character \b as: leave these lines as they are)
    from aiomap.errors import MissingExtra
    from aiomap.inputs import BadInput

    _check_together(given)
    try:
        plan = _plan(given)
        if given["dry_run"]:
            return _dry_run(plan)
        return _sit(plan, given)
    except (BadInput, MissingExtra) as error:
        raise WrongUsage(printable(str(error))) from error


def _check_together(given: dict[str, Any]) -> None:
    """UsageError if flags do not go together."""
    if given["fresh"] and given["accept_change"]:
        raise click.UsageError("--fresh starts anew, and --accept-change goes on: leave out one of the two")
    if given["output"] == "-":
        for name in ("fresh", "accept_change", "retry_failed"):
            if given[name]:
                flag = "--" + name.replace("_", "-")
                raise click.UsageError(
                    f"standard output has no journal to go on from: leave out {flag}, or name a file"
                )
    context = click.get_current_context()
    for name in ("per_key_tasks", "per_key_rate"):
        if given["per_key"] is None and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(
                f"{flag} bounds each key, and there is none: add --per-key host, or the name of a column"
            )


def _plan(given: dict[str, Any]) -> Plan:
    from aiomap.cli.function import load_function, load_setup
    from aiomap.cli.job import Plan
    from aiomap.inputs import entries

    # Before anything is loaded from the user's folder, everything of ours is.
    setup = given["setup"]
    records = entries(
        given["inputs"],
        format=given["input_format"],
        id_column=given["id_column"],
        dedupe=given["dedupe"],
        limit=given["limit"],
        sample=given["sample"],
        seed=given["seed"],
        shard=given["shard"],
    )
    retry = flags.retry_of_classes(given["retries"], given["retry_on"])
    limits = flags.limits_of_run(given["rate"], given["per_key"], given["per_key_tasks"], given["per_key_rate"])
    slots = flags.concurrency_of(given["max_concurrent_tasks"])
    journal = None if given["output"] == "-" else _journal(given)
    return Plan(
        load_function(given["function"], in_thread=given["in_thread"]),
        records,
        slots,
        setup=None if setup is None else load_setup(setup, given["function"]),
        timeout=given["timeout"],
        retry=retry,
        limits=limits,
        journal=journal,
        ordered=given["keep_order"] and journal is None,
        halt=given["halt"],
        max_time=given["max_time"],
    )


def _journal(given: dict[str, Any]) -> Journal:
    from aiomap.journal import Journal

    told = {name: given[name] for name in ("tag", "setup") if given[name] is not None}
    return Journal(
        given["output"] + ".run",
        key=_key,
        version=json.dumps(told, sort_keys=True) if told else None,
        retry_failed=_retry_failed(given["retry_failed"]),
        on_change="reuse" if given["accept_change"] else "refuse",
    )


def _key(entry: Any) -> object:
    return entry.key


def _retry_failed(classes: frozenset[str] | None) -> Callable[[RecordedFailure], bool]:
    """Failures that may pass run again at any time, others if they were named."""
    from aiomap.failures import is_retryable

    if classes is None:
        return lambda failure: is_retryable(failure.kind)
    return lambda failure: is_retryable(failure.kind) or not classes or failure.kind in classes


def failed_name(output: str) -> str:
    """Where the failures stand: `out.failed.jsonl` for `out.jsonl`."""
    path = Path(output)
    return str(path.with_name(f"{path.stem}.failed{path.suffix}"))


def _dry_run(plan: Plan) -> int:
    from aiomap.cli.view import counted

    count = faults = 0
    for entry in plan.entries:
        count += 1
        faults += entry.fault is not None
    bad = f", {faults:,} of them no items" if faults else ""
    click.echo(f"aiomap: {counted(count, 'record')}{bad}; nothing was run", err=True)
    return 0


def _sit(plan: Plan, given: dict[str, Any]) -> int:
    from aiomap.cli.job import Job
    from aiomap.cli.output import WriteFailed
    from aiomap.cli.outputs import JournalledOutput, StreamedOutput, start_anew
    from aiomap.cli.screen import Screen
    from aiomap.errors import JournalDamaged, JournalError

    output = given["output"]
    try:
        if plan.journal is None:
            if sys.stdout is None:
                raise WrongUsage("standard output is closed")
            written: Any = StreamedOutput(os.dup(sys.stdout.fileno()))
        else:
            paths = output, os.fspath(plan.journal.path), failed_name(output)
            _check_place(output)
            if given["fresh"]:
                start_anew(*paths)
            _check_ours(output, paths[1])
            written = JournalledOutput(*paths, keep_order=given["keep_order"])
        with Screen(quiet=given["quiet"] or (output == "-" and sys.stdout.isatty())) as screen:
            job = Job(plan, written, screen)
            try:
                job.run()
            finally:
                written.close()
    except WriteFailed as error:
        if isinstance(error.__cause__, BrokenPipeError):
            return BROKEN_PIPE
        raise IoFailed(printable(str(error))) from error
    except JournalError as error:
        kind = Refused if error.__cause__ is None or isinstance(error, JournalDamaged) else IoFailed
        raise kind(_with_ways_out(error)) from error
    except SystemExit as error:
        raise Crashed(f"the function ended the program ({error.code}): what was done before is safe") from error
    except KeyboardInterrupt as error:
        raise Crashed("the function raised KeyboardInterrupt: what was done before is safe") from error
    if not given["quiet"]:
        with suppress(OSError):  # a terminal that is gone must not change the exit code
            click.echo(_summary(job, written, given, screen), err=True)
    return _code(job, given["max_failures"])


def _check_place(output: str) -> None:
    path = Path(output)
    if not path.parent.is_dir():
        folder = shlex.quote(str(path.parent))
        raise WrongUsage(printable(f"there is no folder for {output}: make it with  mkdir -p {folder}"))
    if path.exists() and not path.is_file():
        raise WrongUsage(f"{printable(output)} is no regular file, and cannot be gone on with: write -o - for a pipe")


def _check_ours(output: str, journal: str) -> None:
    """What is in OUT must have come from its journal: everything else would be cut off."""
    path = Path(output)
    if path.exists() and path.stat().st_size and not Path(journal).exists():
        raise Refused(
            f"{printable(output)} exists, and has no journal ({printable(journal)}) to say what belongs into it: "
            "add --fresh to lose it, or name another file with -o"
        )


def _with_ways_out(error: Exception) -> str:
    from aiomap.errors import JournalChanged

    if not isinstance(error, JournalChanged):
        return printable(str(error))
    reason = error.reason.partition(" Write ")[0]
    return printable(
        f"{error.path}: {reason} Add --accept-change to keep the results that are there, --fresh to lose them and "
        "start anew, or name another file with -o"
    )


def _code(job: Job, max_failures: int) -> int:
    from aiomap.cli.job import Stop

    codes: dict[Stop, int] = {
        Stop.INTERRUPTED: INTERRUPTED,
        Stop.TERMINATED: 143,
        Stop.HUNG_UP: 129,
        Stop.HALTED: HALTED,
        Stop.OUT_OF_TIME: OUT_OF_TIME,
    }
    if job.stop is not None:
        return codes[job.stop]
    return FAILURES if job.failed > max_failures else 0


def _summary(job: Job, written: Any, given: dict[str, Any], screen: Screen) -> str:
    from aiomap.cli.view import end

    again = shlex.join(["aiomap", *sys.argv[1:]])
    if job.stop is not None:
        next_command: str | None = f"{again}   # goes on"
    elif job.failed and given["output"] != "-":
        next_command = f"aiomap errors {shlex.quote(given['output'])}"
    else:
        next_command = None
    verdict = "finished" if job.stop is None else job.stop.value
    return end(job.view, verdict, written.files(), next_command, screen.width)
