"""What is said at the end of a sitting: counts by outcome and class, speed and latency.

Invariant: it takes the same memory after ten items and after a billion, so percentiles are read off a histogram, to
within one percent.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from typing import Final, final

from aiomap._foreign import printable

__all__ = ["Summary", "counted"]

# Characters of an example, so that its line fits on most screens.
_SHOWN: Final = 60
# Each bucket of the histogram reaches two percent higher than the one below.
_STEP: Final = math.log(1.02)


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "link"), counted(2000, "link")
    ('1 link', '2,000 links')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


@final
class Summary:
    """Counts the items of a sitting as they end."""

    def __init__(self) -> None:
        self.fetched = 0
        self.failed: Counter[str] = Counter()
        self.retries = 0
        self._first: dict[str, tuple[int, str]] = {}
        self._latencies: Counter[int] = Counter()

    def add_success(self, elapsed: float, attempts: int) -> None:
        """An item succeeded, at the last of so many attempts, within so many seconds."""
        self.fetched += 1
        self.retries += attempts - 1
        self._add_latency(elapsed)

    def add_failure(self, kind: str, line: int, message: str, elapsed: float, attempts: int) -> None:
        """An item failed for good, at the last of so many attempts; `line` is where it stood in the input."""
        self.failed[kind] += 1
        self.retries += attempts - 1
        self._first.setdefault(kind, (line, message))
        if kind != "bad_input":  # nobody was asked
            self._add_latency(elapsed)

    def _add_latency(self, elapsed: float) -> None:
        self._latencies[round(math.log(max(elapsed, 1e-6)) / _STEP)] += 1

    def percentile(self, fraction: float) -> float:
        """The latency, in seconds, that this fraction of the items did not exceed; 0 if there were none."""
        left = fraction * self._latencies.total()
        for bucket in sorted(self._latencies):
            left -= self._latencies[bucket]
            if left <= 0:
                return math.exp(bucket * _STEP)
        return 0.0

    def text(self, seconds: float, output: str, *, stopped: bool) -> str:
        """The summary of a sitting that took so many seconds, and the command to type next.

        output: the file, "-" for standard output.
        """
        failed = self.failed.total()
        total = self.fetched + failed
        if not total and not stopped:
            return "aiomap: there was no link in the input"
        speed = f"{counted(total, 'link')} in {seconds:.1f} s, {total / max(seconds, 1e-9):,.1f} a second"
        rows = [f"aiomap: stopped after {speed}" if stopped else f"aiomap: {speed}"]
        rows.append(f"  fetched     {self.fetched:>9,}")
        rows.append(f"  failed      {failed:>9,}")
        for kind, count in self.failed.most_common():
            line, message = self._first[kind]
            rows.append(f"    {kind:<18}{count:>9,}   line {line:,}: {printable(message)[:_SHOWN]}".rstrip())
        if self.retries:
            rows.append(f"  retries     {self.retries:>9,}")
        if self._latencies:
            rows.append(f"  latency     p50 {_duration(self.percentile(0.5))}, p95 {_duration(self.percentile(0.95))}")
        if output != "-":
            rows.append(f"  written     {printable(output)} ({counted(total, 'line')})")
            rows.append(f"  next        {printable(self._next(shlex.quote(output)))}")
        return "\n".join(rows)

    def _next(self, output: str) -> str:
        if self.failed:
            return f"jq -c 'select(.error) | [.line, .key, .error.message]' {output}"
        return f"head -1 {output}"
