"""Print the figures as Markdown, ready to be quoted.

Invariant: nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from contenders import CONTENDERS
from verdict import Bar, Row


def verdicts(rows: Iterable[Row]) -> str:
    """Make the first table: what aiomap reaches, and what it must reach."""
    cells = [
        (
            line.work,
            line.figure,
            "; ".join(bar.text for bar in line.bars) or "-",
            _reached(line.bars),
            line.rival,
        )
        for row in rows
        for line in row.lines
    ]
    return _markdown(("work", "aiomap", "must reach", "reached", "fastest peer"), cells)


def _reached(bars: Sequence[Bar]) -> str:
    if not bars:
        return "-"
    missed = [bar.text for bar in bars if bar.reached is False]
    if missed:
        return "**no**" if len(missed) == len(bars) else f"**no**: {'; '.join(missed)}"
    return "yes" if all(bar.reached for bar in bars) else "cannot tell"


def contenders(rows: Iterable[Row]) -> str:
    """Make the second table: everybody's figure in every row; nothing if no row compares contenders."""
    columns: dict[str, Mapping[str, str]] = {}
    for row in rows:
        columns |= row.columns
    cells = [
        (name, *(column.get(name, "-") for column in columns.values()))
        for name in CONTENDERS
        if any(name in column for column in columns.values())
    ]
    return _markdown(("CPU us per item, unless said otherwise", *columns), cells) if cells else ""


def own_tables(rows: Iterable[Row]) -> list[str]:
    """Make the tables that rows have to themselves."""
    return [_markdown(row.own_table[0], row.own_table[1:]) for row in rows if row.own_table]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
