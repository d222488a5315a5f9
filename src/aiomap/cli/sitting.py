"""One sitting of `run` or `fetch`, once it is known what is to be done: its files, its journal, its exit code.

Invariant: what is wrong is said before the output is touched. An earlier sitting's results are lost only to `--fresh`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from aiomap._foreign import is_secret, printable, redacted
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
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from aiomap.cli.job import Job
    from aiomap.cli.plan import Plan, Stop
    from aiomap.cli.screen import Screen
    from aiomap.errors import RecordedFailure
    from aiomap.journal import Journal

# A header as it is typed, up to its colon: -H 'Name: value', -HName:value, --header='Name: value'.
_HEADER: Final = re.compile(r"(?:-[a-zA-Z]*?H|--header=)?(?P<name>[\w-]+):")

__all__ = ["check_together", "failed_name", "journal_of", "sit"]


def check_together(given: Mapping[str, Any]) -> None:
    """UsageError if flags do not go together."""
    if given["fresh"] and given["accept_change"]:
        raise click.UsageError("--fresh starts anew, and --accept-change goes on: leave out one of the two")
    if given["output"] == "-":
        for name in ("fresh", "accept_change", "retry_failed"):
            if given[name] not in (None, False):
                flag = "--" + name.replace("_", "-")
                raise click.UsageError(
                    f"standard output has no journal to go on from: leave out {flag}, or name a file"
                )
    context = click.get_current_context()
    for name in ("per_key_tasks", "per_key_rate"):
        typed = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given["per_key"] in (None, "none") and typed and given[name] is not None:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(
                f"{flag} bounds each key, and there is none: add --per-key host, or the name of a column"
            )


def journal_of(given: Mapping[str, Any], options: Mapping[str, Any]) -> Journal | None:
    """The journal beside OUT; `None` if that is standard output.

    `--id`, by which items are known, is among the flags whose change makes it another job.

    options: what was typed of the flags that change the results, as JSON values by the flag's name.
    """
    from aiomap.journal import Journal

    if given["output"] == "-":
        return None
    if given["id_column"] is not None:
        options = {**options, "id": given["id_column"]}
    return Journal(
        given["output"] + ".run",
        key=_key,
        version=json.dumps(options, sort_keys=True) if options else None,
        retry_failed=_RunsAgain(given["retry_failed"]),
        on_change="reuse" if given["accept_change"] else "refuse",
    )


def _key(entry: Any) -> object:
    return entry.key


class _RunsAgain:
    """Whether a failure of an earlier sitting is run again: if it may pass by itself, or if its class was named.

    classes: those that were named; empty for all, `None` for none.
    """

    def __init__(self, classes: frozenset[str] | None) -> None:
        self._classes = classes
        self._seen: set[str] = set()

    def __call__(self, failure: RecordedFailure) -> bool:
        from aiomap.failures import is_retryable

        self._seen.add(failure.kind)
        classes = self._classes
        return is_retryable(failure.kind) or (classes is not None and (not classes or failure.kind in classes))

    def missed(self) -> str | None:
        """What to say if a class was named that no failure was of, which may be a mistake in typing."""
        unknown = sorted((self._classes or frozenset()) - self._seen)
        if not unknown:
            return None
        there = ", ".join(sorted(self._seen)) or "no failures at all"
        return printable(f"aiomap: --retry-failed {','.join(unknown)} ran nothing again: there were {there}")


def failed_name(output: str) -> str:
    """Where the failures stand.

    >>> failed_name("out.jsonl"), failed_name("out")
    ('out.failed.jsonl', 'out.failed.jsonl')
    """
    return f"{output.removesuffix('.jsonl')}.failed.jsonl"


def sit(plan: Plan, given: Mapping[str, Any]) -> int:
    """Carries out the plan; says how it went; gives the exit code."""
    from aiomap.cli.job import Job
    from aiomap.cli.screen import Screen

    quiet = given["quiet"]
    with _translated(plan), ExitStack() as stack:
        written = _output(plan.journal, given)
        stack.callback(written.close)
        streams = given["output"] == "-"
        screen = stack.enter_context(Screen(quiet=quiet or (streams and sys.stdout.isatty())))
        stack.enter_context(_logged(None if quiet else screen))
        stack.enter_context(redirect_stdout(sys.stderr))  # what the function prints is no data
        job = Job(plan, written, screen)
        job.run()
    if not quiet:
        with suppress(OSError):  # a terminal that is gone must not change the exit code
            click.echo(_summary(job, plan.journal, written, given, screen), err=True)
    return _code(job, given["max_failures"])


@contextmanager
def _logged(screen: Screen | None) -> Generator[None]:
    """Has the screen say what the library warns of; without one, nobody does."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if screen is not None:
                screen.say(f"aiomap: {redacted(record.getMessage())}")

    log, handler = logging.getLogger("aiomap"), Handler(logging.WARNING)
    propagated, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagated


def _output(journal: Journal | None, given: Mapping[str, Any]) -> Any:
    from aiomap.cli.outputs import JournalledOutput, StreamedOutput, start_anew

    output = given["output"]
    if journal is None:
        if sys.stdout is None:
            raise WrongUsage("standard output is closed")
        return StreamedOutput(os.dup(sys.stdout.fileno()))
    paths = output, os.fspath(journal.path), failed_name(output)
    _check_place(output)
    _check_apart(paths, given)
    if given["fresh"]:
        start_anew(*paths)
    _check_ours(output, paths[1])
    selects = any(given[name] for name in ("dedupe", "limit", "sample", "shard"))
    return JournalledOutput(*paths, keep_order=given["keep_order"], selects=selects)


@contextmanager
def _translated(plan: Plan) -> Generator[None]:
    """Makes an exit code and a sentence of what made a sitting impossible."""
    from aiomap.cli.output import WriteFailed
    from aiomap.errors import JournalDamaged, JournalError, MissingExtra
    from aiomap.inputs import BadInput

    try:
        yield
    except (click.ClickException, click.exceptions.Exit, BadInput, MissingExtra):
        raise
    except WriteFailed as error:
        if isinstance(error.__cause__, BrokenPipeError):
            raise click.exceptions.Exit(BROKEN_PIPE) from error
        raise IoFailed(printable(str(error))) from error
    except JournalError as error:
        kind = Refused if error.__cause__ is None or isinstance(error, JournalDamaged) else IoFailed
        raise kind(_with_ways_out(error, plan.journal)) from error
    except BaseException as error:
        if plan.writes and isinstance(error, OSError):
            raise IoFailed(printable(f"cannot write {error.filename}: {error.strerror or error}")) from error
        raise Crashed(_crash(error)) from error


def _crash(error: BaseException) -> str:
    """Says where in the user's files it came from, fit for a terminal; gives the sentence that comes last."""
    safe = "what was done before is safe"
    if isinstance(error, SystemExit):
        return printable(f"the function ended the program ({error.code}): {safe}")
    if isinstance(error, KeyboardInterrupt):
        return f"the function raised KeyboardInterrupt: {safe}"
    import asyncio
    import traceback

    told = traceback.TracebackException.from_exception(error)
    ours = (Path(__file__).parent.parent, Path(click.__file__).parent, Path(asyncio.__file__).parent)
    link: traceback.TracebackException | None = told
    while link is not None:
        theirs = [frame for frame in link.stack if not any(Path(frame.filename).is_relative_to(each) for each in ours)]
        link.stack = traceback.StackSummary.from_list(theirs)
        link = link.__cause__ or link.__context__
    for line in "".join(told.format()).splitlines():
        click.echo(printable(redacted(line)), err=True)
    return f"{type(error).__name__} has ended the run, as above: {safe}"


# Whoever names OUT so would take it for something that it is not.
_OTHER_FORMATS: Final = (".csv", ".parquet", ".gz")


def _check_place(output: str) -> None:
    path = Path(output)
    if path.suffix.lower() in _OTHER_FORMATS:
        raise WrongUsage(
            printable(
                f"{output} would be JSON Lines, whatever its name: name it {path.stem}.jsonl, and make a table of it "
                "with  aiomap export"
            )
        )
    if not path.parent.is_dir():
        folder = shlex.quote(str(path.parent))
        raise WrongUsage(printable(f"there is no folder for {output}: make it with  mkdir -p {folder}"))
    if path.exists() and not path.is_file():
        raise WrongUsage(f"{printable(output)} is no regular file, and cannot be gone on with: write -o - for a pipe")


def _check_apart(ours: Sequence[str], given: Mapping[str, Any]) -> None:
    """Nothing that is read may be written: an input, the file of the function."""
    read = [*given["inputs"], str(given.get("function", "")).rpartition(":")[0]]
    for written in ours:
        for path in read:
            with suppress(OSError, ValueError):
                if path and Path(written).samefile(path):
                    again = ", or type the first command with --retry-failed" if written == ours[-1] else ""
                    raise WrongUsage(printable(f"{path} would be read and written: name another file with -o{again}"))


def _check_ours(output: str, journal: str) -> None:
    """What is in OUT must have come from its journal: everything else would be cut off."""
    path = Path(output)
    if path.exists() and path.stat().st_size and not Path(journal).exists():
        raise Refused(
            f"{printable(output)} exists, and has no journal ({printable(journal)}) to say what belongs into it: "
            "add --fresh to lose it, or name another file with -o"
        )


def _with_ways_out(error: Exception, journal: Journal | None) -> str:
    from aiomap.errors import JournalChanged, JournalDamaged

    if isinstance(error, JournalDamaged) and journal is not None:
        output = shlex.quote(os.fspath(journal.path).removesuffix(".run"))
        told = error.reason.partition(": `Journal(path)")[0]  # what to write in Python is of no use here
        return printable(f"{error.path}: {told}. See  aiomap check {output}, or add --fresh to lose it and start anew")
    if not isinstance(error, JournalChanged) or journal is None:
        return printable(str(error))
    return printable(
        f"{error.path}: {_change(error.reason, journal)} Add --accept-change to keep the results that are there, "
        "--fresh to lose them and start anew, or name another file with -o"
    )


def _change(reason: str, journal: Journal) -> str:
    """What is another thing now: flags, by their names, if it is not the function."""
    from aiomap.journal.fingerprint import differences
    from aiomap.journal.reading import identity_of

    recorded = identity_of(os.fspath(journal.path))
    told = reason.partition(" Write ")[0]
    if told.partition("(")[2] != ", ".join(differences(recorded, {**recorded, "version": journal.version})) + ").":
        return told
    then, now = (json.loads(str(version or "{}")) for version in (recorded["version"], journal.version))
    names = [f"another --{name.replace('_', '-')}" for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    return f"it holds results of {' and '.join(names)}."


def _code(job: Job, max_failures: int) -> int:
    from aiomap.cli.plan import Stop

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


def _summary(job: Job, journal: Journal | None, written: Any, given: Mapping[str, Any], screen: Screen) -> str:
    from aiomap.cli.view import end

    output = given["output"]
    next_command: str | None = None
    if job.stop is not None and journal is not None:
        again = shlex.join(["aiomap", *_without_secrets([word for word in sys.argv[1:] if word != "--fresh"])])
        next_command = f"{again}   # goes on"
    elif job.failed and journal is not None:
        next_command = f"aiomap errors {shlex.quote(output)}"
    elif journal is not None:
        next_command = f"aiomap export {shlex.quote(output)} --to csv"
    verdict = "finished" if job.stop is None else job.stop.value
    told = end(job.view, verdict, written.files(), next_command, screen.width)
    runs_again = None if journal is None else journal.retry_failed
    missed = runs_again.missed() if isinstance(runs_again, _RunsAgain) else None
    return told if missed is None else f"{missed}\n{told}"


def _without_secrets(typed: Sequence[str]) -> Iterator[str]:
    """What was typed, as it may be shown: no password, no value of a secret header, and not the data that is sent."""
    for before, word in zip(["", *typed], typed, strict=False):
        header = _HEADER.match(word)
        if header is not None and is_secret(header["name"]):
            yield f"{header[0]} ***"
        elif before == "--data":
            yield "..."
        else:
            yield "--data=..." if word.startswith("--data=") else redacted(word)
