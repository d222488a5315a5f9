"""What a row says: aiomap's figure, the bars it must reach, and who comes next.

Invariant: a bar that could not be measured counts as not reached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contenders import AIOMAP, PEERS
from rounds import Figures


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing that must hold, in words, and whether it does (None: the measurement cannot tell)."""

    text: str
    reached: bool | None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the first table; `rival` names the fastest peer and how many times aiomap's cost it has."""

    work: str
    figure: str
    bars: tuple[Bar, ...] = ()
    rival: str = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """All that one row has to tell.

    `columns` go to the table of the peers (heading -> contender -> cell), `raw` to the JSON file; `own_table`
    is one more table, its head first.
    """

    lines: list[Line]
    raw: Mapping[str, Any]
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    own_table: Sequence[Sequence[str]] = ()


def against(
    work: str,
    figures: Mapping[str, Figures],
    reference: str,
    at_most: float,
    peers_at_least: float | None = None,
) -> Line:
    """Judge aiomap by a reference (at most so many times it) and by the fastest peer (at least so many)."""
    own, other = figures[AIOMAP].best, figures[reference].best
    bars = [Bar(f"<= {at_most:g} x {reference}", own < math.inf and own <= at_most * other)]
    if peers_at_least is not None:
        peer = min(figures[name].best for name in _peers(figures))
        bars.append(Bar(f"fastest peer >= {peers_at_least:g} x", own < math.inf and peer >= peers_at_least * own))
    figure = f"{own / other:.2f} x ({own:.3g} us)" if own < math.inf else cell(figures[AIOMAP])
    return Line(work, figure, tuple(bars), rival_of(figures))


def rival_of(figures: Mapping[str, Figures]) -> str:
    """Name the fastest peer and how many times aiomap's figure it takes."""
    names = _peers(figures)
    if not names:
        return "-"
    rival = min(names, key=lambda name: figures[name].best)
    if figures[AIOMAP].failure:
        return rival
    factor = figures[rival].best / figures[AIOMAP].best
    return f"{rival}, {factor:.2f} x" if factor < 10 else f"{rival}, {factor:.0f} x"


def _peers(figures: Mapping[str, Figures]) -> list[str]:
    return [peer.name for peer in PEERS if peer.name in figures]


def column(figures: Mapping[str, Figures]) -> dict[str, str]:
    """Make one column of the table of the peers."""
    return {name: cell(reached) for name, reached in figures.items()}


def cell(reached: Figures, form: str = ".3g") -> str:
    """Print the best figure, or the reason why there is none."""
    if reached.failure is None:
        return format(reached.best, form)
    if reached.failure.startswith("ModuleNotFoundError"):
        return "not installed"
    return f"fails: {reached.failure:.60}"


def raw(figures: Mapping[str, Figures]) -> dict[str, Any]:
    """Give every figure of every round for the JSON file."""
    return {name: {"values": reached.values, "failure": reached.failure} for name, reached in figures.items()}
