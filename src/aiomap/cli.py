"""The `aiomap` command.

Invariant: it ends with an exit code and, if that is no success, a sentence; never with a traceback of a mistake that
was the user's.
"""

from __future__ import annotations

import sys
from typing import Final

from aiomap.errors import MissingExtra

__all__ = ["main"]

_REFUSED: Final = 2
_INTERRUPTED: Final = 130


def main() -> None:
    """Runs the command that was typed, and ends the process with its exit code."""
    try:
        sys.exit(_run())
    except KeyboardInterrupt:  # before anything was fetched: from then on Ctrl-C is the sitting's
        sys.exit(_INTERRUPTED)


def _run() -> int:
    try:
        import click
    except ImportError:
        sys.stderr.write(f"Error: {MissingExtra('the aiomap command', 'click', 'cli')}\n")
        return _REFUSED
    from aiomap._commands import aiomap

    try:
        code: int = aiomap.main(prog_name="aiomap", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:  # click's word for KeyboardInterrupt
        return _INTERRUPTED
    return code
