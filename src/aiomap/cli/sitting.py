"""One sitting of `aiomap fetch`: from the lines of the input to the lines of the output.

Invariant: a link that was fetched, or failed, has its line in the output, however the sitting ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, final

from aiomap._map import aoutcomes
from aiomap._outcome import Outcome
from aiomap.cli.output import JsonLines, encoded
from aiomap.cli.summary import Summary, counted
from aiomap.fetch import Fetcher, Page, failure, record

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Generator, Iterable
    from types import FrameType

    from aiomap._retry import Retry
    from aiomap.limits.adaptive import Adaptive
    from aiomap.limits.limit import Limit
    from aiomap.lines import Line

__all__ = ["Sitting"]

# How many times Ctrl-C must be pressed to cancel what is in flight; once more ends the process.
_CANCELS: Final = 2

# Host names are looked up in threads, as many at once as links are fetched, up to this many. asyncio's own few would
# let a list of many hosts wait for them.
_MOST_LOOKUPS: Final = 100

# Bytes of pages that may wait to be written. Then nothing starts until half of them are.
_MOST_HELD: Final = 64 << 20


@final
class Sitting:
    """Fetches all lines, so many at a time; `run` does it.

    max_concurrent_tasks, timeout, retry, limits: as for `aoutcomes`.

    The first Ctrl-C lets nothing start any more and finishes what is in flight, the second cancels it, the third ends
    the process where it stands. A link that waits then, for a limit or for its next attempt, is not done and has no
    line.

    slots: the most links that are ever fetched at once.

    Raises `MissingExtra` if there is to be a progress bar, and no tqdm for it.
    """

    def __init__(
        self,
        lines: Iterable[Line] | AsyncIterable[Line],
        max_concurrent_tasks: int | Adaptive,
        fetcher: Fetcher,
        *,
        timeout: float,
        retry: Retry | None,
        limits: Iterable[Limit],
        quiet: bool,
    ) -> None:
        self.slots = max_concurrent_tasks if isinstance(max_concurrent_tasks, int) else max_concurrent_tasks.max
        self.summary = Summary()
        self.interrupts = 0
        self.seconds = 0.0
        self._fetcher = fetcher
        self._quiet = quiet or sys.stderr is None
        self._in_flight = 0
        self._held = 0
        self._draining = self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._recording: asyncio.Task[Any] | None = None
        self._outcomes = aoutcomes(
            self._fetch,
            lines,
            max_concurrent_tasks,
            timeout=timeout,
            retry=retry,
            limits=limits,
            progress=not self._quiet,
        )

    def run(self, descriptor: int) -> None:
        """Writes to the descriptor, and closes it. Raises `WriteFailed`, and `OSError` if the input cannot be read."""
        began = time.monotonic()
        try:
            with _on_interrupt(self._interrupted):
                asyncio.run(self._run(descriptor))
        finally:
            self.seconds = time.monotonic() - began

    async def _run(self, descriptor: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(min(self.slots, _MOST_LOOKUPS), "aiomap-lookup"))
        async with JsonLines(descriptor) as output, self._fetcher, self._outcomes:
            self._recording = task = asyncio.current_task()
            try:
                await self._record(output)
            except asyncio.CancelledError:
                if task is None or not self._stopped:
                    raise
                task.uncancel()
                await self._outcomes.aclose()
                await self._record(output)
            finally:
                self._recording = None

    async def _fetch(self, line: Line) -> Page:
        self._in_flight += 1
        try:
            page = await self._fetcher.fetch(line)
            self._hold(len(page.body))
            return page
        finally:
            self._in_flight -= 1
            if self._draining and not self._in_flight:
                # Once this attempt has ended, and its outcome, if it is one, is there to be taken.
                asyncio.get_running_loop().call_soon(self._stop)

    def _hold(self, count: int) -> None:
        """Counts the bytes of a page that waits to be written: many large ones would fill the memory."""
        self._held += count
        if self._held > _MOST_HELD:
            self._outcomes.pause()

    def _let_go(self, count: int) -> None:
        self._held -= count
        if not self._draining and self._held <= _MOST_HELD // 2:
            self._outcomes.resume()

    async def _record(self, output: JsonLines) -> None:
        async for outcome in self._outcomes:
            self._count(outcome)
            await output.write(encoded(record(outcome)))
            if outcome.value is not None:
                self._let_go(len(outcome.value.body))

    def _count(self, outcome: Outcome[Line, Page]) -> None:
        if outcome.error is None:
            self.summary.add_success(outcome.elapsed, outcome.attempts)
        else:
            failed = failure(outcome.error)
            self.summary.add_failure(
                failed.kind, outcome.item.number, failed.message, outcome.elapsed, outcome.attempts
            )

    def _interrupted(self, *_: object) -> None:
        """The signal handler: called between two bytecodes of the main thread, so no blocked loop can put it off."""
        self.interrupts += 1
        if self.interrupts > _CANCELS:
            os._exit(128 + signal.SIGINT)
        if self._loop is None:  # nothing was started
            os._exit(128 + signal.SIGINT)
        with suppress(RuntimeError):  # the loop is closed: it is all over anyway
            self._loop.call_soon_threadsafe(self._drain if self.interrupts == 1 else self._cancel)

    def _drain(self) -> None:
        self._draining = True
        self._outcomes.pause()
        self._say(
            f"aiomap: stopping. Nothing more is started, {counted(self._in_flight, 'link')} in flight will be finished."
        )
        self._say("aiomap: Ctrl-C once more cancels them; what is done is safe in either case.")
        if not self._in_flight:
            self._stop()

    def _cancel(self) -> None:
        self._say("aiomap: cancelling what is in flight. Ctrl-C once more ends the process at once.")
        self._stop()

    def _stop(self) -> None:
        """Has the stream closed by the one who reads it, who writes down what is in it before."""
        if not self._stopped and self._recording is not None:
            self._stopped = True
            self._recording.cancel()

    def _say(self, text: str) -> None:
        if not self._quiet:
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)


@contextmanager
def _on_interrupt(react: Callable[[int, FrameType | None], None]) -> Generator[None, None, None]:
    """Calls `react` on Ctrl-C, unless the process was told to ignore it, as a script's are that it starts with `&`."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, react)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
