"""The command line: what may be typed, and what is said when it was typed wrong.

Invariant: nothing but click is imported before a command runs, so `--help` is there at once. Whatever is wrong is said
before the output file is touched.
"""

from __future__ import annotations

import os
import resource
import shlex
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

import click

from aiomap.cli import flags
from aiomap.cli.exits import BROKEN_PIPE, FAILURES, INTERRUPTED, IoFailed, WrongUsage
from aiomap.cli.look import check, errors, export, status
from aiomap.cli.run import run

if TYPE_CHECKING:
    from aiomap.cli.sitting import Sitting
    from aiomap.limits.rate import Rate

__all__ = ["aiomap"]

# Open files beside the connections.
_SPARE_FILES: Final = 64


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aiomap", message="%(prog)s %(version)s")
def aiomap() -> None:
    """Run one thing for many inputs, a few at a time."""


for command in (run, status, errors, check, export):
    aiomap.add_command(command)


@aiomap.command()
@click.argument("source", metavar="INPUT")
@click.option("-o", "--output", metavar="FILE", required=True, help="Where the results go, JSON Lines; - is stdout.")
@click.option(
    "-j",
    "--max-concurrent-tasks",
    callback=flags.parse_concurrency,
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="How many links are fetched at once; auto finds out how many are taken.",
)
@click.option(
    "--rate",
    callback=flags.parse_rate,
    default="none",
    show_default=True,
    metavar="N/TIME",
    help="How many attempts start in a time, in all: 10/s, 100/m, 1000/h, 10/2s.",
)
@click.option(
    "--per-key",
    callback=flags.parse_key,
    default="host",
    show_default=True,
    metavar="host|none",
    help="What is spared for itself: each host, or nothing.",
)
@click.option(
    "--per-key-tasks",
    callback=flags.parse_bound,
    default="2",
    show_default=True,
    metavar="N|none",
    help="How many links of one host are fetched at once.",
)
@click.option(
    "--per-key-rate",
    callback=flags.parse_rate,
    default="1/0.25s",
    show_default=True,
    metavar="N/TIME",
    help="How many attempts start in a time at one host.",
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
    help="How often a link that failed is tried again.",
)
@click.option(
    "--retry-on",
    callback=flags.parse_retry_on,
    default="timeout,conn,5xx",
    show_default=True,
    metavar="CLASS,...",
    help="After which failures.",
)
@click.option(
    "--max-body",
    callback=flags.parse_size,
    default="16M",
    show_default=True,
    metavar="SIZE",
    help="The largest page that is taken, decompressed.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar, no summary.")
@click.pass_context
def fetch(
    context: click.Context,
    source: str,
    output: str,
    max_concurrent_tasks: flags.Concurrency,
    rate: Rate | None,
    per_key: Literal["host"] | None,
    per_key_tasks: int | None,
    per_key_rate: Rate | None,
    timeout: float,
    retries: int,
    retry_on: frozenset[str],
    max_body: int,
    *,
    force: bool,
    quiet: bool,
) -> int:
    """Fetch the pages behind a list of links.

    INPUT is a text file with a link on each line, or - for standard input. Every link gives one line of JSON in FILE,
    written as soon as it is there: the page, or the error and its class.

    \b
      aiomap fetch links.txt -o pages.jsonl
      aiomap fetch links.txt -o pages.jsonl -j 20 --rate 100/m --retries 2
      grep '^https:' links.txt | aiomap fetch - -o pages.jsonl

    Every host is spared: two links at once, each a quarter of a second after the one before. If the one host is yours:

    \b
      aiomap fetch links.txt -o pages.jsonl -j 50 --per-key none

    A server that answers 429 or 503 is left alone for as long as it asks for. Every attempt passes all limits, and a
    link that waits for one, or for its next attempt, is in nobody's way.

    Ctrl-C stops: what is in flight is finished, and what is done is safe. Links that wait are left out.

    Exit status: 0 all links were fetched, 1 some failed, 2 wrong usage or input, 6 FILE could not be written,
    130 stopped by Ctrl-C.
    """  # noqa: D301  (click takes the character \b as: leave these lines as they are)
    from aiomap.errors import MissingExtra

    flags.check_key(context)
    with _open_input(source) as file:
        try:
            from aiomap.cli.sitting import Sitting
            from aiomap.fetch import Fetcher
            from aiomap.lines import lines_of

            sitting = Sitting(
                lines_of(file),
                flags.concurrency_of(max_concurrent_tasks),
                Fetcher(max_body),
                timeout=timeout,
                retry=flags.retry_of(retries, retry_on),
                limits=flags.limits_of(rate, per_key, per_key_tasks, per_key_rate),
                quiet=quiet,
            )
        except MissingExtra as error:
            raise WrongUsage(str(error)) from error
        _allow_open_files(sitting.slots)
        return _finish(sitting, _open_output(output, file, force=force), source, output, quiet=quiet)


def _finish(sitting: Sitting, descriptor: int, source: str, output: str, *, quiet: bool) -> int:
    """Runs the sitting; says how it went; gives the exit code."""
    from aiomap.cli.output import WriteFailed

    unread: OSError | None = None
    try:
        sitting.run(descriptor)
    except WriteFailed as error:
        if isinstance(error.__cause__, BrokenPipeError):
            return BROKEN_PIPE
        raise IoFailed(
            f"cannot write {_shown(output)}: {_reason(error.__cause__)}. It holds what was fetched before, "
            "and its last line may be cut short"
        ) from error
    except OSError as error:
        unread = error
    if not quiet:
        with suppress(OSError):  # a terminal that is gone must not change the exit code
            click.echo(sitting.summary.text(sitting.seconds, output, stopped=sitting.interrupts > 0), err=True)
    if unread is not None:
        raise IoFailed(f"cannot read on in {_shown(source)}: {_reason(unread)}") from unread
    if sitting.interrupts:
        return INTERRUPTED
    return FAILURES if sitting.summary.failed else 0


def _open_input(source: str) -> BinaryIO:
    if source == "-":
        if sys.stdin is None:
            raise WrongUsage("standard input is closed")
        return sys.stdin.buffer
    if source.lower().startswith(("http://", "https://")):
        raise WrongUsage(
            "INPUT is a file with a link on each line, not a link; "
            f"write  echo {_shown(shlex.quote(source))} | aiomap fetch - -o FILE"
        )
    try:
        return Path(source).open("rb")
    except OSError as error:
        raise WrongUsage(f"cannot read {_shown(source)}: {_reason(error)}") from error


def _open_output(output: str, source: BinaryIO, *, force: bool) -> int:
    from aiomap.cli.output import open_output

    if output == "-":
        if sys.stdout is None:
            raise WrongUsage("standard output is closed")
        return os.dup(sys.stdout.fileno())
    path = Path(output)
    if _is_same_file(path, source):
        raise WrongUsage(f"{_shown(output)} is the input itself; name another file with -o")
    try:
        return open_output(path, force=force)
    except FileExistsError as error:
        raise WrongUsage(
            f"{_shown(output)} exists, and is not overwritten; "
            "name another file with -o, or add --force to lose what is in it"
        ) from error
    except OSError as error:
        make = "" if path.parent.is_dir() else f"; make its folder with  mkdir -p {shlex.quote(str(path.parent))}"
        raise WrongUsage(_shown(f"cannot write {output}: {_reason(error)}{make}")) from error


def _is_same_file(path: Path, source: BinaryIO) -> bool:
    try:
        there = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(there.st_mode) and os.path.samestat(there, os.fstat(source.fileno()))


def _allow_open_files(connections: int) -> None:
    """Raises the limit of open files, 256 or 1,024 on many systems, for each connection is one of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Beyond some number, which not every system tells, raising it fails.
    for limit in (1 << 16, 10_240):
        wanted = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        if wanted > soft:
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                soft = wanted
    if connections + _SPARE_FILES > soft:
        raise WrongUsage(
            f"-j {connections} needs as many open files, and this system allows {soft}: "
            f"write -j {max(1, soft - _SPARE_FILES)} at most, or raise the limit with  ulimit -n"
        )


def _reason(error: BaseException | None) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _shown(text: str) -> str:
    from aiomap._foreign import printable

    return printable(text)
