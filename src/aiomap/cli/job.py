"""One sitting of `aiomap run`: from the records of the input, by way of the journal, to the output.

Invariant: the journal decides what is true. The output and the file of failures follow from it, however the sitting
ends; what was completed is safe, and is not run again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Final, final

from aiomap._map import aoutcomes
from aiomap._outcome import SKIP, Outcome
from aiomap.cli.backlog import Backlog, Output
from aiomap.cli.output import WriteFailed
from aiomap.cli.plan import Plan, Stop
from aiomap.cli.screen import Screen
from aiomap.cli.signals import reacting, stop_until_continued
from aiomap.cli.tally import Tally
from aiomap.cli.view import State, View
from aiomap.cli.words import cut
from aiomap.errors import UnrecordableResult
from aiomap.failures import failure_class
from aiomap.inputs import BadRecord, Entries, Entry, arriving
from aiomap.journal.serializers import Unencodable, serializer
from aiomap.limits.adaptive import Adaptive
from aiomap.limits.rate import Rate

if TYPE_CHECKING:
    from types import FrameType

    from aiomap._outcome import Stats
    from aiomap._stream import Stream

__all__ = ["Job"]

# How many times Ctrl-C must be pressed to cancel what is in flight; once more, of it or of SIGTERM, ends the process.
_CANCELS: Final = 2
# Seconds that what is in flight has after SIGTERM; who sends that sends SIGKILL soon.
_GRACE: Final = 20.0
# Seconds that it has from its cancel on, and then the set-up to end. What has not ended then never may.
_LAST_GRACE: Final = 5.0
# Seconds between two looks, for the screen and for what there is to write.
_LOOK: Final = 0.1
_LONGEST: Final = 10  # items that are told of at SIGUSR1
_KEY: Final = 100  # cells of an item's key


@final
class Job:
    """Runs a plan; `run` does it.

    tally, view: what it came to. stop: why it ended early; `None` if it did not. failed: how many items have failed,
    those of earlier sittings that were not run again too: `recorded_failed` of them.
    """

    def __init__(self, plan: Plan, output: Output, screen: Screen) -> None:
        self.tally = Tally()
        self.stop: Stop | None = None
        self.failed = self.recorded_failed = 0
        self._plan, self._screen = plan, screen
        self._backlog = Backlog(output, self._wrote)
        self._state: State = "running"
        self._ended: str | None = None
        self._unwritten: WriteFailed | None = None
        self._unsaved: set[int] = set()  # indexes of items whose files cannot be written
        self._signals = 0
        self._running: dict[int, tuple[float, Entry]] = {}  # by index: since when
        self._stopped = False
        self._ticking: asyncio.TimerHandle
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reading: asyncio.Task[Any] | None = None
        self._stream: Stream[Outcome[Entry, Any]]
        self._began = time.monotonic()
        self._timers: list[asyncio.TimerHandle] = []
        self._error: BaseException | None = None
        self._gates = [each for each in (*plan.limits, plan.max_concurrent_tasks) if isinstance(each, Rate | Adaptive)]
        self._over = self._read_any = False

    def run(self) -> None:
        """Raises what made it impossible: JournalError, `WriteFailed`, an error of the input or of the set-up."""
        with reacting(self._signalled):
            asyncio.run(self._run())

    @property
    def view(self) -> View:
        """How it stands."""
        now = time.monotonic()
        entries = self._plan.entries
        total, is_sure = (isinstance(entries, Entries) and entries.expected()) or (None, True)
        return View(
            self._stats,
            self._stream.max_concurrent_tasks,
            total,
            now - self._began,
            self.tally,
            self._state,
            time.time(),
            is_sure,
            ended=self._ended,
            gate_until=self._gate_until(now),
            ages=[now - since for since, _ in self._running.values()],
            recorded_failed=self.recorded_failed,
        )

    @property
    def _stats(self) -> Stats:
        """Those of the stream. What could not be saved is cut short, and no failure."""
        stats, unsaved = self._stream.stats, len(self._unsaved)
        return replace(stats, failed=stats.failed - unsaved, cancelled=stats.cancelled + unsaved) if unsaved else stats

    def _gate_until(self, now: float) -> float | None:
        """When the pauses are over that were asked of all items; of those of single keys it is not known."""
        opens = max((gate.closed_until(0) for gate in self._gates), default=now)
        return time.time() + opens - now if opens > now else None

    async def _run(self) -> None:
        plan, self._loop = self._plan, asyncio.get_running_loop()
        self._reading = asyncio.current_task()
        arguments: list[Any] = []
        # Before the set-up, so that a signal meanwhile finds something to hold back.
        self._stream = stream = aoutcomes(
            self._calling(arguments),
            _not_waited_for(plan.entries),
            plan.max_concurrent_tasks,
            ordered=plan.ordered,
            timeout=plan.timeout,
            retry=plan.retry,
            limits=plan.limits,
            journal=plan.journal,
        )
        try:
            await self._sit(stream, arguments)
        except BaseException:
            self._ended = "broken"
            raise
        else:
            self._ended = "finished" if self.stop is None else self.stop.name.lower()
        finally:
            self._look()

    async def _sit(self, stream: Stream[Outcome[Entry, Any]], arguments: list[Any]) -> None:
        plan, task = self._plan, self._reading
        async with AsyncExitStack() as stack:
            if plan.setup is not None:
                try:
                    arguments.append(await stack.enter_async_context(plan.setup()))
                except asyncio.CancelledError:
                    if task is None or not self._stopped:
                        raise
                    task.uncancel()
            if self._stopped:
                return
            await stack.enter_async_context(stream)
            if plan.max_time is not None:
                loop = asyncio.get_running_loop()
                self._timers.append(loop.call_later(plan.max_time, self._drain, Stop.OUT_OF_TIME))
            try:
                await self._read_all(stream)
            except BaseException as error:
                self._error = error
                raise
            finally:
                for timer in self._timers:
                    timer.cancel()
                self._over = True
                if self.stop is Stop.TERMINATED:  # now all is written, and the set-up alone is left
                    asyncio.get_running_loop().call_later(_LAST_GRACE, self._end_process, signal.SIGTERM)
        if self._error is not None:  # the set-up has swallowed it
            raise self._error

    async def _read_all(self, stream: Stream[Outcome[Entry, Any]]) -> None:
        task = self._reading
        self._tick()
        broken: BaseException | None = None
        try:
            await self._read(stream)
        except asyncio.CancelledError:
            if task is None or not self._stopped:
                raise
            task.uncancel()
            broken = await self._rest(stream)
        except BaseException as error:
            broken = error
        finally:
            self._reading = None
            self._ticking.cancel()
            await self._backlog.written()
        if unwritten := self._backlog.error or self._unwritten:
            raise broken or unwritten
        if broken is None:
            await asyncio.to_thread(self._backlog.finish, whole=self.stop is None)
            return
        if self._read_any:  # so the journal was open
            with suppress(Exception):  # what broke first is what counts
                await asyncio.to_thread(self._backlog.finish, whole=False)
        raise broken

    async def _rest(self, stream: Stream[Outcome[Entry, Any]]) -> BaseException | None:
        """Takes what was completed before the end; gives back what it ended with."""
        try:
            await stream.aclose()
            await self._read(stream)
        except BaseException as error:
            return error
        return None

    async def _read(self, stream: Stream[Outcome[Entry, Any]]) -> None:
        async for outcome in stream:
            self._read_any = True
            if outcome.item.index in self._unsaved:
                continue
            self._count(outcome)
            self._backlog.take(outcome)
            if self._backlog.is_full:
                # Not by taking nothing: then the values would wait in the stream, a thousand of them.
                self._stream.pause()

    def _cannot_write(self, error: OSError) -> None:
        if self._unwritten is None:
            self._unwritten = WriteFailed(f"cannot write {error.filename}: {error.strerror or error}")
            self._unwritten.__cause__ = error
            self._end()

    def _wrote(self) -> None:
        if self._backlog.error is not None:
            self._end()
        elif self._state == "running" and not self._backlog.is_full:
            self._stream.resume()

    def _tick(self) -> None:
        self._look()
        self._backlog.write()
        self._ticking = asyncio.get_running_loop().call_later(_LOOK, self._tick)

    def _count(self, outcome: Outcome[Entry, Any]) -> None:
        self.failed += outcome.error is not None
        if outcome.started < 0:  # of an earlier sitting
            self.recorded_failed += outcome.error is not None
            return
        if outcome.error is None:
            self.tally.add_success(outcome.elapsed, outcome.attempts)
            return
        where = "" if isinstance(outcome.error, BadRecord) else outcome.item.place  # a fault says it itself
        kind, message = failure_class(outcome.error), _text_of(outcome.error)
        self.tally.add_failure(kind, where, message, outcome.elapsed, outcome.attempts)
        stats = self._stream.stats
        # What is to finish, once nothing starts any more, is not cut short by it.
        if self._state == "running" and self._plan.halt(stats.failed, stats.done + stats.failed + stats.skipped):
            self._cancel(Stop.HALTED)

    def _look(self) -> None:
        self._screen.show(self.view)

    def _calling(self, arguments: list[Any]) -> Callable[[Entry], Awaitable[Any]]:
        """The function for the map: it takes an entry, and counts as the user's own where a journal asks for that."""
        function, running = self._plan.function, self._running
        # A journal sees to it itself that nothing is recorded that could not be given back.
        encoded = _value_encoder() if self._plan.journal is None else None

        async def call(entry: Entry) -> Any:
            if entry.fault is not None:
                raise BadRecord(entry.fault)
            running[entry.index] = time.monotonic(), entry
            try:
                value = await function(entry.item, *arguments)
                return value if encoded is None or value is SKIP else encoded(entry.index, value)
            except OSError as error:
                if not self._plan.writes:
                    raise
                self._unsaved.add(entry.index)
                self._cannot_write(error)
                raise asyncio.CancelledError from error  # so that no failure is recorded: it runs again
            finally:
                del running[entry.index]
                if self._state == "draining" and not running:
                    # Once this attempt has ended, and its outcome, if it is one, is there to be taken.
                    asyncio.get_running_loop().call_soon(self._end)

        return update_wrapper(call, function)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        """The signal handler: called between two bytecodes of the main thread, so no blocked loop can put it off."""
        if number == signal.SIGUSR1:
            self._in_loop(self._tell)
            return
        if number == signal.SIGTSTP:
            self._stand_still()
            return
        self._signals += number in (signal.SIGINT, signal.SIGTERM)
        if self._loop is None or self._signals > _CANCELS:
            self._end_process(number)
        if number == signal.SIGINT:
            self._in_loop(self._interrupt, Stop.INTERRUPTED)
        else:
            self._in_loop(self._drain, Stop.TERMINATED if number == signal.SIGTERM else Stop.HUNG_UP)

    def _end_process(self, number: int) -> None:
        """Waits for nobody; what was committed is safe."""
        self._screen.abandon()
        os._exit(128 + number)

    def _stand_still(self) -> None:
        """Ctrl-Z: what is drawn makes way for the shell. The time until `fg` is none of the sitting's."""
        began = time.monotonic()
        self._screen.abandon()
        stop_until_continued()
        self._began += time.monotonic() - began

    def _in_loop(self, react: Callable[..., None], *arguments: Stop) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it is all over anyway
                self._loop.call_soon_threadsafe(react, *arguments)

    def _drain(self, why: Stop) -> None:
        """Nothing more is started. What is in flight is finished; what waits, for a limit or a retry, is left."""
        if self._over:
            return
        if self.stop is None:
            self.stop = why
        if self._state == "running":
            self._state = "draining"
            self._stream.pause()
            self._look()
        if why is Stop.TERMINATED:
            self._timers.append(asyncio.get_running_loop().call_later(_GRACE, self._cancel, why))
        if not self._running:
            self._end()

    def _interrupt(self, why: Stop) -> None:
        """What the screen says that Ctrl-C does, whatever began the end."""
        (self._drain if self._state == "running" else self._cancel)(why)

    def _cancel(self, why: Stop) -> None:
        if self._over:
            return
        if self.stop is None:
            self.stop = why
        self._state = "cancelling"
        self._look()
        self._end()
        if why is Stop.TERMINATED:
            self._timers.append(asyncio.get_running_loop().call_later(_LAST_GRACE, self._leave_behind))

    def _leave_behind(self) -> None:
        """Who sent SIGTERM is not kept waiting by a function that does not let itself be cancelled."""
        if self._running:
            self._end_process(signal.SIGTERM)

    def _end(self) -> None:
        """Has the stream closed by the one who reads it, who takes what is in it before."""
        if not self._stopped and self._reading is not None:
            self._stopped = True
            # Not at once: the reader may be the one who asks, and its cancel would wait for whatever it awaits next.
            asyncio.get_running_loop().call_soon(self._cancel_reading)

    def _cancel_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    def _tell(self) -> None:
        now = time.monotonic()
        longest = sorted(self._running.values(), key=lambda running: running[0])[:_LONGEST]
        stats = self._stats
        rows = [f"aiomap: {stats.done:,} done, {stats.failed:,} failed, {stats.running:,} running"]
        for since, entry in longest:
            rows.append(f"  for {now - since:8.1f} s: {entry.place}, {cut(str(entry.key), _KEY)}")
        self._screen.say("\n".join(rows))


def _not_waited_for(entries: Iterable[Entry]) -> Iterable[Entry] | AsyncIterable[Entry]:
    return arriving(entries) if isinstance(entries, Entries) and entries.may_wait else entries


def _value_encoder() -> Callable[[int, object], object]:
    """What makes JSON of a value. UnrecordableResult for one that a line of the output could not give back."""
    encode = serializer("json").encode

    def encoded(index: int, value: object) -> object:
        try:
            return encode(value)
        except Unencodable as error:
            raise UnrecordableResult(index, error.reason) from error

    return encoded


def _text_of(error: Exception) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"(its text cannot be had: {type(broken).__name__})"
