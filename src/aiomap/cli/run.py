"""`aiomap run`: what may be typed, and what becomes of it.

Invariant: nothing but click is imported before the command runs. What is wrong is said before the output is touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aiomap._foreign import printable
from aiomap.cli.exits import WrongUsage
from aiomap.cli.options import (
    attempt_options,
    check_columns,
    entries_of,
    first_item,
    input_options,
    limit_options,
    output_options,
    policies_of,
    resume_options,
)
from aiomap.cli.sitting import check_together, journal_of, sit

if TYPE_CHECKING:
    from aiomap.cli.plan import Plan

__all__ = ["run"]


@click.command()
@click.argument("function", metavar="FUNCTION", type=click.Path())
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path())
@output_options()
@input_options()
@limit_options(tasks="10", per_key=None, per_key_rate="none")
@attempt_options()
@click.option("--tag", metavar="TEXT", help="Names a version of the work: another one is a change.")
@click.option(
    "--setup", metavar="NAME", help="Gives an async context manager; its value is FUNCTION's second argument."
)
@click.option("--in-thread", is_flag=True, help="FUNCTION blocks: call it in threads.")
@resume_options(changed="a function that was another")
def run(**given: Any) -> int:
    """Map FUNCTION over the records of a file.

    FUNCTION is file.py:function or module:function, an async function of one item. INPUT is JSON Lines, CSV, text (a
    line is an item) or Parquet, gzip or not; - is standard input.

    \b
      aiomap run job.py:lookup ids.csv --id id -o out.jsonl
      aiomap run job.py:ask prompts.jsonl -o out.jsonl -j 50 --rate 100/m
      cat ids.txt | aiomap run job.py:get - --format text -o - | jq .value

    Every success gives a line in OUT. Beside OUT stand OUT.run, the journal, and the failures, in OUT.failed.jsonl (for
    out.jsonl: out.failed.jsonl), which can be fed back in. The same command again goes on where it ended: with what is
    missing, and with failures that may pass, as timeouts do.

    Ctrl-C stops: what is in flight is finished, and what is done is safe. Once more cancels it, once more ends at once.

    Exit status: 0 all succeeded, 1 more failed than --max-failures, 2 wrong usage or input, 3 refused (the function
    changed, OUT is in use, the journal is damaged), 4 halted, or ended by what FUNCTION raised, 5 out of time, 6 a file
    could not be written, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """  # noqa: D301  (click takes the character \b as: leave these lines as they are)
    from aiomap.errors import MissingExtra
    from aiomap.inputs import BadInput

    check_together(given)
    try:
        plan = _plan(given)
        if given["dry_run"]:
            return _dry_run(plan)
        return sit(plan, given)
    except (BadInput, MissingExtra) as error:
        raise WrongUsage(printable(str(error))) from error


def _plan(given: dict[str, Any]) -> Plan:
    from aiomap.cli.function import check_arguments, load_function, load_setup
    from aiomap.cli.keys import key_of_entry
    from aiomap.cli.plan import Plan

    # Before anything is loaded from the user's folder, everything of ours is.
    entries = entries_of(given)
    key = given["per_key"]
    if key not in (None, "host"):
        check_columns("--per-key names", first_item(given), key)
    policies = policies_of(given, None if key is None else key_of_entry(key))
    journal = journal_of(given, {name: given[name] for name in ("tag", "setup") if given[name] is not None})
    setup = given["setup"]
    function = load_function(given["function"], in_thread=given["in_thread"])
    check_arguments(function, given["function"], setup=setup is not None)
    return Plan(
        function,
        entries,
        setup=None if setup is None else load_setup(setup, given["function"]),
        journal=journal,
        ordered=given["keep_order"] and journal is None,
        **policies,
    )


def _dry_run(plan: Plan) -> int:
    from aiomap.cli.words import counted

    count = faults = 0
    for entry in plan.entries:
        count += 1
        faults += entry.fault is not None
    bad = f", {faults:,} of them no items" if faults else ""
    click.echo(f"aiomap: {counted(count, 'record')}{bad}; nothing was run", err=True)
    return 0
