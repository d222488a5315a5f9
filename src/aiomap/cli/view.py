r"""How a sitting stands, as text: a block of three lines, a line to search in, and what is said at the end.

Invariant: pure. No line is wider than it may be, and foreign text in it can move no cursor.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from aiomap._foreign import printable, redacted
from aiomap._outcome import Stats
from aiomap.cli.tally import Tally, ended
from aiomap.cli.words import HOUR, MINUTE, cells, clock_time, counted, cut, duration, latency, per_time

__all__ = ["SIGNS", "State", "View", "block", "end", "line"]


State = Literal["running", "draining", "cancelling"]

_TOP_ERRORS: Final = 3
_MOST_CLASSES: Final = 12  # that are listed at the end
_LONGEST_CLASS: Final = 24  # cells, on the screen
_LEAST_SHARE: Final = 0.01  # of the slots' time, to be worth a word

_LEAST_BAR: Final = "━" * 8
_MOST_BAR: Final = 40
_GAP: Final = "  "
_DOT: Final = " · "

_TIMES: Final = "\N{MULTIPLICATION SIGN}"

SIGNS: Final = f"━╸·…{_TIMES}"

# From the longest to the shortest that is worth a word.
_AGES: Final = {HOUR: "an hour", 10 * MINUTE: "10 min", MINUTE: "60 s", 10: "10 s"}

_WORDS: Final = {
    "function": "the function",
    "limit": "a limit",
    "gate": "a pause to spare the remote",
    "backoff": "retries",
    "source": "the input",
    "consumer": "the output",
    "idle": "nothing: the last items are running",
}
_STOPPING: Final = {
    "draining": "stopping: what is done is safe, {} in flight will finish; Ctrl-C again cancels",
    "cancelling": "cancelling {} in flight; Ctrl-C again ends the process at once",
}

# What a value of a `key=value` line may hold as it is.
_BARE: Final = re.compile(r"[^\s\"=]+")


@final
@dataclass(frozen=True)
class View:
    """How a sitting stands at one instant: all there is to draw.

    stats: of the run.
    limit: how many items may run at once.
    total: items in the input, those of earlier sittings too; `None` if nobody knows it.
    is_sure: whether the total is one that was counted, and not concluded from what was read so far.
    seconds: since the start of this sitting.
    tally: of this sitting.
    state: whether it goes on, finishes what runs, or cancels it.
    clock: the time of day, in seconds since 1970.
    ended: how it ended, in a word; `None` while it has not.
    gate_until: when a pause to spare the remote is over, in seconds since 1970; `None` if that is not known.
    ages: for how many seconds each of the items in flight has been running; needed near the end only.
    recorded_failed: how many of the items of earlier sittings are failures that were not run again.
    """

    stats: Stats
    limit: int
    total: int | None
    seconds: float
    tally: Tally
    state: State
    clock: float
    is_sure: bool = True
    ended: str | None = None
    gate_until: float | None = None
    ages: Sequence[float] = ()
    recorded_failed: int = 0

    @property
    def past(self) -> int:
        """The items that need no more work, whichever sitting did it."""
        return self.stats.recorded + ended(self.stats)

    @property
    def left(self) -> int | None:
        """The items still to be done; `None` if nobody knows."""
        return None if self.total is None else max(0, self.total - self.past)

    @property
    def rate(self) -> float:
        """Items that ended per second of this sitting."""
        return ended(self.stats) / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds until all is done, if it goes on as in the last minutes of this sitting; `None` if nobody knows."""
        speed = self.tally.rate_lately
        return None if self.left is None or not speed else self.left / speed


def block(view: View, width: int) -> list[str]:
    """The three lines that are drawn on a terminal, none of them wider than so many cells."""
    lines = (_progress(view, width), _speed(view, width), _waiting(view, width))
    return [cut(text, width) for text in lines]


@final
@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a line. Where there is not room for all, those of the lowest rank stay."""

    rank: int
    text: str


def _fitted(pieces: Iterable[_Piece], width: int, gap: str) -> str:
    """The pieces in their order, with those of the highest ranks left out until the rest fits. One always stays."""
    kept = [piece for piece in pieces if piece.text]
    while len(kept) > 1 and cells(gap.join(piece.text for piece in kept)) > width:
        kept.remove(max(kept, key=lambda piece: piece.rank))
    return gap.join(piece.text for piece in kept)


def _progress(view: View, width: int) -> str:
    stats = view.stats
    known = view.total is not None
    text = _fitted(
        (
            _Piece(0, f"{_percent(view):5.1f}%" if known else ""),
            _Piece(2, _LEAST_BAR if known else ""),
            _Piece(
                1, f"{view.past:,}/{'' if view.is_sure else '~'}{view.total:,}" if known else counted(view.past, "item")
            ),
            _Piece(6, f"ok {stats.done:,}"),
            _Piece(3, f"failed {stats.failed:,}"),
            _Piece(8, f"skipped {stats.skipped:,}" if stats.skipped else ""),
            _Piece(7, f"earlier {stats.recorded:,}" if stats.recorded else ""),
            _Piece(4, f"in flight {stats.running:,}/{view.limit:,}"),
            _Piece(5, f"retrying {stats.retrying:,}" if stats.retrying else ""),
        ),
        width,
        _GAP,
    )
    room = min(len(_LEAST_BAR) + width - cells(text), _MOST_BAR)
    return text.replace(_LEAST_BAR, _bar(_percent(view) / 100, room))


def _percent(view: View) -> float:
    """Rounded down: it is 100 once all is done, and not before."""
    most = 1 if view.is_sure else 0.999
    return math.floor(1000 * min(view.past / view.total if view.total else 1, most)) / 10


def _bar(part: float, width: int) -> str:
    halves = int(part * 2 * width)
    return ("━" * (halves // 2) + "╸" * (halves % 2)).ljust(width)


def _speed(view: View, width: int) -> str:
    tally = view.tally
    timed = f"p50 {latency(tally.percentile(0.5))}, p95 {latency(tally.percentile(0.95))}" if tally.timed else ""
    pieces = (
        _Piece(0, f"{per_time(tally.rate_now)} now"),
        _Piece(2, f"{per_time(view.rate)} on average"),
        _Piece(3, timed),
        _Piece(1, _remainder(view)),
    )
    return _fitted(pieces, width, _DOT)


def _remainder(view: View) -> str:
    """When it will be over. The last items, which may be slow ones, follow no speed: how slow they are is said."""
    if view.state != "running":
        return _slow(view)
    if view.left is None or view.left == 0:
        return ""
    if view.left < 2 * view.limit:
        return _slow(view) or f"tail: {counted(view.left, 'item')} left"
    if view.eta is None:
        return "ETA unknown"
    return f"ETA {duration(view.eta)} ({clock_time(view.clock + view.eta, view.clock)})"


def _slow(view: View) -> str:
    for seconds, words in _AGES.items():
        slow = sum(age > seconds for age in view.ages)
        if slow:
            return f"tail: {counted(slow, 'item')} {'runs' if slow == 1 else 'run'} for more than {words}"
    return ""


def _waiting(view: View, width: int) -> str:
    words = _words(view)
    top = view.tally.failed.most_common(_TOP_ERRORS)
    errors = [f"{cut(kind, _LONGEST_CLASS)} {_TIMES}{count:,}" for kind, count in top]
    if errors:
        errors[0] = f"errors: {errors[0]}"
    return _fitted([_Piece(rank, text) for rank, text in enumerate([words, *errors])], width, _DOT)


def _words(view: View) -> str:
    if view.state != "running":
        return _STOPPING[view.state].format(view.stats.running)
    why = view.tally.wait
    if why is None:
        return "starting"
    if why == "gate":
        return f"waiting: {_WORDS[why]}{_until(view.gate_until)}"
    return f"waiting for {_WORDS.get(why, why)}"


def _until(then: float | None) -> str:
    return "" if then is None else time.strftime(" until %H:%M:%S", time.localtime(then))


def line(view: View) -> str:
    """The same as one line for a log: `key=value`, with no space in a value that is not in quotes.

    What is not known is left out. Times are in seconds, rates in items per second.
    """
    stats, tally = view.stats, view.tally
    values: dict[str, str | int | None] = {
        "t": int(view.seconds),
        "state": view.ended or view.state,
        "done": view.past,
        "total" if view.is_sure else "total_about": view.total,
        "ok": stats.done,
        "failed": stats.failed,
        "skipped": stats.skipped,
        "recorded": stats.recorded,
        "recorded_failed": view.recorded_failed or None,
        "running": stats.running,
        "limit": view.limit,
        "retrying": stats.retrying,
        "rate": f"{tally.rate_now:.3f}",
        "average": f"{view.rate:.3f}",
        "p50": f"{tally.percentile(0.5):.4f}" if tally.timed else None,
        "p95": f"{tally.percentile(0.95):.4f}" if tally.timed else None,
        "eta": None if view.eta is None else int(view.eta),
        "wait": tally.wait,
        "errors": ",".join(f"{kind}:{count}" for kind, count in tally.failed.most_common(_TOP_ERRORS)) or None,
    }
    return "aiomap " + " ".join(f"{key}={_value(value)}" for key, value in values.items() if value is not None)


def _value(value: str | int) -> str:
    text = printable(redacted(str(value)))
    return text if _BARE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def end(view: View, verdict: str, files: Sequence[str], next_command: str | None, width: int = 100) -> str:
    """What is said when the sitting is over: several lines.

    verdict: how it ended, as in "finished" or "stopped by Ctrl-C".
    files: one line for each file that is left: its path, and what is in it.
    next_command: what to type next, quoted for a shell; it is not cut.
    width: the cells of a line.
    """
    stats, tally = view.stats, view.tally
    over = f"{counted(ended(stats), 'item')} in {latency(view.seconds)}, {per_time(view.rate)}"
    rows = [f"aiomap: {cut(verdict, 2 * width)}{_DOT}{over}", _row("ok", f"{stats.done:>11,}")]
    rows.append(_row("failed", f"{stats.failed:>11,}"))
    rows += [cut(text, width) for text in _classes(tally)]
    rest = {
        "skipped": stats.skipped,
        "cancelled": stats.cancelled,
        "earlier": stats.recorded,
        "not done": (view.left or 0) - stats.cancelled,
        "retries": tally.retries,
    }
    about = {"not done"} if not view.is_sure else set[str]()
    more = {"earlier": f" ({view.recorded_failed:,} of them failed)"} if view.recorded_failed else {}
    rows += [
        _row(name, f"{('~' if name in about else '') + f'{count:,}':>11}{more.get(name, '')}")
        for name, count in rest.items()
        if count > 0
    ]
    if tally.timed:
        spread = ", ".join(f"p{percent} {latency(tally.percentile(percent / 100))}" for percent in (50, 90, 99))
        rows.append(_row("latency", f"{spread}, longest {latency(tally.longest)}"))
    if spent := _spent(stats):
        rows.append(_row("slots", spent))
    rows += [_row("" if number else "files", printable(text)) for number, text in enumerate(files)]
    if next_command is not None:
        rows.append(_row("next", printable(next_command)))
    return "\n".join(rows)


def _row(name: str, text: str) -> str:
    return f"  {name:<10}{text}"


def _classes(tally: Tally) -> list[str]:
    rows: list[str] = []
    listed = tally.failed.most_common(_MOST_CLASSES)
    for kind, count in listed:
        name = cut(kind, _LONGEST_CLASS)
        example = tally.examples[kind]
        padding = " " * max(0, 10 - cells(name))
        told = ": ".join(text for text in (example.where, example.message) if text)
        rows.append(f"    {name}{padding}{count:>9,}   {redacted(told)}")
    unlisted = len(tally.failed) - len(listed)
    if unlisted:
        rows.append(f"    and {unlisted:,} more {'class' if unlisted == 1 else 'classes'}")
    return rows


def _spent(stats: Stats) -> str:
    """Where the time of the slots went, in words."""
    whole = sum(stats.slot_seconds.values())
    parts = sorted(stats.slot_seconds.items(), key=lambda part: -part[1])
    names = {
        "limit": "limits",
        "gate": "pauses to spare the remote",
        "idle": "nothing left to do",
        "consumer": "the output or stopping",
    }
    return ", ".join(
        f"{names.get(why) or _WORDS.get(why, why)} {100 * seconds / whole:.0f} %"
        for why, seconds in parts
        if whole > 0 and seconds / whole >= _LEAST_SHARE
    )
