"""The command line: the group of the commands.

Invariant: nothing but click is imported before a command runs, so `--help` is there at once.
"""

from __future__ import annotations

from typing import Final

import click

from aiomap.cli.fetch import fetch
from aiomap.cli.look import check, errors, export, status
from aiomap.cli.run import run

__all__ = ["aiomap"]


_SETTINGS: Final[dict[str, list[str]]] = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=_SETTINGS)
@click.version_option(package_name="aiomap", message="%(prog)s %(version)s")
def aiomap() -> None:
    """Run one thing for many inputs, a few at a time.

    \b
      aiomap run job.py:lookup ids.csv --id id -o out.jsonl
      aiomap fetch links.txt -o pages.jsonl
    """  # noqa: D301  (click takes the character \b as: leave these lines as they are)


for command in (run, fetch, status, errors, check, export):
    command.context_settings.update(_SETTINGS)
    aiomap.add_command(command)
