"""The options that `run` and `fetch` have in common, under one name and with one meaning.

Invariant: what differs between the two is a default or a word of the help text, never what an option does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import click

from aiomap._foreign import printable
from aiomap.cli import flags

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from aiomap.inputs import Entries

__all__ = [
    "attempt_options",
    "check_columns",
    "entries_of",
    "first_item",
    "input_options",
    "limit_options",
    "output_options",
    "policies_of",
    "resume_options",
]

_Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


def _all(*options: _Decorator) -> _Decorator:
    """They stand in the help text in this order."""
    return lambda command: reduce(lambda decorated, option: option(decorated), reversed(options), command)


def output_options() -> _Decorator:
    """Where the results go."""
    return _all(
        click.option(
            "-o",
            "--output",
            metavar="OUT",
            required=True,
            type=click.Path(),
            help="Where the results go, JSON Lines; - is stdout.",
        )
    )


def input_options() -> _Decorator:
    """What is read, and which part of it."""
    return _all(
        click.option(
            "--format",
            "input_format",
            type=click.Choice(["jsonl", "csv", "text", "parquet"]),
            help="What INPUT is, where its name does not say so.",
        ),
        click.option("--id", "id_column", metavar="COLUMN", help="The column that an item is known by."),
        click.option("--dedupe", is_flag=True, help="Take equal items once."),
        click.option("--limit", callback=flags.parse_count, metavar="N", help="Only the first N items."),
        click.option("--sample", callback=flags.parse_count, metavar="N", help="Only N items, chosen by chance."),
        click.option(
            "--seed",
            callback=flags.parse_number,
            default="0",
            show_default=True,
            metavar="S",
            help="Which chance: the same one chooses the same.",
        ),
        click.option(
            "--shard", callback=flags.parse_shard, metavar="I/N", help="Only the I-th of N parts of the input."
        ),
        click.option("--dry-run", is_flag=True, help="Read the input, say what would be done, and do nothing."),
    )


def limit_options(*, tasks: str, per_key: str | None, per_key_rate: str) -> _Decorator:
    """How many at once, and how often.

    tasks, per_key, per_key_rate: the defaults of those that differ; `per_key` has `none` where it has a default.
    """
    keys = "host|COLUMN" if per_key is None else "host|COLUMN|none"
    return _all(
        click.option(
            "-j",
            "--max-concurrent-tasks",
            callback=flags.parse_concurrency,
            default=tasks,
            show_default=True,
            metavar="N|auto",
            help="How many items run at once; auto finds out how many are taken.",
        ),
        click.option(
            "--rate",
            callback=flags.parse_rate,
            default="none",
            show_default=True,
            metavar="N/TIME",
            help="How many attempts start in a time, in all: 10/s, 100/m, 1000/h, 10/2s.",
        ),
        click.option(
            "--per-key",
            default=per_key,
            show_default=per_key is not None,
            metavar=keys,
            help="What is bounded for each value of its own: a host, a column.",
        ),
        click.option(
            "--per-key-tasks",
            callback=flags.parse_bound,
            default="2",
            show_default=True,
            metavar="N|none",
            help="How many items of one key run at once.",
        ),
        click.option(
            "--per-key-rate",
            callback=flags.parse_rate,
            default=per_key_rate,
            show_default=True,
            metavar="N/TIME",
            help="How many attempts of one key start in a time.",
        ),
    )


def attempt_options() -> _Decorator:
    """How long and how many times, and how many failures are too many."""
    return _all(
        click.option(
            "--timeout",
            callback=flags.parse_duration,
            default="60",
            show_default=True,
            metavar="TIME",
            help="How long one attempt may take in all, in seconds: 60, 90s, 5m.",
        ),
        click.option(
            "--retries",
            callback=flags.parse_retries,
            default="4",
            show_default=True,
            metavar="N",
            help="How often an item that failed is tried again.",
        ),
        click.option(
            "--retry-on",
            callback=flags.parse_classes,
            default="timeout,conn,5xx",
            show_default=True,
            metavar="CLASS,...",
            help="After which failures.",
        ),
        click.option("--halt", callback=flags.parse_halt, metavar="N|P%", help="Stop when more items have failed."),
        click.option(
            "--max-time", callback=flags.parse_duration, metavar="TIME", help="Start nothing new after it: 90s, 6h."
        ),
        click.option(
            "--max-failures",
            callback=flags.parse_number,
            default="0",
            show_default=True,
            metavar="N",
            help="How many items may fail with exit status 0.",
        ),
    )


def resume_options(changed: str) -> _Decorator:
    """What becomes of an earlier sitting. changed: what a change of makes it another job."""
    return _all(
        click.option(
            "--retry-failed",
            callback=flags.parse_failed,
            is_flag=False,
            flag_value="all",
            metavar="[CLASS,...]",
            help="Run these failed items again too, or all of them.",
        ),
        click.option("--accept-change", is_flag=True, help=f"Keep what was done by {changed}."),
        click.option("--fresh", is_flag=True, help="Lose what is in OUT and its journal, and start anew."),
        click.option("-k", "--keep-order", is_flag=True, help="Put OUT into the order of the input at the end."),
        click.option("-q", "--quiet", is_flag=True, help="No screen, no summary."),
    )


def entries_of(given: Mapping[str, Any], unless_told: Literal["text"] | None = None) -> Entries:
    """The entries that the input options ask for.

    unless_told: the format where neither `--format` nor the name of any input says it.
    """
    from aiomap.inputs import entries, tells_format

    form = given["input_format"]
    if form is None and not any(map(tells_format, given["inputs"])):
        form = unless_told
    names = ("id_column", "dedupe", "limit", "sample", "seed", "shard")
    return entries(given["inputs"], format=form, **{name: given[name] for name in names})


def first_item(given: Mapping[str, Any], unless_told: Literal["text"] | None = None) -> object:
    """The first item of the files; `None` if it is no item, or if there is a pipe, which can be read once only."""
    if not all(Path(path).is_file() for path in given["inputs"]):
        return None
    all_of_it = dict.fromkeys(("shard", "sample"), None) | {"dedupe": False, "limit": 1}
    first = next(entries_of({**given, **all_of_it}, unless_told), None)
    return None if first is None else first.item


def check_columns(option: str, first: object, *names: str) -> None:
    """UsageError if the first item has none of these columns: then a name was mistyped."""
    if first is None or (isinstance(first, dict) and any(name in first for name in names)):
        return
    columns = ", ".join(map(str, cast("dict[object, object]", first))) if isinstance(first, dict) else ""
    has = f"it has: {columns}" if columns else "it has no columns at all"
    wanted = " or ".join(names)
    raise click.UsageError(printable(f"{option} the column {wanted}, which the first item does not have; {has}"))


def policies_of(given: Mapping[str, Any], key: Callable[[Any], Hashable] | None) -> dict[str, Any]:
    """What these two say, by its name in a `Plan`; `key` gives what `--per-key` bounds."""
    return {
        "max_concurrent_tasks": flags.concurrency_of(given["max_concurrent_tasks"]),
        "timeout": given["timeout"],
        "retry": flags.retry_of(given["retries"], given["retry_on"]),
        "limits": flags.limits_of(given["rate"], key, given["per_key_tasks"], given["per_key_rate"]),
        "halt": given["halt"],
        "max_time": given["max_time"],
    }
