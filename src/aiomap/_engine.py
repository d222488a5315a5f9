"""The engine: workers that pull straight from one shared source.

Invariant: a worker is a task, and it waits for nothing but the item it runs. It ends as soon as it may not go on (the
input is dry, the window is full, the run is paused or stopped, its last item left a trace in it, its turn of the loop
is used up), and `fill` starts workers whenever they may. So between any two steps of the loop

    live workers  =  attempts that run  +  workers before their first step  <=  limit   (lowering it cancels nothing)
    results held  +  live workers  <=  limit + buffer                                   (streams only)

There is no queue, no semaphore, and no parked worker that a lost wake-up could leave asleep. This is the only module
that makes tasks and timers. What may start is decided in one place, `fill`; what becomes of an outcome, by `Verdicts`.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Generator, Iterable
from contextvars import Context
from heapq import heappop, heappush
from itertools import islice
from types import coroutine
from typing import Any, Final, cast

from aiomap._call import Call, calls
from aiomap._context import root
from aiomap._door import Door
from aiomap._outbox import Outbox
from aiomap._outcome import SKIP, Observer, Stats
from aiomap._slot_time import SlotTime
from aiomap._source import AsyncSource, SyncSource
from aiomap._turn import Turn
from aiomap._verdict import NOT_CALLED, Halt, Verdicts, as_failure, ends_the_program, judged

__all__ = ["Engine"]

_BATCH: Final = 512  # workers started in one turn of the loop: 100,000 would stop it for half a second
_TICK: Final = 0.1  # seconds between two looks of an observer


@coroutine
def _next_turn() -> Generator[None, None, None]:
    yield


class Engine:
    """One run of a map. Its results go to the list `results`, or to `outbox` if there is one."""

    loop: asyncio.AbstractEventLoop
    _source: SyncSource[Any] | AsyncSource[Any]

    def __init__(
        self,
        function: Callable[[Any], Awaitable[Any]],
        data: Iterable[Any] | AsyncIterable[Any],
        limit: int,
        verdicts: Verdicts,
        context: Context,
        *,
        isolate: bool = False,
        observer: Observer | None = None,
        outbox: Outbox | None = None,
        buffer: Callable[[int], int] = lambda _: sys.maxsize,
    ) -> None:
        self.results: list[Any] = []
        self.holes = False  # a SKIP stands in the results
        self.error: BaseException | None = None
        self.started = self.stopped = self.ended = False
        self.shut = False  # no worker may take another item just now
        self._function, self._data, self._verdicts, self._context = function, data, verdicts, context
        self._isolate, self._observer, self._outbox, self._buffer = isolate, observer, outbox, buffer
        self.limit, self._capacity = limit, limit + buffer(limit)
        self._paused = self._cancelled = self._starting = self._feeder_told = False
        self._doors: list[Door] = []
        self._workers: dict[asyncio.Task[None], Call] = {}
        self._feeder: asyncio.Task[None] | None = None
        self._ticker: asyncio.Handle | None = None
        self._fill_later: asyncio.Handle | None = None
        self._slots: list[int] = []
        self._unstarted = self._failed = self._skipped = self._cut = self._outside_cancels = 0
        self._last = -1
        self._slot_time = SlotTime()

    def start(self) -> None:
        """Opens the source and starts the first workers; what `iter(data)` raises leaves from here."""
        if self.ended:
            return
        self.loop = asyncio.get_running_loop()
        # A loop of another make may keep one time for a whole turn (uvloop does), which is no use inside of one. A loop
        # built on asyncio's that has a clock of its own has virtual time.
        virtual = type(self.loop).time is not asyncio.BaseEventLoop.time
        self._now = self.loop.time if isinstance(self.loop, asyncio.BaseEventLoop) and virtual else time.monotonic
        self._began, self._turn = self._now(), Turn(self.loop, self._now)
        self._slot_time.book(self._began, 0, self.limit, "idle")
        apart = self._context.copy()
        # What is both (tqdm's bars are) may wrap something that only its async side can iterate.
        if isinstance(self._data, AsyncIterable):
            source = self._source = AsyncSource[Any](self._data, lambda: self._unstarted, self.fill)
            self._feeder = self._task(self._feed(source), apart)
            self._feeder.add_done_callback(self._feeder_gone)
        else:
            try:
                self._source = SyncSource[Any](self._data, apart)
            except BaseException:
                self.ended = True
                raise
        self.started = True
        self._tick()
        self.fill()

    def stats(self) -> Stats:
        """A snapshot; it looks at every running item."""
        if not self.started:
            return Stats(0, 0, 0, 0, 0, 0, 0, 0, 0, SlotTime().until(0.0))
        running = len(self._workers) - self._unstarted
        begun = self._begun()
        return Stats(
            pulled=begun + self._source.waiting,
            running=running,
            waiting=self._source.waiting,
            retrying=0,
            done=begun - running - self._failed - self._skipped - self._cut,
            failed=self._failed,
            skipped=self._skipped,
            cancelled=self._cut,
            buffered=0 if self._outbox is None else self._outbox.held(),
            slot_seconds=self._slot_time.until(self._now()),
        )

    def set_limit(self, limit: int) -> None:
        """Another number of slots; what runs goes on."""
        self.limit, self._capacity = limit, limit + self._buffer(limit)
        self.fill()

    def pause(self, paused: bool) -> None:
        """Whether starts are held back."""
        self._paused = paused
        self.fill()

    def drain(self) -> None:
        """Takes no more input; what was taken is run to its end."""
        if not self.started:
            self.stop()
            return
        self._close_source()
        self.pause(False)

    def halt(self) -> None:
        """Nothing is pulled or started any more."""
        self.stopped = self.shut = True
        if self.started:
            self._source.stop()

    def stop(self, error: BaseException | None = None) -> None:
        """Nothing starts any more; what runs is cancelled, once. A KeyboardInterrupt outranks other errors."""
        if self.error is None or ends_the_program(error) > ends_the_program(self.error):
            self.error = error
        self.halt()
        if not self.started:
            self.ended = True
        elif self.loop.is_running():  # else the coroutines of a dead loop are being collected
            if not self._cancelled:
                self._cancelled = True
                self._cancel_running()
            self.fill()

    def cancel(self) -> None:
        """A cancel from outside: the first stops the run, each further one is forwarded to what runs."""
        self._outside_cancels += 1
        if self._outside_cancels > 1:
            self._cancel_running()
        self.stop()

    async def finish(self) -> None:
        """Waits until no task of the run is alive. A cancel of the waiting task stops the run first."""
        cancelled = None
        while not self.ended:
            self._doors.append(Door(self.loop, self.halt))
            try:
                await self._doors[-1]
            except asyncio.CancelledError as error:
                cancelled = error
                self.cancel()
        if cancelled is not None and not ends_the_program(self.error):
            raise cancelled

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._now() - self._began

    def runs(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether the task is a worker of this run."""
        return task in self._workers

    def _begun(self) -> int:
        """How many items were started. The running ones know: nothing is counted per item."""
        return 1 + max(self._last, max((call.index for call in self._workers.values()), default=-1))

    def _cancel_running(self) -> None:
        """Each item directly: through a task in between, items would start after the cancel."""
        me = asyncio.current_task()
        for task, call in self._workers.items():
            if call.index >= 0 and task is not me:
                task.cancel()
        if self._outside_cancels > 1 and self._feeder is not None:
            self._feeder.cancel()
        self._close_source()

    def _close_source(self) -> None:
        self._source.stop()
        if self._feeder is not None and not self._feeder_told:
            self._feeder_told = True
            self._feeder.cancel()

    def fill(self) -> None:
        """Starts workers until the slots, the window or the input are used up. Every change of state ends here."""
        if not self.started or self.ended:
            return
        source, live = self._source, len(self._workers)
        free, dry = self.limit - live, source.ended and not source.waiting
        if dry and live and self._outbox is None:  # the long tail of a list: many leave, and none will come
            self.shut = True
            self._slot_time.book(self._now(), live, max(0, free), "idle")
            return
        # How many more workers the window has room for; below 0 after the limit was lowered.
        room = sys.maxsize if self._outbox is None else self._capacity - self._outbox.held() - live
        self.shut = self.stopped or self._paused or dry or free < 0 or room < 0
        if not self.shut and free and room:
            wanted = source.available(min(free, room) + self._unstarted) - self._unstarted
            for _ in range(min(wanted, 1 if self._fill_later else _BATCH)):
                self._spawn()
            if wanted > _BATCH and not self._fill_later:
                self._fill_later = self.loop.call_soon(self._go_on)
            started = len(self._workers) - live
            free, room = free - started, room - started
        if self._outbox is not None:
            self._outbox.full = free > 0 and room <= 0 and not dry
            self._outbox.spare = self._capacity - len(self._workers)
        over = not self._workers and self._feeder is None and (dry or self.stopped)
        self._slot_time.book(self._now(), len(self._workers), 0 if over else max(0, free), self._why_free(dry))
        if over:
            self._end()

    def _go_on(self) -> None:
        self._fill_later = None
        self.fill()

    def _why_free(self, dry: bool) -> str:
        if dry or self.stopped:
            return "idle"
        if self._paused or (self._outbox is not None and self._outbox.full):
            return "consumer"
        return "idle" if self._source.waiting else "source"

    def _spawn(self) -> None:
        context = self._context.copy()
        # A heap keeps the slots' numbers compact: a new one only when all below are taken.
        call = Call(heappop(self._slots) if self._slots else len(self._workers))
        self._unstarted += 1
        call.task = task = self._task(self._work(call, context), context)
        self._workers[task] = calls[task] = call
        task.add_done_callback(self._gone)

    def _task(self, coroutine: Coroutine[Any, Any, None], context: Context) -> asyncio.Task[None]:
        self._starting = True
        try:
            return self.loop.create_task(coroutine, context=context)
        finally:
            self._starting = False

    # All in one frame: a call per item would cost more than the rest of the loop.
    async def _work(self, call: Call, context: Context) -> None:  # noqa: C901, PLR0912
        """Runs one item after the other."""
        turn = self._turn
        while self._starting or turn.is_over(self._now()):  # an eager task factory runs us inside of create_task
            await _next_turn()
        self._unstarted -= 1
        call.task.remove_done_callback(self._gone)
        function, listed = self._function, self._outbox is None
        put: Callable[[int, Any], bool] | None = None if self._outbox is None else self._outbox.put
        if self._verdicts.value is not None:
            function, put = judged(self._verdicts.value, call, function, self)
        items, results, skip = self._source.items, self.results, cast("object", SKIP)
        # An empty context is false when clean, which is free to test. An isolated worker never is clean.
        clean = object() if self._isolate else root(context) if context else None
        cancelling, referents, more = call.task.cancelling, gc.get_referents, self._source.more
        awaitable: object = NOT_CALLED
        stride, looked, number = 1, self._now(), turn.number
        try:
            while not self.shut and more():
                for index, item in islice(items, stride):
                    call.index = index
                    if listed:
                        results.append(None)
                    try:
                        awaitable = function(item)
                        value = await awaitable
                    except BaseException as error:
                        self._fail(call, item, error, awaitable)
                        awaitable = NOT_CALLED
                    else:
                        if value is skip:
                            self._skipped += 1
                            self.holes = True
                        if put is None:
                            results[index] = value
                        elif put(index, value):
                            self.shut = True
                    # The next item may only follow in a worker that carries no trace of this one.
                    if self.shut or cancelling() or (context if clean is None else referents(context)[-1] is not clean):
                        return
                before, looked = looked, self._now()
                turned, number = number != turn.number, turn.number
                if turn.is_over(looked) and not turned:  # else an item was suspended in between
                    return
                stride = turn.stride(stride, looked - before, turned=turned)
        except BaseException as error:
            self._source_failed(error)
        finally:
            self._leave(call)

    def place(self, index: int, value: Any) -> bool:
        """Puts what the verdict on an item is into the results. True when the window is full now."""
        self.holes = self.holes or value is SKIP
        if self._outbox is not None:
            return self._outbox.put(index, value)
        self.results[index] = value
        return False

    def _fail(self, call: Call, item: Any, error: BaseException, awaitable: object) -> None:
        if self._cancelled and isinstance(error, asyncio.CancelledError):
            self._cut += 1
            return
        self._failed += 1
        failure = as_failure(self._function, call.index, error, awaitable)
        if not isinstance(failure, Exception):
            self.stop(failure)
            return
        call.item = item
        call.elapsed = self.elapsed() - call.started
        verdict = self._verdicts.error(call, failure, lambda: 1 + self._begun() - len(self._workers) + self._unstarted)
        if isinstance(verdict, Halt):
            self.stop(verdict.error)
        elif self.place(call.index, verdict):
            self.shut = True

    def _source_failed(self, error: BaseException) -> None:
        self._source.stop()
        if self._verdicts.fail_fast or not isinstance(error, Exception):
            self.stop(error)
        elif self.error is None:
            self.error = error

    async def _feed(self, source: AsyncSource[Any]) -> None:
        if self._starting:
            await _next_turn()
        try:
            await source.feed()
        except BaseException as error:
            if not (self._feeder_told and isinstance(error, asyncio.CancelledError)):
                self._source_failed(error)

    def _feeder_gone(self, _: asyncio.Task[None]) -> None:
        self._feeder = None
        self._source.stop()
        self.fill()

    def _leave(self, call: Call) -> None:
        self._last = max(self._last, call.index)
        del self._workers[call.task], calls[call.task]
        heappush(self._slots, call.slot)
        try:
            self.fill()
        except BaseException as error:
            self.stop(error)

    def _gone(self, task: asyncio.Task[None]) -> None:
        """For a worker that somebody cancelled before its first step: its own code never runs."""
        self._unstarted -= 1
        self._leave(self._workers[task])

    def _end(self) -> None:
        self.ended = True
        if self._ticker is not None:
            self._ticker.cancel()
        if self._observer is not None:
            self._observer.close(self.stats())
        for door in self._doors:
            door.open()
        self._doors.clear()
        if self._outbox is not None:
            self._outbox.wake()

    def _tick(self) -> None:
        if self._observer is not None:
            self._observer.update(self.stats())
            self._ticker = self.loop.call_later(_TICK, self._tick)
