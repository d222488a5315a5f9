"""The `aiomap` command.

Invariant: it ends with an exit code and, if that is no success, a sentence; never with a traceback of a mistake that
was the user's.
"""

from __future__ import annotations

import io
import signal
import sys
from typing import Final

from aiomap._foreign import printable
from aiomap.errors import MissingExtra

__all__ = ["main"]

_REFUSED: Final = 2
_UNWRITTEN: Final = 6
_BROKEN_PIPE: Final = 141


def main() -> None:
    """Runs the command that was typed, and ends the process with its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until there is something to save, Ctrl-C just ends the process. A KeyboardInterrupt amid of an import is not
        # to be relied on: some module or other takes it for a missing one.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_run())


def _run() -> int:
    try:
        import click
    except ImportError:
        sys.stderr.write(f"Error: {MissingExtra('the aiomap command', 'click', 'cli')}\n")
        return _REFUSED
    from aiomap.cli.commands import aiomap

    try:
        code: int = aiomap.main(prog_name="aiomap", standalone_mode=False)
    except BrokenPipeError:
        return _BROKEN_PIPE
    except OSError as error:  # what writes files of ours has said so before
        sys.stderr.write(f"Error: cannot write standard output: {error.strerror}\n")
        return _UNWRITTEN
    except click.ClickException as error:
        told = io.StringIO()
        error.show(told)
        for line in told.getvalue().splitlines():  # a name that was typed may hold anything
            click.echo(printable(line), err=True)
        return error.exit_code
    return code
