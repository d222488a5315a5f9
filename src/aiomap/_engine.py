"""The engine: workers that pull straight from one shared source.

Invariant: a worker is a task, and it waits for nothing but the item it runs. It ends as soon as it may not go on (the
input is dry, the window is full, the run is paused or stopped, its last item left a trace in it, its turn of the loop
is used up), and `_fill` starts workers whenever they may. So between any two steps of the loop

    live workers  =  attempts that run  +  workers before their first step  <=  limit   (lowering it cancels nothing)
    results held  +  live workers  <=  limit + buffer                                   (streams only)

There is no queue, no semaphore, and no parked worker that a lost wake-up could leave asleep. This is the only module
that makes tasks and timers. What may start is decided in one place, `_fill`; what becomes of an outcome, by `Verdicts`.
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Generator, Iterable
from contextvars import Context
from heapq import heappop, heappush
from types import coroutine
from typing import Any, Final

from aiomap._call import Call, calls
from aiomap._outbox import Outbox
from aiomap._outcome import SKIP, Observer, Stats
from aiomap._slot_time import SlotTime
from aiomap._source import AsyncSource, SyncSource
from aiomap._verdict import NOT_CALLED, Halt, Verdicts, as_failure
from aiomap.errors import CallbackError

__all__ = ["Engine"]

# A worker ends when the loop had no turn for this long (seconds). It looks at the clock every _STRIDE items at most.
_TURN: Final = 0.005
_STRIDE: Final = 64
# Workers started in one turn of the loop: 100,000 of them would stop it for half a second.
_BATCH: Final = 512
# Seconds between two looks of an observer.
_TICK: Final = 0.1


class _Door(asyncio.Future[None]):
    """What a caller waits on. Cancelling the caller stops the run in that very step, not when the caller gets its turn."""

    engine: Engine

    def cancel(self, msg: Any | None = None) -> bool:
        self.engine.stopped = self.engine.shut = True
        return super().cancel(msg)


@coroutine
def _next_turn() -> Generator[None, None, None]:
    yield


def _root(context: Context) -> object:
    """The identity of a context's mapping: it is immutable, so the same root means that no variable was set.

    `==` on contexts will not do: it calls the values' `__eq__`, and takes an equal object for the same one.
    """
    return gc.get_referents(context)[-1] if sys.implementation.name == "cpython" else object()


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
        self.limit = limit
        self.results: list[Any] = []
        self.error: BaseException | None = None
        self.started = self.stopped = self.ended = False
        self.shut = False  # no worker may take another item just now
        self.holes = False  # a SKIP stands in the results
        self.full = False  # a slot is free, and only the consumer can make room
        self._function, self._data, self._verdicts, self._context = function, data, verdicts, context
        self._isolate, self._observer, self._outbox, self._buffer = isolate, observer, outbox, buffer
        self._paused = self._cancelled = self._starting = self._feeder_told = False
        self._outside_cancels = 0
        self._doors: list[_Door] = []
        self._workers: dict[asyncio.Task[None], Call] = {}
        self._feeder: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._slots: list[int] = []
        self._live = self._unstarted = self._failed = self._skipped = self._cut = 0
        self._last = -1
        self._turn_ends = math.inf
        self._slot_time = SlotTime()

    def start(self) -> None:
        """Opens the source and starts the first workers; what `iter(data)` raises leaves from here."""
        if self.stopped:
            return
        self.loop = asyncio.get_running_loop()
        # A loop that is not built on asyncio's may keep one time for a whole turn (uvloop does): useless inside of one.
        self._now = self.loop.time if isinstance(self.loop, asyncio.BaseEventLoop) else time.monotonic
        self._began = self._now()
        self._slot_time.open(self._began)
        apart = self._context.copy()
        if hasattr(type(self._data), "__aiter__"):
            source = self._source = AsyncSource(self._data, lambda: self._unstarted, self._fill)
            self._feeder = self._task(self._feed(source), apart)
            self._feeder.add_done_callback(self._feeder_gone)
        else:
            self._source = SyncSource(self._data, apart)
        self.started = True
        self._tick()
        self._fill()

    def stats(self) -> Stats:
        """A snapshot, taken in O(1)."""
        if not self.started:
            return Stats(0, 0, 0, 0, 0, 0, 0, 0, 0, self._slot_time.seconds())
        self._account()
        running = self._live - self._unstarted
        begun = self._last + 1
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
            slot_seconds=self._slot_time.seconds(),
        )

    def set_limit(self, limit: int) -> None:
        """Another number of slots; what runs goes on."""
        self._change(limit=limit)

    def pause(self, paused: bool) -> None:
        """Whether starts are held back."""
        self._change(_paused=paused)

    def refill(self) -> None:
        """To be called after a delivery when `full`."""
        self._fill()

    def drain(self) -> None:
        """Takes no more input; what was taken is run to its end."""
        if not self.started:
            self.stop()
            return
        self._close_source()
        self._change(_paused=False)

    def stop(self, error: BaseException | None = None) -> None:
        """Nothing starts any more; what runs is cancelled, once. A KeyboardInterrupt or its like outranks other errors."""
        if error is not None and (self.error is None or isinstance(self.error, Exception) > isinstance(error, Exception)):
            self.error = error
        self.stopped = self.shut = True
        if self.started and self.loop.is_running():
            self._account()
            if not self._cancelled:
                self._cancelled = True
                self._cancel_running()
        self._end_if_over()

    async def finish(self) -> None:
        """Waits until no task of the run is alive. A cancel of the waiting task stops the run first."""
        cancelled = None
        while not self.ended:
            door = _Door(loop=self.loop)
            door.engine = self
            self._doors.append(door)
            try:
                await door
            except asyncio.CancelledError as error:
                cancelled = error
                self._cancelled_from_outside()
        if cancelled is not None and (self.error is None or isinstance(self.error, Exception)):
            raise cancelled

    def runs(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether the task is a worker of this run."""
        return task in self._workers

    def _cancelled_from_outside(self) -> None:
        self._outside_cancels += 1
        if self._outside_cancels > 1:
            self._cancel_running()
        self.stop()

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

    def _change(self, **state: Any) -> None:
        if self.started:
            self._account()
        for name, value in state.items():
            setattr(self, name, value)
        self._fill()

    def _fill(self) -> None:
        """Starts workers until the slots, the window or the input are used up. Any change of state ends here."""
        if not self.started or self.ended:
            return
        self._account()
        dry = self._source.ended and not self._source.waiting
        room = self._room()
        self.shut = self.stopped or self._paused or dry or self._live > self.limit or room < 0
        if not self.shut:
            free = min(self.limit - self._live, room)
            wanted = self._source.available(free + self._unstarted) - self._unstarted
            for _ in range(min(wanted, _BATCH)):
                self._spawn()
            if wanted > _BATCH:
                self.loop.call_soon(self._fill)
            room = self._room()
        self.full = self._live < self.limit and room <= 0 and not dry
        if self._outbox is not None:
            self._outbox.spare = self._outbox.held() + room
        self._end_if_over()

    def _room(self) -> int:
        """How many more workers the window has room for; below 0 after the limit was lowered."""
        if self._outbox is None:
            return sys.maxsize
        return self.limit + self._buffer(self.limit) - self._outbox.held() - self._live

    def _spawn(self) -> None:
        context = self._context.copy()
        # A heap keeps the numbers compact: a new one only when all below are taken.
        call = Call(heappop(self._slots) if self._slots else self._live)
        self._live += 1
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

    async def _work(self, call: Call, context: Context) -> None:
        """Runs one item after the other."""
        if self._starting:  # an eager task factory runs us inside of create_task
            await _next_turn()
        self._unstarted -= 1
        function, results = self._function, self.results
        now, began = self._now, self._began
        put = None if self._outbox is None else self._outbox.put
        plain = self._verdicts.value is None
        # What tells a clean context: an empty one is false, which is all but free to test; isolated ones never are clean.
        root = object() if self._isolate else _root(context) if context else None
        cancelling = call.task.cancelling
        awaitable: object = NOT_CALLED
        looked = now()
        stride = left = 1
        try:
            if self.shut:
                return
            for index, item in self._source.items:
                self._last = call.index = index
                if put is None:
                    results.append(None)
                if not plain:
                    call.item = item
                    call.started = now() - began
                try:
                    awaitable = function(item)
                    value = await awaitable
                except BaseException as error:
                    self._fail(call, item, error, awaitable)
                    awaitable = NOT_CALLED
                else:
                    if not plain or value is SKIP:
                        self._succeed(call, value)
                    elif put is None:
                        results[index] = value
                    elif put(index, value):
                        self.shut = True
                # Another item may follow only in a worker that carries no trace of this one.
                if self.shut or cancelling() or (context if root is None else _root(context) is not root):
                    return
                left -= 1
                if not left:
                    before, looked = looked, now()
                    if self._turn_is_over(looked):
                        return
                    stride = left = min(2 * stride, _STRIDE) if looked - before < _TURN / 4 else 1
            else:
                self._source.ran_dry()
        except BaseException as error:
            self._source_failed(error)
        finally:
            self._leave(call)

    def _turn_is_over(self, now: float) -> bool:
        if now > self._turn_ends:
            return True
        if self._turn_ends == math.inf:
            self._turn_ends = now + _TURN
            self.loop.call_soon(self._new_turn)
        return False

    def _new_turn(self) -> None:
        self._turn_ends = math.inf

    def _succeed(self, call: Call, value: Any) -> None:
        call.elapsed = self._now() - self._began - call.started
        if value is SKIP:
            self._skipped += 1
        verdict = value
        try:
            if self._verdicts.value is not None:
                verdict = self._verdicts.value(call, value)
        except Exception as error:
            broken = CallbackError("callback", call.index)
            broken.__cause__ = error
            self.stop(broken)
        except BaseException as error:
            self.stop(error)
        self._settle(call.index, verdict)

    def _fail(self, call: Call, item: Any, error: BaseException, awaitable: object) -> None:
        if not self.loop.is_running():  # nobody threw this: a dead loop's coroutines are being collected
            self.stopped = self.shut = True
            return
        if self._cancelled and isinstance(error, asyncio.CancelledError):
            self._cut += 1
            return
        self._failed += 1
        failure = as_failure(self._function, call.index, error, awaitable)
        if not isinstance(failure, Exception):
            self.stop(failure)
            return
        call.item = item
        call.elapsed = self._now() - self._began - call.started
        verdict = self._verdicts.error(call, failure, self._last + 2 - self._live + self._unstarted)
        if isinstance(verdict, Halt):
            self.stop(verdict.error)
        else:
            self._settle(call.index, verdict)

    def _settle(self, index: int, value: Any) -> None:
        self.holes = self.holes or value is SKIP
        if self._outbox is None:
            self.results[index] = value
        elif self._outbox.put(index, value):
            self.shut = True

    def _source_failed(self, error: BaseException) -> None:
        if not self.loop.is_running():
            return
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
        self._fill()

    def _leave(self, call: Call) -> None:
        self._account()
        del self._workers[call.task], calls[call.task]
        heappush(self._slots, call.slot)
        self._live -= 1
        self._fill()

    def _gone(self, task: asyncio.Task[None]) -> None:
        """Also for a worker that somebody cancelled before its first step: its code never ran."""
        call = self._workers.get(task)
        if call is not None:
            self._unstarted -= 1
            self._leave(call)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.stop(error)

    def _end_if_over(self) -> None:
        if self.ended or self._live or self._feeder is not None:
            return
        if not self.stopped and not (self._source.ended and not self._source.waiting):
            return
        self.ended = True
        if self._ticker is not None:
            self._ticker.cancel()
        if self._observer is not None:
            self._observer.close(self.stats())
        for door in self._doors:
            if not door.done():
                door.set_result(None)
        if self._outbox is not None:
            self._outbox.wake()

    def _tick(self) -> None:
        if self._observer is not None:
            self._observer.update(self.stats())
            self._ticker = self.loop.call_later(_TICK, self._tick)

    def _account(self) -> None:
        self._slot_time.book(self._now(), self._live, self.limit, self._why_idle())

    def _why_idle(self) -> str:
        if self._paused or self.full:
            return "consumer"
        return "source" if self._source.pending and not self.stopped else "idle"
