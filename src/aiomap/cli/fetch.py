"""`aiomap fetch`: what may be typed, and what becomes of it: a job whose function is ours.

Invariant: nothing but click is imported before the command runs. A journal of `fetch` is known by `page` and by the
options that change what comes out, so that it goes on with the next release of aiomap too.
"""

from __future__ import annotations

import json
import resource
import shlex
from collections import Counter
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import click

from aiomap._foreign import is_secret, printable, redacted
from aiomap.cli import flags
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
    from collections.abc import Hashable, Iterable

    from aiomap.cli.plan import Plan
    from aiomap.fetch import Defaults, Fetcher
    from aiomap.inputs import Entry
    from aiomap.limits.adaptive import Adaptive

__all__ = ["fetch", "page"]

# Open files beside the connections.
_SPARE_FILES: Final = 64


async def page(item: object, fetcher: Fetcher) -> dict[str, object]:
    """The page behind a link, as it is recorded.

    Journals know the work of `aiomap fetch` by the source of this function: whoever changes it has all of them refused.
    """
    return await fetcher.value(item)


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path())
@output_options()
@click.option(
    "--save", metavar="DIR", type=click.Path(), callback=flags.parse_folder, help="Write the bodies into files in DIR."
)
@input_options()
@click.option(
    "-H",
    "--header",
    "headers",
    multiple=True,
    callback=flags.parse_header,
    metavar="'NAME: VALUE'",
    help="A header that is sent along.",
)
@click.option("--method", metavar="NAME", help="GET, unless there is --data: then POST.")
@click.option("--data", metavar="TEXT", help="The body that is sent.")
@click.option(
    "--max-body",
    callback=flags.parse_size,
    default="16M",
    show_default=True,
    metavar="SIZE",
    help="The largest page that is taken, decompressed.",
)
@click.option("--allow-private", is_flag=True, help="Connect to loopback and private addresses too.")
@click.option("--no-robots", is_flag=True, help="Do not ask robots.txt: for sites of your own.")
@limit_options(tasks="auto", per_key="host", per_key_rate="1/0.25s")
@attempt_options()
@resume_options(changed="another --method, --data, ...")
def fetch(**given: Any) -> int:
    """Fetch the pages behind a list of links.

    INPUT is text with a link on each line, or JSON Lines, CSV or Parquet with a column url; columns method, headers and
    data, where they are, stand in for the options. - is standard input.

    \b
      aiomap fetch links.txt -o pages.jsonl
      aiomap fetch links.csv -o pages.jsonl --id sku --save pages
      aiomap fetch queries.jsonl -o out.jsonl -H 'Authorization: Bearer ...'

    Every page gives a line in OUT. Beside OUT stand OUT.run, the journal, and the failures, in OUT.failed.jsonl (for
    out.jsonl: out.failed.jsonl), which can be fed back in. The same command again goes on where it ended: with what is
    missing, and with failures that may pass, as timeouts do.

    Every host is spared: two requests at once, each a quarter of a second after the one before; robots.txt is obeyed,
    and a server that answers 429 or 503 is left alone for as long as it asks for. If the one host is yours:

    \b
      aiomap fetch links.txt -o pages.jsonl -j 50 --per-key none --no-robots

    Ctrl-C stops: what is in flight is finished, and what is done is safe. Once more cancels it, once more ends at once.

    Exit status: 0 all succeeded, 1 more failed than --max-failures, 2 wrong usage or input, 3 refused (options changed,
    OUT is in use, the journal is damaged), 4 halted, 5 out of time, 6 a file could not be written, 130 stopped by
    Ctrl-C, 143 by SIGTERM.
    """  # noqa: D301  (click takes the character \b as: leave these lines as they are)
    from aiomap.errors import MissingExtra
    from aiomap.inputs import BadInput

    check_together(given)
    _check_inputs(given["inputs"])
    try:
        plan = _plan(given)
        if given["dry_run"]:
            return _dry_run(plan)
        _allow_open_files(plan.max_concurrent_tasks)
        return sit(plan, given)
    except (BadInput, MissingExtra) as error:
        raise WrongUsage(printable(str(error))) from error


def _check_inputs(inputs: Iterable[str]) -> None:
    for link in inputs:
        if link.lower().startswith(("http://", "https://")):
            raise WrongUsage(
                "INPUT is a file with a link on each line, not a link; "
                f"write  echo {printable(shlex.quote(redacted(link)))} | aiomap fetch - -o OUT"
            )


def _plan(given: dict[str, Any]) -> Plan:
    from aiomap.cli.keys import key_of_entry
    from aiomap.cli.plan import Plan
    from aiomap.fetch import Fetcher, host_of
    from aiomap.limits.per_key import PerKey

    def host_of_entry(entry: Entry) -> Hashable:
        return host_of(entry.item)

    key = given["per_key"]
    first = first_item(given, "text")
    if not isinstance(first, str):
        check_columns("a link stands in", first, "url", "link")
    if key not in ("host", "none"):
        check_columns("--per-key names", first, key)
    by_host = host_of_entry if key == "host" else None
    policies = policies_of(given, by_host if by_host or key == "none" else key_of_entry(key))
    fetcher = Fetcher(
        max_body=given["max_body"],
        defaults=_defaults(given),
        allow_private=given["allow_private"],
        robots=not given["no_robots"],
        per_host=next((limit for limit in policies["limits"] if by_host and isinstance(limit, PerKey)), None),
        folder=given["save"],
    )
    journal = journal_of(given, _identity(given))
    return Plan(
        page,
        entries_of(given, unless_told="text"),
        setup=lambda: fetcher,
        writes=True,
        journal=journal,
        ordered=given["keep_order"] and journal is None,
        **policies,
    )


def _defaults(given: dict[str, Any]) -> Defaults:
    from aiomap.fetch import Defaults, WrongRequest

    data = given["data"]
    try:
        return Defaults(given["method"], given["headers"], None if data is None else data.encode())
    except WrongRequest as error:
        raise WrongUsage(printable(str(error))) from error


def _identity(given: dict[str, Any]) -> dict[str, Any]:
    """The options that change the results: of headers and data, which may be secret, a digest.

    Of a secret header it is only the name that counts, so that a new token is no other job.
    """
    told = {} if given["method"] is None else {"method": given["method"].upper()}
    told |= {} if given["save"] is None else {"save": given["save"]}
    headers = sorted((name.lower(), "" if is_secret(name) else value) for name, value in given["headers"])
    private = {"header": headers or None, "data": given["data"]}
    told |= {name: _digest(value) for name, value in private.items() if value is not None}
    return {"max_body": given["max_body"], **told}


def _digest(value: object) -> str:
    return blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _dry_run(plan: Plan) -> int:
    from aiomap.cli.words import counted
    from aiomap.fetch import host_of

    hosts: Counter[str | None] = Counter()
    count = 0
    for entry in plan.entries:
        count += 1
        hosts[host_of(entry.item)] += 1
    bad = hosts.pop(None, 0)
    no_links = f", {bad:,} of them no links" if bad else ""
    click.echo(
        f"aiomap: {counted(count, 'record')} at {counted(len(hosts), 'host')}{no_links}; nothing was run", err=True
    )
    for host, most in hosts.most_common(1):
        click.echo(printable(f"aiomap: the most at one host: {most:,} at {host}"), err=True)
    return 0


def _allow_open_files(slots: int | Adaptive) -> None:
    """Raises the limit of open files, 256 or 1,024 on many systems, for each connection is one of them."""
    connections = slots if isinstance(slots, int) else slots.max
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
