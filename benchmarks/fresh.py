"""Call one function in a fresh interpreter, and bring its answer back as JSON.

Invariant: the caller's process does no measured work. What a contender imports, leaks or breaks stays in the
child that it was given, and one that hangs is killed with it.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any


class MeasurementFailed(Exception):
    """The child gave no figure; the message is the reason, in a few words."""


def call(function: Callable[..., Any], /, *, within: float, **arguments: Any) -> Any:
    """Return `function(**arguments)`, computed in a new interpreter within that many seconds.

    The function must stand at the top of a module of this folder; arguments and answer are JSON values.
    """
    return json.loads(run([__file__, function.__module__, function.__name__, json.dumps(arguments)], within=within))


def run(arguments: list[str], *, within: float) -> str:
    """Return the last line that Python prints when it is started with these arguments."""
    command = [sys.executable, *arguments]
    # Modules must come from their bytecode cache from the second import on, as they do where they are used.
    cached = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=within, env=cached, check=False)
    except subprocess.TimeoutExpired:
        raise MeasurementFailed(f"no result within {within:g} s") from None
    if child.returncode != 0:
        raise MeasurementFailed(_last_line(child.stderr) or f"exit status {child.returncode}")
    return _last_line(child.stdout)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def _answer(module: str, name: str, arguments: str) -> None:
    function = getattr(importlib.import_module(module), name)
    try:
        print(json.dumps(function(**json.loads(arguments))))
    except Exception as error:
        # In one line, and the last one: a traceback may end in notes, which do not say what it was.
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    _answer(*sys.argv[1:])
