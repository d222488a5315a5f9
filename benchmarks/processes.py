"""Whole programs, from their start to their exit, by the wall clock and by CPU time.

Invariant: only one is measured at a time, and the clock stops when it has exited, not when somebody looks. CPU time is
that of the process and of all that it has waited for, which a program that starts others does before it exits.
"""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from fresh import MeasurementFailed

# As in `fresh`, modules come from their bytecode cache. And what is printed goes out in blocks, as it does where nobody
# asks for something else: a line in two writes is slow, and may be torn by another process that writes.
NOT_KEPT = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}


def seconds(
    command: Sequence[str], folder: Path, *, within: float, given: Path | None = None, **variables: str
) -> tuple[float, float]:
    """Run a program to its end; return its seconds, by the wall clock and of CPU time.

    Its standard output goes into `output` in the folder, its standard error into `errors`; `given` is its standard
    input, nothing if it is None. `variables` are added to its environment.
    """
    kept = {name: value for name, value in os.environ.items() if name not in NOT_KEPT}
    with (
        (given or Path(os.devnull)).open("rb") as source,
        (folder / "output").open("wb") as output,
        (folder / "errors").open("wb") as errors,
    ):
        before, start = _cpu_seconds(), time.perf_counter()
        try:
            running = subprocess.Popen(command, stdin=source, stdout=output, stderr=errors, env=kept | variables)
        except FileNotFoundError:
            raise MeasurementFailed(f"there is no {command[0]} here") from None
        # Not by `wait(timeout)`: that looks now and then, 50 ms apart in the end, and a figure would be when it looked.
        alarm = threading.Timer(within, running.kill)
        alarm.start()
        try:
            status = running.wait()
        finally:
            wall, processor = time.perf_counter() - start, _cpu_seconds() - before
            expired = alarm.finished.is_set()
            alarm.cancel()
    if expired:
        raise MeasurementFailed(f"not done within {within:g} s")
    if status != 0:
        told = (folder / "errors").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise MeasurementFailed(told[-1] if told else f"exit status {status}")
    return wall, processor


def _cpu_seconds() -> float:
    """What all children have taken that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
