"""The progress bar of `progress=True`.

Invariant: it only looks at `Stats`, ten times a second, so its cost does not grow with the number of items. Nothing but
numbers reaches the screen, and only stderr is written to.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final

from aiomap._outcome import Observer, Stats
from aiomap.errors import MissingExtra

__all__ = ["progress_bar"]

# Seconds between two lines where there is no terminal.
_EVERY: Final = 30.0


def progress_bar(total: int | None) -> Observer:
    """A tqdm bar on a terminal or in a notebook, else a line every 30 seconds. `total` is `None` if nobody knows it."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingExtra("progress=True", "tqdm", "progress") from None
    if sys.stderr is None:  # closed by whoever started us
        return _Quiet(None)
    if "ipykernel" in sys.modules or sys.stderr.isatty():
        return _Quiet(_Bar(tqdm, total))
    return _Quiet(_Lines(total))


def _ended(stats: Stats) -> int:
    return stats.done + stats.failed + stats.skipped


class _Quiet:
    """Looks on until that fails: a terminal that goes away must not take the run with it."""

    def __init__(self, observer: Observer | None) -> None:
        self._observer = observer

    def update(self, stats: Stats) -> None:
        if self._observer is not None:
            self._show(self._observer.update, stats)

    def close(self, stats: Stats) -> None:
        if self._observer is not None:
            self._show(self._observer.close, stats)

    def _show(self, show: Callable[[Stats], None], stats: Stats) -> None:
        try:
            show(stats)
        except (OSError, ValueError):  # what a closed file raises
            self._observer = None


class _Bar:
    def __init__(self, tqdm: Any, total: int | None) -> None:
        self._tqdm = tqdm
        self._total = total
        self._bar: Any = None

    def update(self, stats: Stats) -> None:
        if self._bar is None:
            self._bar = self._tqdm(total=self._total, file=sys.stderr, dynamic_ncols=True, mininterval=0)
        if stats.failed:
            self._bar.set_postfix_str(f"{stats.failed:,} failed", refresh=False)
        # What an earlier run has recorded is there, and says nothing about the speed of this one.
        self._bar.n += stats.recorded - self._bar.initial
        self._bar.initial = stats.recorded
        self._bar.update(_ended(stats) + stats.recorded - self._bar.n)

    def close(self, stats: Stats) -> None:
        self.update(stats)
        self._bar.close()


class _Lines:
    def __init__(self, total: int | None) -> None:
        self._total = total
        self._began = self._printed = time.monotonic()

    def update(self, stats: Stats) -> None:
        if time.monotonic() - self._printed >= _EVERY:
            self._print(stats)

    def close(self, stats: Stats) -> None:
        self._print(stats)

    def _print(self, stats: Stats) -> None:
        self._printed = time.monotonic()
        passed = self._printed - self._began
        ended = _ended(stats)
        of = "" if self._total is None else f"/{self._total - stats.recorded}"
        rate = f" per_second={ended / passed:.1f}" if passed else ""
        recorded = f" recorded={stats.recorded}" if stats.recorded else ""
        sys.stderr.write(f"aiomap ended={ended}{of} failed={stats.failed} running={stats.running}{recorded}{rate}\n")
        sys.stderr.flush()
