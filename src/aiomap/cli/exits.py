"""How the command ends: its exit codes, and the errors that are one sentence and a code.

Invariant: a code says what kind of end it was, never how many items failed.
"""

from __future__ import annotations

from typing import Final

import click

__all__ = [
    "BROKEN_PIPE",
    "FAILURES",
    "HALTED",
    "INTERRUPTED",
    "OUT_OF_TIME",
    "Crashed",
    "IoFailed",
    "Refused",
    "WrongUsage",
]

FAILURES: Final = 1
HALTED: Final = 4
OUT_OF_TIME: Final = 5
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141  # as for a program that a closed pipe kills


class WrongUsage(click.ClickException):
    """What was typed, or what the input is, does not do."""

    exit_code = 2


class Refused(click.ClickException):
    """It could be done, and would do harm."""

    exit_code = 3


class Crashed(click.ClickException):
    """The function ended the program."""

    exit_code = HALTED


class IoFailed(click.ClickException):
    """A file of ours cannot be written."""

    exit_code = 6
