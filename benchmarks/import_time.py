"""Row 8: what `import aiomap` costs beyond `import asyncio`.

Invariant: the child has imported `asyncio` and nothing of ours before the clock starts.
"""

from __future__ import annotations

import fresh
from contenders import AIOMAP, CONTENDERS
from rounds import Effort, take_turns
from verdict import Bar, Line, Row, cell, column, raw

REACH = 8.0
PATIENCE = 60.0
PROGRAM = """
import asyncio, time
start = time.process_time()
import {module}
print(1000 * (time.process_time() - start))
"""


def import_time(effort: Effort) -> Row:
    """Row 8: milliseconds of CPU time, each in an interpreter of its own."""
    names = [name for name, contender in CONTENDERS.items() if contender.module]
    figures = take_turns(names, _milliseconds, effort.import_rounds)
    bar = Bar(f"<= {REACH:g} ms", figures[AIOMAP].best <= REACH)
    line = Line("`import aiomap` beyond `import asyncio`", f"{cell(figures[AIOMAP])} ms", (bar,))
    return Row([line], raw(figures), {"import (ms)": column(figures)})


def _milliseconds(name: str) -> list[float]:
    return [float(fresh.run(["-c", PROGRAM.format(module=CONTENDERS[name].module)], within=PATIENCE))]
