"""The `aiomap` command.

Invariant: it ends with an exit code and, if that is no success, a sentence; never with a traceback of a mistake that
was the user's.
"""

from __future__ import annotations

import sys

from aiomap.errors import MissingExtra

__all__ = ["main"]


def main() -> None:
    """Runs the command that was typed, and ends the process with its exit code."""
    try:
        import click  # noqa: PLC0415  (an extra)
    except ImportError:
        print(f"Error: {MissingExtra('the aiomap command', 'click', 'cli')}", file=sys.stderr)
        sys.exit(2)
    from aiomap._commands import INTERRUPTED, aiomap  # noqa: PLC0415  (it imports click)

    try:
        code = aiomap.main(prog_name="aiomap", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:  # Ctrl-C before anything was fetched
        code = INTERRUPTED
    sys.exit(code)
